"""`POST /instruct` and `POST /instruct/batch`: a query in, an instruction and the messages to send to the student out."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from server.errors import InvalidField
from server.experiments import Experiments
from server.line import Instructed, instruct
from server.routes_experiments import ExperimentsOf, TenantOf
from server.settings import ServerSettings
from server.treatment import Entry, treat
from server.wire import ErrorReply, InstructBatchReply, InstructBatchRequest, InstructReply, InstructRequest, TeacherName

router = APIRouter(responses={status: {"model": ErrorReply} for status in (400, 413, 422)})


def _settings(request: Request) -> ServerSettings:
    settings: ServerSettings = request.app.state.settings
    return settings


SettingsOf = Annotated[ServerSettings, Depends(_settings)]


@router.post("/instruct")
async def post_instruct(
    body: InstructRequest,
    request: Request,
    response: Response,
    settings: SettingsOf,
    experiments: ExperimentsOf,
    tenant: TenantOf,
) -> InstructReply:
    """Write an instruction for one query. Status 200 also where the teacher failed: then `source` is "passthrough"."""
    _check(body, settings, "query")
    reply = await _serve(body, request, request.state.request_id, experiments, tenant)
    if reply.degraded is not None:
        response.headers["WST-Degraded"] = reply.degraded
    return reply


@router.post("/instruct/batch")
async def post_instruct_batch(
    body: InstructBatchRequest,
    request: Request,
    response: Response,
    settings: SettingsOf,
    experiments: ExperimentsOf,
    tenant: TenantOf,
) -> InstructBatchReply:
    """Write instructions for several queries. One invalid item refuses the request; one degraded item degrades only itself."""
    if len(body.items) > settings.max_batch_items:
        raise InvalidField("items", f"at most {settings.max_batch_items} items are taken at once")
    for index, item in enumerate(body.items):
        _check(item, settings, f"items.{index}.query")
    request_id = request.state.request_id
    serving = (_serve(item, request, f"{request_id}-{i}", experiments, tenant) for i, item in enumerate(body.items))
    replies = await asyncio.gather(*serving)
    if reasons := sorted({reply.degraded for reply in replies if reply.degraded is not None}):
        response.headers["WST-Degraded"] = ", ".join(reasons)
    return InstructBatchReply(items=tuple(replies), request_id=request_id)


def _check(body: InstructRequest, settings: ServerSettings, field: str) -> None:
    if not body.query.strip():
        raise InvalidField(field, "must not be blank")
    if len(body.query) > settings.max_query_chars:
        raise InvalidField(field, f"is longer than {settings.max_query_chars} characters")


async def _serve(body: InstructRequest, request: Request, request_id: str, experiments: Experiments, tenant: str) -> InstructReply:
    started = perf_counter()
    state = request.app.state
    example = body.example(request_id, state.teacher.task)
    # Without a unit every request is one of its own.
    entry = Entry(body.unit or request_id, body.experiment, body.covariate, body.force_arm)

    async def ask(sha256: str | None) -> tuple[Instructed, TeacherName] | None:
        teacher, engine = state.engines.get(sha256 or state.teacher.sha256, (None, None))
        return None if teacher is None else (await instruct(example, engine), TeacherName(id=teacher.id, sha256=teacher.sha256))

    capture = request.scope["state"].get("capture_text", state.settings.capture_text)
    treated = await treat(example, ask, experiments, tenant=tenant, entry=entry, capture=capture)
    done = treated.instructed
    seconds = {"total": perf_counter() - started, "queue": done.answer.queue_s, "teacher": done.answer.teacher_s}
    return InstructReply(
        instruction=done.instruction.text,
        messages=done.messages,
        source=done.instruction.source,
        teacher=treated.teacher,
        request_id=treated.request_id,
        experiment=treated.experiment,
        degraded=done.degraded,
        timings_ms={name: round(1000 * s, 3) for name, s in seconds.items()},
    )
