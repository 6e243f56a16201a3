"""`/experiments` and `/outcomes`: an online A/B test from its definition to its verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.exceptions import HTTPException

from evaluation.analyze import rounded
from evaluation.experiment import Experiment
from server.console.address import policy_of
from server.errors import TYPES, InvalidField, Unknown
from server.experiments import Experiments, Running
from server.keys import Caller
from server.outcomes import take, take_all
from server.privacy import forget
from server.teachers import Teachers
from server.wire import (
    ErasedReply,
    ErrorDetail,
    ErrorReply,
    ExperimentReply,
    ExperimentsReply,
    Name,
    OutcomeBatchReply,
    OutcomeBatchRequest,
    OutcomeItem,
    OutcomeReply,
    OutcomeRequest,
    RampRequest,
    StopRequest,
)

router = APIRouter(responses={status: {"model": ErrorReply} for status in (400, 404, 409, 413, 422, 503)})


def tenant_of(request: Request) -> str:
    """Whose request it is; all of a server without keys are one tenant's."""
    caller: Caller = request.scope["state"]["caller"]
    return caller.tenant


# Dependencies are coroutines: FastAPI hands others to a thread, which costs more than what they look up.
async def _tenant(request: Request) -> str:
    return tenant_of(request)


async def _experiments(request: Request) -> Experiments:
    experiments: Experiments = request.app.state.experiments
    return experiments


async def _loaded(request: Request) -> dict[str, str]:
    """sha256 -> id of the teachers that arms may name."""
    teachers: Teachers = request.app.state.teachers
    return teachers.loaded()


async def no_foreign_page(request: Request) -> None:
    """A page of another site can make a browser send a POST without a body, and that is enough to stop an experiment. A browser says in
    Sec-Fetch-Site where a page is from; where it does not (without TLS), Origin is held against Host, which proxies change."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if (site is None and foreign) or site not in (None, "none", "same-origin"):
        raise HTTPException(403, "a page of another site may not do this")


TenantOf = Annotated[str, Depends(_tenant)]
ExperimentsOf = Annotated[Experiments, Depends(_experiments)]
LoadedOf = Annotated[dict[str, str], Depends(_loaded)]


@router.post("/experiments", status_code=201)
async def post_experiments(
    body: Experiment, response: Response, tenant: TenantOf, experiments: ExperimentsOf, loaded: LoadedOf
) -> ExperimentReply:
    """Start an experiment. The same definition again changes nothing (200); another one under the same id is a conflict."""
    arms = []
    for index, arm in enumerate(body.arms):
        try:
            arms.append(arm if arm.teacher is None else arm.model_copy(update={"teacher": resolve(arm.teacher, loaded)}))
        except ValueError as error:
            raise InvalidField(f"arms.{index}.teacher", str(error)) from None
    running, new = await experiments.create(tenant, body.model_copy(update={"arms": tuple(arms)}))
    if not new:
        response.status_code = 200
    return _reply(running)


@router.get("/experiments")
async def get_experiments(tenant: TenantOf, experiments: ExperimentsOf) -> ExperimentsReply:
    """All experiments, oldest first."""
    return ExperimentsReply(experiments=tuple(_reply(running) for running in experiments.of(tenant)))


@router.get("/experiments/{name}")
async def get_experiment(name: str, tenant: TenantOf, experiments: ExperimentsOf) -> ExperimentReply:
    """One experiment as it stands."""
    return _reply(experiments.named(tenant, name))


@router.post("/experiments/{name}/ramp")
async def post_ramp(name: str, body: RampRequest, tenant: TenantOf, experiments: ExperimentsOf) -> ExperimentReply:
    """Let more units take part; nobody who is in changes the arm."""
    return _reply(await experiments.ramp(experiments.named(tenant, name), body.enrolled))


@router.post("/experiments/{name}/stop", dependencies=[Depends(no_foreign_page)])
async def post_stop(name: str, tenant: TenantOf, experiments: ExperimentsOf, body: StopRequest | None = None) -> ExperimentReply:
    """End an experiment: no request enters any more, outcomes of those that did are still taken."""
    return _reply(await experiments.stop(experiments.named(tenant, name), (body or StopRequest()).reason))


@router.get("/experiments/{name}/report")
async def get_report(
    name: str,
    tenant: TenantOf,
    experiments: ExperimentsOf,
    accept: Annotated[str, Header()] = "",
    form: Annotated[Literal["json", "html"] | None, Query(alias="format")] = None,
) -> Response:
    """The verdict and what it rests on, as JSON or (`?format=html`, or a browser) as a page. The same log gives the same bytes."""
    running = experiments.named(tenant, name)
    try:
        report = await experiments.report(running)
    except ValueError as error:
        raise Unknown(f"experiment {running.definition.id} has no report yet: {error}") from None
    if (form or ("html" if "text/html" in accept else "json")) == "html":
        from evaluation.ab_html import page

        html = page(report)
        return Response(html, media_type="text/html", headers={"Content-Security-Policy": policy_of(html)})
    return Response(json.dumps(rounded(report.model_dump(mode="json")), indent=1, allow_nan=False) + "\n", media_type="application/json")


@router.get("/experiments/{name}/log")
async def get_log(name: str, tenant: TenantOf, experiments: ExperimentsOf) -> Response:
    """The experiment's log as JSON lines, as `python -m evaluation.analyze` reads it."""
    return Response(await experiments.log_lines(experiments.named(tenant, name)), media_type="application/x-ndjson")


