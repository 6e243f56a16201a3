"""`POST /instruct` and `POST /instruct/batch`: a query in, an instruction and the messages to send to the student out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from time import perf_counter
from typing import Any, get_type_hints

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from exchange.records import PublicExample
from server.budgets import UNKNOWN, Budgets, Held
from server.engine import FAILURES
from server.errors import InvalidField, error_reply
from server.experiments import Experiments
from server.keys import Caller
from server.line import Instructed, instruct, passed_through
from server.routes_experiments import tenant_of
from server.settings import ServerSettings
from server.teachers import Desk, Teachers
from server.treatment import Ask, Entry, Treated, treat
from server.wire import ErrorReply, InstructBatchReply, InstructBatchRequest, InstructReply, InstructRequest, TeacherName
from student_clients.token_bounds import BYTES_A_TOKEN


class BodyRoute(APIRoute):
    """For handlers of `(body, request)`: a body that is what it should be goes straight to its handler. FastAPI's general way there
    (dependencies, parameters, exit stacks) is a sixth of a request's cost; what is wrong with any other body that way tells."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        usual, handler = super().get_route_handler(), self.endpoint
        model: type[BaseModel] = get_type_hints(handler)["body"]

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return await usual(request)
            try:
                body = model.model_validate(await request.json())
            except (ValueError, RecursionError):
                return await usual(request)
            response: Response = await handler(body, request)
            return response

        return handle


router = APIRouter(responses={status: {"model": ErrorReply} for status in (400, 413, 422)}, route_class=BodyRoute)


def desk_of(request: Request, name: str | None) -> Desk:
    """The teacher that a caller names, None = the default one. Raises InvalidField."""
    teachers: Teachers = request.app.state.teachers
    desk = teachers.get(name)
    if desk is None:
        raise InvalidField("WST-Teacher", "this server has no such teacher")
    return desk


def deadline_of(request: Request) -> float | None:
    """Seconds that the caller leaves us, from `WST-Timeout-Ms`: what is left of its own time, not a time of day. Raises InvalidField."""
    text = request.headers.get("wst-timeout-ms")
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,6}", text):
        raise InvalidField("WST-Timeout-Ms", "must be a whole number of milliseconds, 1 to 9999999")
    return int(text) / 1000


def caller_of(request: Request) -> Caller:
    """Whose key came with the request."""
    caller: Caller = request.state.caller
    return caller


def refuse_failure(caller: Caller, degraded: str | None) -> None:
    """Raises a 503 where the teacher failed and this caller would rather hear of it than have the raw messages."""
    if caller.on_failure == "error" and degraded in FAILURES:
        raise HTTPException(503, f"no instruction: {degraded}", headers={"Retry-After": "1", "WST-Degraded": degraded})


def budgets_of(request: Request) -> Budgets:
    """The keys' budgets."""
    budgets: Budgets = request.app.state.budgets
    return budgets


def refuse_spent(request: Request, held: Held | None) -> None:
    """Raises a 429, or a 503 where the budget cannot be asked, for a caller that would rather hear of it than have the raw messages."""
    if held is None or held.refused is None or caller_of(request).on_failure != "error":
        return
    told = {"WST-Degraded": held.refused}
    if held.refused == UNKNOWN:
        raise HTTPException(503, "the budget of this key cannot be asked now; try again", headers={"Retry-After": "1", **told})
    after = str(budgets_of(request).retry_after_s())
    raise HTTPException(429, "the budget of this key for today (UTC) is spent", headers={"Retry-After": after, **told})


