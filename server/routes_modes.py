"""`/modes`: how each key is served, switched live. For keys with the scope `admin`, and within their tenant."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from exchange.records import Record
from server.errors import InvalidField, Unknown
from server.experiments import Experiments
from server.keys import KeyRing
from server.modes import EVERYBODY, Modes, ModeSetting, ModeState
from server.routes_experiments import TenantOf
from server.shadow import shadow_topic
from server.wire import ErrorReply

router = APIRouter(prefix="/modes", responses={status: {"model": ErrorReply} for status in (400, 404, 413, 422, 503)})


class ModeReply(Record):
    """A key's mode as it stands."""

    key: str
    mode: str
    reason: str
    since: float | None
    """Seconds since 1970; null where nobody set a mode."""
    experiment: str | None
    """Whose report (`GET /experiments/ID/report`) says what instructions are worth."""
    instructed_share: float
    """Share of the units that get instructions now."""
    benefit: bool
    """Whether the holdback has shown a benefit since the mode began."""
    alarm: str | None
    """What the holdback says where it shows no benefit any more."""
    setting: ModeSetting | None


class ModesReply(Record):
    """The keys whose mode was set."""

    modes: tuple[ModeReply, ...]


async def _modes(request: Request) -> Modes:
    modes: Modes = request.app.state.modes
    return modes


ModesOf = Annotated[Modes, Depends(_modes)]


async def _key(key: str, request: Request, tenant: TenantOf) -> str:
    """The key's id. Raises Unknown for one that does not exist or is another tenant's."""
    keys: KeyRing | None = request.app.state.keys
    if keys is None:
        if key == EVERYBODY:
            return ""
        raise Unknown(f"this server has no keys; its one mode is /modes/{EVERYBODY}")
    found = keys.named(key)
    if found is None or found.tenant != tenant:
        raise Unknown("there is no key of this id; `python -m server.keys list` shows them")
    return key


KeyOf = Annotated[str, Depends(_key)]


@router.get("")
async def get_modes(modes: ModesOf, tenant: TenantOf) -> ModesReply:
    """The modes that were set."""
    return ModesReply(modes=tuple(_reply(modes, one.key, one) for one in modes.all() if one.tenant == tenant))


@router.get("/{key}")
async def get_mode(key: KeyOf, modes: ModesOf, tenant: TenantOf) -> ModeReply:
    """One key's mode."""
    return _reply(modes, key, modes.of(tenant, key))


@router.put("/{key}")
async def put_mode(key: KeyOf, body: ModeSetting, request: Request, modes: ModesOf, tenant: TenantOf) -> ModeReply:
    """Switch a key's mode; every replica follows within a second."""
    teacher = request.app.state.teachers.default.teacher.sha256
    try:
        return _reply(modes, key, await modes.set(tenant, key, body, teacher=teacher, reason="by hand"))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidField(".".join(map(str, first["loc"])) or "mode", first["msg"].removeprefix("Value error, ")) from None


@router.get("/{key}/shadow")
async def get_shadow(key: KeyOf, request: Request, tenant: TenantOf) -> Response:
    """What the teacher wrote in the shadow of this key, as JSON lines."""
    experiments: Experiments = request.app.state.experiments
    events = await experiments.events.read_all(shadow_topic(tenant, key))
    lines = "".join(json.dumps({**event.content, "time": event.time}) + "\n" for event in events)
    return Response(lines, media_type="application/x-ndjson")


def _reply(modes: Modes, key: str, state: ModeState | None) -> ModeReply:
    name = key or EVERYBODY
    if state is None:
        nothing = dict.fromkeys(("since", "experiment", "alarm", "setting"))
        return ModeReply(key=name, mode="on", reason="nobody set it", instructed_share=1.0, benefit=False, **nothing)
    noted, running = modes.noted(state), modes.running(state)
    share = 0.0
    if running is not None and running.status == "running":
        share = running.enrolled * sum(arm.weight for arm in running.definition.arms if not arm.raw)
    return ModeReply(
        key=name, mode=state.setting.mode, reason=state.reason, since=state.since, experiment=state.experiment,
        instructed_share=round(share, 6), benefit=noted.benefit, alarm=noted.alarm, setting=state.setting,
    )  # fmt: skip