@router.post("/outcomes")
async def post_outcomes(
    body: OutcomeRequest, tenant: TenantOf, experiments: ExperimentsOf, idempotency_key: Annotated[Name | None, Header()] = None
) -> OutcomeReply:
    """Report what became of a request or a unit. On reply it is on the disk; sent again, it counts once."""
    if idempotency_key is not None:
        if body.idempotency_key not in (None, idempotency_key):
            raise InvalidField("idempotency_key", "differs from the header Idempotency-Key")
        body = body.model_copy(update={"idempotency_key": idempotency_key})
    return await take(body, experiments, tenant)


@router.post("/outcomes/batch")
async def post_outcomes_batch(
    body: OutcomeBatchRequest, request: Request, tenant: TenantOf, experiments: ExperimentsOf
) -> OutcomeBatchReply:
    """Report several at once. A body of another shape is refused whole; of one that has it each outcome is taken or refused by itself. Sent
    again, what was taken counts once. An idempotency_key belongs to an outcome, not into a header."""
    if "idempotency-key" in request.headers:
        raise InvalidField("Idempotency-Key", "of several outcomes each has its own idempotency_key")
    items = []
    for found in await take_all(body.items, experiments, tenant):
        if isinstance(found, HTTPException):
            detail = ErrorDetail(type=TYPES[found.status_code], message=found.detail, request_id=request.state.request_id)
            items.append(OutcomeItem(status=found.status_code, outcome=None, error=detail))
        else:
            items.append(OutcomeItem(status=200, outcome=found, error=None))
    return OutcomeBatchReply(items=tuple(items))


@router.delete("/units/{unit:path}")
async def delete_unit(unit: str, tenant: TenantOf, experiments: ExperimentsOf) -> ErasedReply:
    """Erase what is kept of a unit, on every replica: texts, shadows, exposures and outcomes. Reports then count without it. For keys with
    the scope `admin`."""
    return ErasedReply(erased=await forget(experiments.events, tenant, unit))


def resolve(name: str, loaded: Mapping[str, str]) -> str:
    """The sha256 of the loaded teacher that an arm names: by its sum, at least 8 digits of it, or its id. Raises ValueError."""
    for sha256, teacher_id in loaded.items():
        if name == teacher_id or (len(name) >= 8 and sha256.startswith(name.lower())):
            return sha256
    known = ", ".join(f"{teacher_id} ({sha256[:12]})" for sha256, teacher_id in loaded.items())
    raise ValueError(f"teacher {name[:80]!a} is not loaded; loaded: {known}. Start the server with more: WST_TEACHERS")


def _reply(running: Running) -> ExperimentReply:
    return ExperimentReply(
        id=running.definition.id,
        status=running.status,
        stop_reason=running.stop_reason,
        enrolled=running.enrolled,
        stopped_arms=running.stopped,
        definition=running.definition,
    )
