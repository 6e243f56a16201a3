"""Outcomes that apps report: checked against what was served, written once.

An outcome counts for a request, or for a unit of an experiment. It is taken only where that request was served, or that unit entered, for
the same tenant; so nobody writes into another's experiment, and no unit comes from nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Sequence
from typing import cast

from starlette.exceptions import HTTPException

from evaluation.ab_log import LARGEST_VALUE
from server.errors import Conflict, InvalidField, Unavailable, Unknown
from server.experiments import Experiments, event_id
from server.wire import Assignment, OutcomeReply, OutcomeRequest
from store import Event, EventLog

CLOCKS_DIFFER_S = 60.0
"""How far an app's clock may be off ours."""


async def take(outcome: OutcomeRequest, experiments: Experiments, tenant: str) -> OutcomeReply:
    """Write an outcome; on return it is on the disk. Raises InvalidField, Unknown, Conflict, Unavailable, and StoreError where the log
    fails."""
    event = await _event(outcome, experiments, tenant)
    (stored,) = await experiments.events.append([event])
    return _reply(outcome, event, stored)


async def take_all(outcomes: Sequence[OutcomeRequest], experiments: Experiments, tenant: str) -> list[OutcomeReply | HTTPException]:
    """Write those of several outcomes that can be taken, at one go; why not stands in the place of each other one. Raises StoreError where
    the log fails: then none is known to be kept."""
    found = await asyncio.gather(*(_event(outcome, experiments, tenant) for outcome in outcomes), return_exceptions=True)
    replies: list[OutcomeReply | HTTPException] = []
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, HTTPException):
            raise one
    stored = iter(await experiments.events.append([one for one in found if isinstance(one, Event)]))
    for outcome, one in zip(outcomes, found, strict=True):
        try:
            replies.append(_reply(outcome, one, next(stored)) if isinstance(one, Event) else cast("HTTPException", one))
        except Conflict as error:
            replies.append(error)
    return replies


async def _event(outcome: OutcomeRequest, experiments: Experiments, tenant: str) -> Event:
    """The event that an outcome is to be."""
    served = await _served(outcome, experiments, tenant)
    content = served.content
    for name in ("unit", "experiment"):
        given = getattr(outcome, name)
        if given is not None and given != content[name]:
            raise InvalidField(name, f"the request belongs to another {name}")
    value = _value(outcome, experiments, tenant, content["experiment"])
    request_id = None if outcome.request_id is None else content["request_id"]
    facts = {name: content[name] for name in ("unit", "experiment", "arm", "forced")}
    event = Event(
        id=_id(tenant, outcome, request_id),
        topic=served.topic,
        kind="outcome",
        time=time.time(),
        content={"request_id": request_id, **facts, "metric": outcome.metric, "value": value, "key": outcome.idempotency_key},
        subject=served.subject,
    )
    late = _too_late(outcome, served, event.time, experiments, tenant)
    # One that was taken in time may be told again: its sender never saw the reply.
    if late is not None and await experiments.events.get(event.id) is None:
        raise InvalidField("time", late)
    return event


def _reply(outcome: OutcomeRequest, event: Event, stored: Event) -> OutcomeReply:
    """Raises Conflict where another outcome holds the event's place."""
    content = event.content
    if stored.content != content:
        raise Conflict(_conflict(outcome))
    arm = None if content["arm"] is None else Assignment(id=content["experiment"], arm=content["arm"])
    return OutcomeReply(
        request_id=content["request_id"], experiment=arm, metric=outcome.metric, value=content["value"], duplicate=stored is not event
    )


def _too_late(outcome: OutcomeRequest, served: Event, now: float, experiments: Experiments, tenant: str) -> str | None:
    """Why an outcome lies outside its attribution window; None where it does not. Raises InvalidField for a time that cannot be."""
    happened = now if outcome.time is None else outcome.time
    if happened > now + CLOCKS_DIFFER_S:
        raise InvalidField("time", "lies in the future; it is seconds since 1970")
    if happened < served.time - CLOCKS_DIFFER_S:
        raise InvalidField("time", "lies before what the outcome is about was served; it is seconds since 1970")
    if served.content["experiment"] is None:
        return None
    window = experiments.named(tenant, served.content["experiment"]).definition.attribution_window_s
    if window is None or happened - served.time <= window:
        return None
    return f"the outcome came {happened - served.time:.0f} s after the request, past the attribution window of {window:g} s"


async def _served(outcome: OutcomeRequest, experiments: Experiments, tenant: str) -> Event:
    """The exposure or captured text that the outcome is about."""
    events = experiments.events
    if outcome.request_id is not None:
        for kind in ("request", "text"):
            found = await events.get(event_id(kind, tenant, outcome.request_id))
            if found is not None:
                return found
        _refuse_blindly(events)
        raise Unknown("request_id: no request of this id took part in an experiment or had its text kept, so no outcome is taken")
    if outcome.unit is None or outcome.experiment is None:
        raise InvalidField("request_id", "name a request, or a unit and its experiment")
    topic = experiments.named(tenant, outcome.experiment).topic
    for kind in ("exposure", "forced"):
        found = await events.first(topic, outcome.unit, kind)
        if found is not None:
            return found
    _refuse_blindly(events)
    raise Unknown("unit: this unit has not entered the experiment, so it has no outcome")


def _refuse_blindly(events: EventLog) -> None:
    """Another replica may have served the request; while that cannot be asked, "unknown" would be a guess."""
    if events.redis_error is not None:
        raise Unavailable("this replica has not served the request and cannot ask the others now, nothing was kept; try again")


def _value(outcome: OutcomeRequest, experiments: Experiments, tenant: str, experiment: str | None) -> float:
    value = outcome.value
    if not abs(value) <= LARGEST_VALUE:  # NaN too; a whole number may be too large for a float
        raise InvalidField("value", f"must be a finite number of at most {LARGEST_VALUE:g} in size")
    if experiment is not None:
        definition = experiments.named(tenant, experiment).definition
        metric = definition.reported_metric(outcome.metric)
        if metric is None:
            raise InvalidField("metric", f"experiment {definition.id} takes outcomes of {', '.join(definition.reported_names())}")
        refusal = metric.refusal(float(value))
        if refusal is not None:
            raise InvalidField("value", refusal)
    assert math.isfinite(value)
    return float(value)


def _id(tenant: str, outcome: OutcomeRequest, request_id: str | None) -> str:
    if outcome.idempotency_key is not None:
        return event_id("outcome", tenant, "key", outcome.idempotency_key)
    if request_id is not None:
        return event_id("outcome", tenant, "request", request_id, outcome.metric)
    assert outcome.experiment is not None
    assert outcome.unit is not None
    # Not by the name itself: an id outlives the event that it belongs to (DELETE /units).
    unit = hashlib.sha256(outcome.unit.encode("utf-8", "surrogatepass")).hexdigest()
    return event_id("outcome", tenant, "unit", outcome.experiment, unit, outcome.metric)


def _conflict(outcome: OutcomeRequest) -> str:
    if outcome.idempotency_key is not None:
        return "idempotency_key: another outcome was reported under this key; the first one stands"
    about = "request" if outcome.request_id is not None else "unit"
    return f"another value of this metric was reported for this {about}; the first one stands. Several of them need an idempotency_key each"
