"""The OpenAI-compatible proxy: an app changes its `base_url`, and each user turn goes to the student with an instruction.

The request is read, the teacher asked, the instruction put into the last user turn, the rest forwarded as it stands; the answer
comes back byte for byte, streamed as it arrives. Whatever is not a user's text (results of tools, pictures alone) is forwarded untouched,
with the reason in `WST-Degraded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from server.budgets import Held
from server.errors import NOT_JSON, InvalidField
from server.openai_body import OWN_FIELD, NotJSONError, Options, ProxiedBody, TooComplexError, read
from server.passing import PassedOn, Prepared
from server.routes_instruct import budgets_of, caller_of, deadline_of, desk_of, refuse_failure, refuse_spent, treated
from server.treatment import Entry
from server.wire import ErrorReply
from student_clients.budget import Price
from student_clients.token_bounds import BYTES_A_TOKEN, TOKENS_A_PROMPT, answer_tokens_at_most
from student_clients.usage import Usage

router = APIRouter(prefix="/v1", responses={status: {"model": ErrorReply} for status in (400, 404, 413, 422, 502, 504)})

OPTION_HEADERS = {f"wst-{name}": name for name in Options.model_fields}
READ_ON_THE_LOOP = 1 << 16
"""Bytes of a body that is read without handing it to a thread."""
SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


@router.post("/chat/completions")
async def post_chat_completions(request: Request) -> Response:
    """OpenAI's chat completions: instructs the last user turn and forwards the rest as it stands; a stream where `stream` asks for one."""
    return await _forwarded(request, "chat/completions")


@router.post("/responses")
async def post_responses(request: Request) -> Response:
    """OpenAI's responses, the same way: the last user item of `input` is instructed."""
    return await _forwarded(request, "responses")


@router.get("/models")
async def get_models(request: Request) -> dict[str, Any]:
    """The students, as OpenAI lists models."""
    return {"object": "list", "data": [_model(name) for name in request.app.state.students]}


@router.get("/models/{name:path}")
async def get_model(name: str, request: Request) -> Response:
    """One student, as OpenAI describes a model."""
    if name not in request.app.state.students:
        raise HTTPException(404, "this server has no such model; GET /v1/models lists them")
    return JSONResponse(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "wst"}


async def _forwarded(request: Request, path: str) -> Response:
    started = perf_counter()
    body = await _read(request)
    options = _options(request, body.options)
    name = body.fields.get("model")
    if not isinstance(name, str):
        raise InvalidField("model", "must name one of the models that GET /v1/models lists")
    if name not in request.app.state.students:
        raise HTTPException(404, "this server has no such model; GET /v1/models lists them")
    held, settle = await _reserve(request, body, name)
    prepared = await _prepare(request, body, options, held.refused if held is not None else None)
    return PassedOn(
        name, request.app.state.students[name], path, body.fields, prepared,
        headers=_onward(request), request_id=request.state.request_id, started=started, settle=settle,
        saw=_snapshots(request, name),
    )  # fmt: skip


def _snapshots(request: Request, student: str) -> Callable[[tuple[str, str]], None]:
    """Takes note of the student's version for the mode of the caller's key."""
    caller, modes = caller_of(request), request.app.state.modes

    def saw(snapshot: tuple[str, str]) -> None:
        mode = modes.of(caller.tenant, caller.id)
        if mode is not None and mode.experiment is not None and modes.is_new_snapshot(mode, student, snapshot):
            modes.take_note(mode, student, snapshot, request.app.state.teachers.default.teacher.sha256)

    return saw


