"""How a key is served: `off`, `shadow`, `canary` or `on`, switched live and the same on every replica within a second.

    off      the raw messages; the teacher is not asked
    shadow   the raw messages, at once; the teacher writes behind the caller's back, and what it wrote is logged
    canary   a growing share of the units gets instructions; a guardrail that breaks takes all of them back to the raw messages
    on       all units but the holdback, which stays raw for ever and so goes on measuring what instructions are worth

A key whose mode nobody set is served as `on` without a holdback. Canary and on are online experiments, raw against instructed, with their
own assignment, guardrails and report; a mode only says which. A change is an event in the log that replicas share, numbered by `epoch`, so
that of two changes at the same moment one holds everywhere.

What an interval says is said of one student and one teacher: where either changes, the measuring begins anew (`reopen`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from evaluation.experiment import Arm, Experiment, Guardrail, Metric
from evaluation.sequences import DEFAULT_PLANNED_N
from exchange.records import Record
from server.errors import Unavailable
from server.experiments import Experiments, Running, event_id
from store import Event, EventLog, StoreError

log = logging.getLogger("wst.server")

TOPIC = "modes"
Mode = Literal["off", "shadow", "canary", "on"]
RAW, INSTRUCTED = "raw", "instructed"
EVERYBODY = "default"
"""The name of the one key of a server without keys."""
MOST_SNAPSHOTS = 100
"""Versions of a student that are told apart for one key; a server that makes up a new one each time re-opens nothing any more."""


class ModeSetting(Record):
    """What `PUT /modes/KEY` takes."""

    mode: Mode
    holdback: float = Field(default=0.05, gt=0.0, le=0.5)
    """Share of the units that stay raw while `on`."""
    steps: tuple[float, ...] = Field(default=(0.01, 0.05, 0.25, 0.5), min_length=1, max_length=20)
    """Shares of the units that a canary instructs, one step after another; as many units beside them are its raw control."""
    step_s: float = Field(default=3600.0, ge=0.0, le=30 * 86_400.0)
    """Seconds that a step lasts at least."""
    step_units: int = Field(default=200, ge=0)
    """Units that a canary must have seen before it leaves its first step, and as many more for each step after it."""
    promote: bool = True
    """Whether a canary that came through its last step is switched on."""
    metric: Annotated[Metric, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)] = Metric(
        name="success", kind="binary"
    )
    """What outcomes say of an answer (`POST /outcomes`)."""
    planned_n: int = Field(default=DEFAULT_PLANNED_N, ge=2, le=1_000_000_000)
    """Units at which the interval is narrowest, and by which a benefit should have shown."""
    alpha: float = Field(default=0.05, ge=1e-9, le=0.5)
    guardrails: tuple[Guardrail, ...] = Field(
        default=(Guardrail(metric="fallback", margin=0.05), Guardrail(metric="injection", margin=0.01)), max_length=20
    )

    @field_validator("steps")
    @classmethod
    def _a_ramp(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if list(steps) != sorted(set(steps)) or not 0.0 < steps[0] <= steps[-1] <= 0.5:
            raise ValueError("must grow from above 0 to at most 0.5: a canary has as many raw units beside it as instructed ones")
        return steps

    def experiment(self, name: str, teacher_sha256: str) -> Experiment:
        """The experiment that serves and measures this mode. Raises ValueError (pydantic's)."""
        raw, enrolled = (0.5, 2 * self.steps[0]) if self.mode == "canary" else (self.holdback, 1.0)
        return Experiment(
            id=name,
            arms=(Arm(name=RAW, weight=raw, raw=True), Arm(name=INSTRUCTED, weight=1 - raw, teacher=teacher_sha256)),
            control=RAW,
            metric=self.metric,
            planned_n=self.planned_n,
            alpha=self.alpha,
            guardrails=self.guardrails,
            enrolled=enrolled,
            hypothesis=f"mode {self.mode}",
        )


class ModeState(Record):
    """A key's mode and what became of it."""

    tenant: str
    key: str
    """The key's id; empty for a server without keys."""
    epoch: int
    setting: ModeSetting
    experiment: str | None
    """The experiment of a canary, or of an `on` with its holdback."""
    teacher: str
    """sha256 of the teacher that it began with."""
    reason: str
    since: float
    """Seconds since 1970."""


@dataclass
class _Noted:
    """What was noticed in one epoch."""

    benefit: bool = False
    alarm: str | None = None


class Modes:
    """All keys' modes. Methods that write raise StoreError where the log fails."""

    def __init__(self, events: EventLog, experiments: Experiments) -> None:
        self.events, self.experiments = events, experiments
        self._states: dict[tuple[str, str], ModeState] = {}
        self._noted: dict[tuple[str, str, int], _Noted] = {}
        self._snapshots: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
        self._place = 0
        self._noting: dict[tuple[str, str, str, tuple[str, str]], asyncio.Task[None]] = {}

    def of(self, tenant: str, key: str) -> ModeState | None:
        """None = nobody has set one."""
        return self._states.get((tenant, key))

    def all(self) -> list[ModeState]:
        return list(self._states.values())

    def noted(self, state: ModeState) -> _Noted:
        return self._noted.setdefault((state.tenant, state.key, state.epoch), _Noted())

    def running(self, state: ModeState) -> Running | None:
        """The mode's experiment."""
        return None if state.experiment is None else self.experiments.find(state.tenant, state.experiment)

    async def refresh(self) -> None:
        """Take over what this process or another has written."""
        while page := await self.events.read(TOPIC, after=self._place):
            for place, event in page:
                self._place = place
                try:
                    self._apply(event)
                except (ValidationError, KeyError) as error:
                    log.error("event %s is none that this version knows (%s); it is left out", event.id, type(error).__name__)

    async def set(
        self, tenant: str, key: str, setting: ModeSetting, *, teacher: str, reason: str, after: ModeState | None = None
    ) -> ModeState:
        """Change a key's mode and end the experiment of the one before. With `after`, only where that still stands; else nothing changes.

        Raises ValueError (pydantic's) for a setting that makes no experiment.
        """
        for _ in range(20):
            await self.refresh()
            before = self.of(tenant, key)
            if after is not None and (before is None or before.epoch != after.epoch):
                return before or after
            epoch = 1 if before is None else before.epoch + 1
            name = f"mode-{key or EVERYBODY}-{epoch}-{secrets.token_hex(3)}" if setting.mode in ("canary", "on") else None
            state = ModeState(
                tenant=tenant, key=key, epoch=epoch, setting=setting, experiment=name, teacher=teacher, reason=reason, since=time.time()
            )
            if name is not None:  # before the mode names it, so that a process that ends in between leaves nobody without
                await self.experiments.create(tenant, setting.experiment(name, teacher))
            content = {"state": state.model_dump(mode="json")}
            event = Event(event_id("mode", tenant, key, str(epoch)), TOPIC, "mode", state.since, content)
            (stored,) = await self.events.append([event])
            mine = stored.content == content
            await self.refresh()
            left = self.running(before if mine and before is not None else state)
            if left is not None and left.status == "running" and (before is not None or not mine):
                await self.experiments.stop(left, f"mode: {reason}" if mine else "mode: another change came first")
            if not mine:
                continue
            log.warning("key %s: mode %s (%s)", key or EVERYBODY, setting.mode, reason)
            return state
        raise Unavailable("other changes of this mode keep coming first; try again")

    async def reopen(self, state: ModeState, teacher: str, reason: str) -> ModeState:
        """Begin to measure anew: what was known is of a student or a teacher that is gone."""
        return await self.set(state.tenant, state.key, state.setting, teacher=teacher, reason=reason, after=state)

    async def note(self, state: ModeState, kind: Literal["benefit", "alarm"], text: str) -> None:
        """Remember a finding, once an epoch."""
        content = {"tenant": state.tenant, "key": state.key, "epoch": state.epoch, "text": text}
        name = event_id(kind, state.tenant, state.key, str(state.epoch))
        (stored,) = await self.events.append([Event(name, TOPIC, kind, time.time(), content)])
        if kind == "alarm" and stored.content is content:
            log.error("key %s: %s", state.key or EVERYBODY, text)
        await self.refresh()

    def is_new_snapshot(self, state: ModeState, student: str, snapshot: tuple[str, str]) -> bool:
        """Whether the student never answered this key under this (model, system_fingerprint). Cheap: asked at every answer."""
        known = self._snapshots.get((state.tenant, state.key, student))
        return known is None or (snapshot not in known and len(known) < MOST_SNAPSHOTS)

    async def saw_snapshot(self, state: ModeState, student: str, snapshot: tuple[str, str], teacher: str) -> None:
        """Take note of a version of the student; where it follows another one, re-open."""
        first = not self._snapshots.get((state.tenant, state.key, student))
        content = {"tenant": state.tenant, "key": state.key, "student": student, "snapshot": list(snapshot)}
        name = event_id("snapshot", state.tenant, state.key, student, *snapshot)
        (stored,) = await self.events.append([Event(name, TOPIC, "snapshot", time.time(), content)])
        await self.refresh()
        if stored.content is content and not first:
            await self.reopen(state, teacher, f"student {student} answers as {' '.join(filter(None, snapshot))} now")

    def take_note(self, state: ModeState, student: str, snapshot: tuple[str, str], teacher: str) -> None:
        """`saw_snapshot` behind the caller's back."""
        if (state.tenant, state.key, student, snapshot) in self._noting:
            return

        async def note() -> None:
            try:
                await self.saw_snapshot(state, student, snapshot, teacher)
            except StoreError as error:
                log.error("a new version of the student was not noted: %s", error)

        self._noting[state.tenant, state.key, student, snapshot] = noting = asyncio.create_task(note())
        noting.add_done_callback(lambda _: self._noting.pop((state.tenant, state.key, student, snapshot), None))

    def _apply(self, event: Event) -> None:
        content: Mapping[str, Any] = event.content
        if event.kind == "mode":
            state = ModeState.model_validate(content["state"])
            held = self._states.get((state.tenant, state.key))
            if held is None or state.epoch >= held.epoch:
                self._states[state.tenant, state.key] = state
        elif event.kind == "snapshot":
            model, fingerprint = content["snapshot"]
            self._snapshots.setdefault((content["tenant"], content["key"], content["student"]), set()).add((model, fingerprint))
        else:
            noted = self._noted.setdefault((content["tenant"], content["key"], content["epoch"]), _Noted())
            noted.benefit = noted.benefit or event.kind == "benefit"
            if event.kind == "alarm":
                noted.alarm = content["text"]