async def _spent(request: Request) -> str | None:
    """Why the caller's budget allows no instruction; None where it does. Raises HTTPException."""
    held = await budgets_of(request).reserve(caller_of(request), tokens=-(-request.scope["state"]["read_bytes"] // BYTES_A_TOKEN))
    refuse_spent(request, held)
    return None if held is None else held.refused


# What a request needs beside its body is looked up in the handlers: FastAPI runs a dependency that is no coroutine in a thread, and four
# of those were a third of a request's cost. Replies are written once, from records that were checked when they were made.


@router.post("/instruct", response_model=InstructReply)
async def post_instruct(body: InstructRequest, request: Request) -> Response:
    """Write an instruction for one query. Status 200 also where the teacher failed: then `source` is "passthrough"."""
    caller, deadline_s = caller_of(request), _teacher_and_deadline(request)
    _check(body, request)
    spent = await _spent(request)
    desk = desk_of(request, request.headers.get("wst-teacher"))  # no earlier: a reload meanwhile would end the one taken
    reply = await _serve(body, request, request.state.request_id, desk, deadline_s, spent)
    refuse_failure(caller, reply.degraded)
    return _written(reply, reply.degraded)


@router.post("/instruct/batch", response_model=InstructBatchReply)
async def post_instruct_batch(body: InstructBatchRequest, request: Request) -> Response:
    """Write instructions for several queries. One invalid item refuses the request, before any is served; one that fails degrades only
    itself, and is an error in its place for a key that wants errors."""
    caller, deadline_s = caller_of(request), _teacher_and_deadline(request)
    most = request.app.state.settings.max_batch_items
    if len(body.items) > most:
        raise InvalidField("items", f"at most {most} items are taken at once")
    for index, item in enumerate(body.items):
        _check(item, request, f"items.{index}.")
    request_id, spent = request.state.request_id, await _spent(request)
    desk = desk_of(request, request.headers.get("wst-teacher"))
    serving = (_serve(item, request, f"{request_id}-{i}", desk, deadline_s, spent) for i, item in enumerate(body.items))
    replies = await asyncio.gather(*serving)
    request.scope["state"]["apart_s"] = None  # its items waited for the teacher together
    reasons = sorted({reply.degraded for reply in replies if reply.degraded is not None})
    reply = InstructBatchReply(items=tuple(_or_error(caller, reply) for reply in replies), request_id=request_id)
    return _written(reply, ", ".join(reasons) or None)


def _teacher_and_deadline(request: Request) -> float | None:
    """Refuses a teacher that is none before anything is set aside; the deadline."""
    desk_of(request, request.headers.get("wst-teacher"))
    return deadline_of(request)


def _written(reply: InstructReply | InstructBatchReply, degraded: str | None) -> Response:
    headers = None if degraded is None else {"WST-Degraded": degraded}
    return Response(reply.model_dump_json(), media_type="application/json", headers=headers)


def _or_error(caller: Caller, reply: InstructReply) -> InstructReply | ErrorReply:
    """One item of a batch for this caller."""
    try:
        refuse_failure(caller, reply.degraded)
    except HTTPException as error:
        return error_reply(error.status_code, error.detail, reply.request_id)
    return reply


def _check(body: InstructRequest, request: Request, at: str = "") -> None:
    """What can be told of a request before anything is done for it. `at`: where it stands in a batch."""
    settings: ServerSettings = request.app.state.settings
    if not body.query.strip():
        raise InvalidField(f"{at}query", "must not be blank")
    if len(body.query) > settings.max_query_chars:
        raise InvalidField(f"{at}query", f"is longer than {settings.max_query_chars} characters")
    if body.force_arm is None or body.experiment is None:
        return
    experiments: Experiments = request.app.state.experiments
    running = experiments.find(tenant_of(request), body.experiment)
    names = () if running is None else tuple(arm.name for arm in running.definition.arms)
    if names and body.force_arm not in names:
        raise InvalidField(f"{at}force_arm", f"{body.force_arm!r}: no such arm; known: {', '.join(sorted(names))}")


async def treated(
    request: Request, example: PublicExample, desk: Desk, deadline_s: float | None, entry: Entry, spent: str | None = None
) -> Treated:
    """What a request gets: its arm's treatment where it takes part in an experiment, else the instruction of `desk`'s teacher, who is not
    asked where the budget is `spent`."""
    state, tenant = request.app.state, tenant_of(request)
    teachers: Teachers = state.teachers
    experiments: Experiments = state.experiments

    async def ask(sha256: str | None) -> tuple[Instructed, TeacherName] | None:
        asked = desk if sha256 is None else teachers.by_sha256(sha256)
        if asked is None:
            return None
        if spent is not None:
            done = passed_through(example, spent)
        else:
            done = await instruct(example, asked, tenant=tenant, deadline_s=deadline_s)
        return done, TeacherName(id=asked.teacher.id, sha256=asked.teacher.sha256)

    entry = _by_mode(request, entry, example, ask)
    capture = state.settings.capture_text or caller_of(request).capture_text
    got = await treat(example, ask, experiments, tenant=tenant, entry=entry, capture=capture)
    return _noted(request, got)


def _noted(request: Request, got: Treated) -> Treated:
    """For the metrics, and for the request's line in the log."""
    done, about = got.instructed, got.experiment
    arm = None if about is None else (tenant_of(request), about.id, about.arm)
    request.app.state.metrics.instructed(done.instruction.source, done.degraded, done.answer.seconds, arm)
    state = request.scope["state"]
    state["apart_s"] = (state.get("apart_s") or 0.0) + done.answer.seconds
    state["about"] = {"source": done.instruction.source, "degraded": done.degraded}
    return got


def _by_mode(request: Request, entry: Entry, example: PublicExample, ask: Ask) -> Entry:
    """How the mode of the caller's key changes what a request gets; a mode that instructs leaves a named experiment its way."""
    caller = caller_of(request)
    mode = request.app.state.modes.of(caller.tenant, caller.id)
    if mode is None:
        return entry
    if mode.setting.mode == "shadow":

        async def write() -> tuple[Instructed, str]:
            asked = await ask(None)
            assert asked is not None
            return asked[0], asked[1].sha256

        request.app.state.shadows.begin(caller.tenant, caller.id, example.id, entry.unit, write)
    if mode.setting.mode in ("off", "shadow"):
        return replace(entry, raw=f"mode_{mode.setting.mode}")
    return entry if entry.experiment is not None else replace(entry, experiment=mode.experiment, mode=True)


async def _serve(
    body: InstructRequest, request: Request, request_id: str, desk: Desk, deadline_s: float | None, spent: str | None
) -> InstructReply:
    started = perf_counter()
    # Without a unit every request is one of its own.
    entry = Entry(body.unit or request_id, body.experiment, body.covariate, body.force_arm)
    done_for = await treated(request, body.example(request_id, desk.teacher.task), desk, deadline_s, entry, spent)
    done = done_for.instructed
    seconds = {"total": perf_counter() - started, "queue": done.answer.queue_s, "teacher": done.answer.teacher_s}
    return InstructReply(
        instruction=done.instruction.text,
        messages=done.messages,
        source=done.instruction.source,
        teacher=done_for.teacher,
        request_id=done_for.request_id,
        experiment=done_for.experiment,
        degraded=done.degraded,
        timings_ms={name: round(1000 * s, 3) for name, s in seconds.items()},
    )