async def _reserve(request: Request, body: ProxiedBody, name: str) -> tuple[Held | None, Callable[[Usage | None], None]]:
    """(what the request has set aside of its key's budgets, how to book what it cost). Raises HTTPException."""
    caller, budgets = caller_of(request), budgets_of(request)
    price: Price | None = request.app.state.settings.students[name].price
    if price is None and caller.dollars_per_day is not None:
        raise HTTPException(403, "this key has a budget in dollars, and the server knows no price of this model (students.NAME.price)")
    most = 0 if price is None else price.nano(TOKENS_A_PROMPT + len(body.raw), answer_tokens_at_most(body.fields))
    held = await budgets.reserve(caller, tokens=-(-len(body.raw) // BYTES_A_TOKEN), nano=most)
    refuse_spent(request, held)

    def settle(usage: Usage | None) -> None:
        if usage is not None:  # else it may have been billed: what was set aside stays so
            cost = 0 if price is None else price.nano(usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens)
            budgets.settle(held, tokens=usage.prompt_tokens + usage.completion_tokens, nano=cost)

    return held, settle


async def _read(request: Request) -> ProxiedBody:
    # A page in a browser can send text/plain anywhere without asking, and JSON only where the server allows it.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(400, NOT_JSON)
    content = await request.body()
    try:
        # Off the event loop where it takes longer than a thread costs.
        return read(content) if len(content) <= READ_ON_THE_LOOP else await asyncio.to_thread(read, content)
    except NotJSONError:
        raise HTTPException(400, NOT_JSON) from None
    except TooComplexError as error:
        raise HTTPException(422, str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ascii(".".join([OWN_FIELD, *map(str, first["loc"])])[:200])[1:-1]
        raise InvalidField(where, first["msg"]) from None


def _options(request: Request, given: Options) -> Options:
    """What the body's own field says, and over it the headers."""
    changes: dict[str, Any] = {}
    for header, name in OPTION_HEADERS.items():
        value = request.headers.get(header)
        if value is None:
            continue
        if name == "instruct":
            if value.lower() not in SWITCH:
                raise InvalidField("WST-Instruct", "must be on or off")
            changes[name] = SWITCH[value.lower()]
        elif not 1 <= len(value) <= 200:
            raise InvalidField(header, "must have 1 to 200 characters")
        else:
            changes[name] = value
    return given.model_copy(update=changes) if changes else given


async def _prepare(request: Request, body: ProxiedBody, options: Options, spent: str | None) -> Prepared:
    """The body to send, and what it carries. `spent`: why the budget allows no instruction."""
    state = request.app.state
    model = state.settings.students[body.fields["model"]].model
    if not options.instruct:
        return Prepared(body.uninstructed(model), None, degraded="opted_out")
    if body.turn is None:
        return Prepared(body.uninstructed(model), None, degraded=body.bypass)
    if len(body.turn.query) > state.settings.max_query_chars:
        return Prepared(body.uninstructed(model), None, degraded="query_too_long")
    desk = desk_of(request, options.teacher)
    example = body.turn.example(request.state.request_id, options.task or desk.teacher.task)
    user = body.fields.get("user")
    unit = options.unit or (user.encode("utf-8", "replace").decode()[:200] if isinstance(user, str) and user else request.state.request_id)
    done_for = await treated(request, example, desk, deadline_of(request), Entry(unit, options.experiment), spent)
    done = done_for.instructed
    refuse_failure(caller_of(request), done.degraded)
    about: dict[str, Any] = {"source": done.instruction.source, "teacher_s": done.answer.seconds}
    if done_for.experiment is not None:
        about["headers"] = {"WST-Experiment": done_for.experiment.id, "WST-Arm": quote(done_for.experiment.arm)}
        about["headers"]["WST-Outcome-Id"] = done_for.request_id
    if not done.instruction.text:
        return Prepared(body.uninstructed(model), None, degraded=done.degraded, **about)
    return Prepared(body.instructed(done.instruction.text, model), body.uninstructed(model), **about)


def _onward(request: Request) -> dict[str, str]:
    """The caller's headers that the student gets; the request id is the one that our log has."""
    onward = {name: value for name, value in request.headers.items() if not name.startswith("wst-") and value.isascii()}
    return {**onward, "x-request-id": request.state.request_id}
