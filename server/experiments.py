"""What the service knows of its experiments, and what it writes about them.

Everything is in the event log: an experiment's creation, ramp and stops under the topic `experiments`, its exposures and outcomes under
one of its own. What is held in memory follows from the log, so a restart and another replica come to the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from evaluation.assignment import Allocation, Assignment, assign
from evaluation.experiment import Experiment
from evaluation.online import TOPIC, ArmStop, GuardrailWatch, OnlineReport, Status, data_topic, exported, report, text_topic
from exchange.settings import SettingError
from server.errors import Conflict, Unknown
from server.settings import ServerSettings, store_url
from store import Event, EventLog, StoreError
from teacher.run_directory import runs_dir

log = logging.getLogger("wst.server")

REFRESH_S = 0.25
"""Seconds between two looks for what other processes changed."""


@dataclass(frozen=True)
class Running:
    """An experiment and what became of it."""

    definition: Experiment
    tenant: str
    created: float
    """Seconds since 1970."""
    enrolled: float
    status: Status = "running"
    stop_reason: str | None = None
    stopped: dict[str, ArmStop] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        return data_topic(self.tenant, self.definition.id)

    @cached_property
    def allocation(self) -> Allocation:
        # The tenant is the salt: two tenants' experiments of one name share units out independently.
        return self.definition.allocation(enrolled=self.enrolled, salt=self.tenant)


@dataclass
class _Watch:
    """A guardrail watch and how far it has read."""

    of: GuardrailWatch
    place: int = 0
    read: int = 0


def event_id(*parts: str) -> str:
    """An id that differs wherever the parts do."""
    return json.dumps(parts, separators=(",", ":"))


class Experiments:
    """All tenants' experiments. Methods that write or read the log raise StoreError where it fails."""

    def __init__(self, events: EventLog, redact: Callable[[str], str] = lambda text: text) -> None:
        """`redact` is given every text before it is kept."""
        self.events, self.redact = events, redact
        self._known: dict[tuple[str, str], Running] = {}
        self._place = 0
        self._latest = 0.0
        """Time of the latest event about experiments that was taken over."""
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._refreshing = asyncio.Lock()

    async def refresh(self) -> None:
        """Take over what this process or another has written about experiments."""
        async with self._refreshing:
            while page := await self.events.read(TOPIC, after=self._place):
                came = [event for _, event in page]
                # Out of order where another replica's event came late, or one of ours gave way to it: then all is told again, in order.
                if any(event.time < self._latest for event in came):
                    self._known, came = {}, await self.events.read_all(TOPIC)
                self._place = page[-1][0]
                for event in sorted(came, key=lambda event: (event.time, event.id)):
                    self._latest = max(self._latest, event.time)
                    try:
                        self._apply(event)
                    except (ValidationError, KeyError) as error:
                        log.error("event %s is none that this version knows (%s); it is left out", event.id, type(error).__name__)

    async def keep_watch(self, guardrail_period_s: float) -> None:
        """Follow other processes' changes and check guardrails until cancelled."""
        due = 0.0
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                if self.events.exists:
                    await self.refresh()
                if (began := time.monotonic()) >= due:
                    await self.check_guardrails()
                    # Of a log of millions a check takes seconds: at most a tenth of the time goes into it.
                    due = began + max(guardrail_period_s, 10.0 * (time.monotonic() - began))
            except StoreError as error:
                log.error("experiments cannot be followed: %s", error)
            except Exception:  # one experiment's odd event must not end the watch over all others
                log.exception("experiments cannot be followed")

    def find(self, tenant: str, name: str) -> Running | None:
        return self._known.get((tenant, name))

    def everybodys(self) -> list[Running]:
        """Of all tenants."""
        return list(self._known.values())

    def named(self, tenant: str, name: str) -> Running:
        """Raises Unknown, which names the others."""
        found = self.find(tenant, name)
        if found is None:
            known = ", ".join(one.definition.id for one in self.of(tenant)[:20])
            raise Unknown(f"there is no experiment of this id; known: {known or 'none'}")
        return found

    def of(self, tenant: str) -> list[Running]:
        """A tenant's experiments, oldest first."""
        mine = [one for (owner, _), one in self._known.items() if owner == tenant]
        return sorted(mine, key=lambda one: (one.created, one.definition.id))

    async def create(self, tenant: str, definition: Experiment) -> tuple[Running, bool]:
        """(the experiment, whether it is new). Raises Conflict where the id or the slice of the layer is taken."""
        for other in self.of(tenant):
            if other.definition.id != definition.id and other.status == "running":
                _refuse_overlap(definition, other.definition)
        content = {"tenant": tenant, "definition": definition.model_dump(mode="json")}
        stored = await self._write(("created", tenant, definition.id), "created", content)
        if Experiment.model_validate(stored.content["definition"]) != definition:
            raise Conflict(f"experiment {definition.id} exists with another definition; what has started is not changed, take a new id")
        return self.named(tenant, definition.id), stored.content is content

    async def stop(self, running: Running, reason: str) -> Running:
        """End an experiment; asked again, it stays as it was."""
        return await self._change(running, ("stopped",), "stopped", {"reason": reason})

    async def ramp(self, running: Running, enrolled: float) -> Running:
        """Let more units take part. Raises Conflict for fewer, which would move units out, and where the experiment is stopped."""
        if running.status != "running":
            raise Conflict(f"experiment {running.definition.id} is stopped")
        if enrolled < running.enrolled:
            raise Conflict(f"enrolled is {running.enrolled:g} and can only grow: fewer would move units out; stop the experiment instead")
        return await self._change(running, ("ramp", repr(enrolled)), "ramp", {"enrolled": enrolled})

    async def stop_arm(self, running: Running, stop: ArmStop) -> Running:
        """Give an arm's units the control's treatment from now on; without arms left, the experiment ends."""
        changed = await self._change(running, ("arm_stopped", stop.arm), "arm_stopped", {"stop": stop.model_dump(mode="json")})
        if len(changed.stopped) == len(running.definition.arms) - 1:
            changed = await self.stop(changed, "guardrail")
        return changed

    def watched_units(self, running: Running) -> int:
        """Units whose exposures the guardrails have seen; 0 where the experiment has none."""
        watch = self._watches.get((running.tenant, running.definition.id))
        return 0 if watch is None else watch.of.units

    def assign(self, running: Running, unit: str, *, forced: str | None = None) -> Assignment:
        """The unit's arm. Raises ValueError for a forced arm that does not exist."""
        return assign(running.allocation, unit, forced=forced)

    async def expose(self, running: Running, unit: str, assignment: Assignment, request_id: str, content: dict[str, Any]) -> str:
        """Log that a request of the unit was served in its arm. The id under which it is known: the request's, unless that belongs to
        another request already."""
        arm = assignment.arm
        assert arm is not None
        weight = running.definition.arm(arm).weight
        about = {"experiment": running.definition.id, "unit": unit, "arm": arm, "forced": assignment.forced, "propensity": weight}
        kind = "forced" if assignment.forced else "exposure"
        for known_as in (request_id, f"{request_id}-{time.time_ns():x}"):
            event = Event(
                id=event_id("request", running.tenant, known_as),
                topic=running.topic,
                kind=kind,
                time=time.time(),
                content={"request_id": known_as, **about, **content},
                subject=unit,
            )
            (stored,) = await self.events.append([event])
            if (stored.topic, stored.kind, stored.subject) == (event.topic, kind, unit):  # this one, or an earlier try of the same request
                return known_as
        raise AssertionError("two requests of one nanosecond")

    async def capture(self, tenant: str, request_id: str, unit: str, content: dict[str, Any]) -> None:
        """Keep a request's texts, redacted."""
        texts = {name: self.redact(content[name]) for name in ("query", "system", "instruction") if content[name] is not None}
        history = [{**turn, "content": self.redact(turn["content"])} for turn in content["history"]]
        content = {**content, **texts, "history": history}
        name = event_id("text", tenant, request_id)
        await self.events.append([Event(name, text_topic(tenant), "text", time.time(), {"request_id": request_id, **content}, unit)])

    async def report(self, running: Running) -> OnlineReport:
        """Raises ValueError where nothing was logged yet."""
        events = await self.events.read_all(running.topic)
        state: dict[str, Any] = {"status": running.status, "stop_reason": running.stop_reason, "stopped": running.stopped}
        return await asyncio.to_thread(report, events, running.definition, **state)  # seconds for a large log

    async def log_lines(self, running: Running) -> bytes:
        """The experiment's log as `python -m evaluation.analyze` reads it."""
        return await asyncio.to_thread(exported, await self.events.read_all(running.topic), running.definition)

    async def check_guardrails(self) -> None:
        """Look at what came since the last time and stop the arms that are surely worse than allowed."""
        for key, running in list(self._known.items()):
            if running.status != "running" or not running.definition.guardrails:
                self._watches.pop(key, None)
                continue
            watch = self._watches.get(key)
            if (
                watch is None
                or watch.of.experiment != running.definition
                or await self.events.count(running.topic, watch.place) < watch.read
            ):
                watch = self._watches[key] = _Watch(GuardrailWatch(running.definition))  # new, or some of what it read was replaced
            came = False
            while page := await self.events.read(running.topic, after=watch.place):
                await asyncio.to_thread(watch.of.add, [event for _, event in page])
                watch.place, watch.read, came = page[-1][0], watch.read + len(page), True
            for stop in await asyncio.to_thread(watch.of.breaches) if came else ():
                if stop.arm not in running.stopped:
                    log.warning("experiment %s: %s stops arm %s", running.definition.id, stop.metric, stop.arm)
                    running = await self.stop_arm(running, stop)

    async def _change(self, running: Running, name: tuple[str, ...], kind: str, content: dict[str, Any]) -> Running:
        about = {"tenant": running.tenant, "experiment": running.definition.id}
        await self._write((*name, running.tenant, running.definition.id), kind, {**about, **content})
        return self.named(running.tenant, running.definition.id)

    async def _write(self, name: tuple[str, ...], kind: str, content: dict[str, Any]) -> Event:
        (stored,) = await self.events.append([Event(event_id(*name), TOPIC, kind, time.time(), content)])
        await self.refresh()
        return stored

    def _apply(self, event: Event) -> None:
        content = event.content
        if event.kind == "created":
            definition = Experiment.model_validate(content["definition"])
            key = (content["tenant"], definition.id)
            self._known[key] = Running(definition, content["tenant"], event.time, definition.enrolled)
            return
        key = (content["tenant"], content["experiment"])
        running = self._known[key]
        if event.kind == "ramp":
            self._known[key] = replace(running, enrolled=max(running.enrolled, content["enrolled"]))
        elif event.kind == "stopped":
            self._known[key] = replace(running, status="stopped", stop_reason=content["reason"])
        elif event.kind == "arm_stopped":
            stop = ArmStop.model_validate(content["stop"])
            self._known[key] = replace(running, stopped={**running.stopped, stop.arm: stop})


def _refuse_overlap(one: Experiment, other: Experiment) -> None:
    if one.layer is None or one.layer != other.layer:
        return
    low, high = max(one.layer_slice[0], other.layer_slice[0]), min(one.layer_slice[1], other.layer_slice[1])
    if low < high:
        raise Conflict(
            f"layer_slice: experiment {other.id} runs in {other.layer_slice[0]:g} to {other.layer_slice[1]:g} of layer {one.layer!r}; "
            "experiments of one layer must not overlap"
        )


def open_events(settings: ServerSettings) -> EventLog:
    """The event log that settings mean; nothing is opened yet. Raises SettingError for a URL or path that is none."""
    try:
        return EventLog(settings.event_log or runs_dir() / "events.db", redis_url=store_url(settings))
    except (ValueError, StoreError) as error:
        raise SettingError(f"WST_STORE or WST_EVENT_LOG: {error}") from None


async def begin(experiments: Experiments, settings: ServerSettings) -> asyncio.Task[None]:
    """Take over what the log holds and start to follow it. A log that cannot be read costs the experiments, not the service."""
    experiments.events.start()
    try:
        if experiments.events.exists or experiments.events.shared:  # no file is made where nobody runs an experiment
            await experiments.refresh()
    except StoreError as error:
        log.error("no experiment runs until this is mended: %s", error)
    return asyncio.create_task(experiments.keep_watch(settings.guardrail_period_s))
