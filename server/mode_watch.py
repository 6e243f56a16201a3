"""What modes do by themselves: a canary climbs its steps, what a guardrail stopped goes back to raw, a holdback says when instructions are
worth nothing any more, and a teacher that was exchanged has the measuring begin anew.

Every replica does this; each change is an event whose id holds the epoch, so it happens once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from evaluation.online import stop_sentence
from server.experiments import REFRESH_S, Running
from server.modes import INSTRUCTED, RAW, Modes, ModeState
from server.teachers import Teachers
from store import StoreError

log = logging.getLogger("wst.server")


class ModeWatch:
    """`teacher` gives the sha256 of the default teacher as it is now."""

    def __init__(self, modes: Modes, teacher: Callable[[], str]) -> None:
        self.modes, self.teacher = modes, teacher
        self._since: dict[tuple[str, float], float] = {}
        """(experiment, share enrolled) -> when it was first seen so."""
        self._read: dict[str, int] = {}
        """Experiment -> place up to which its interval is known."""

    async def keep_watch(self, period_s: float) -> None:
        """Follow other processes' changes and act, until cancelled."""
        due = 0.0
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                if self.modes.events.exists:
                    await self.modes.refresh()
                if (began := time.monotonic()) >= due:
                    await self.check()
                    due = began + max(period_s, 10.0 * (time.monotonic() - began))
            except StoreError as error:
                log.error("modes cannot be followed: %s", error)
            except Exception:  # one key's odd event must not end the watch over all others
                log.exception("modes cannot be followed")

    async def check(self) -> None:
        """Look at every key once."""
        for state in self.modes.all():
            running = self.modes.running(state)
            if running is None:
                continue
            if running.status == "stopped":
                await self._roll_back(state, running)
            elif state.teacher != self.teacher():
                await self.modes.reopen(state, self.teacher(), f"the teacher is {self.teacher()[:12]} now")
            elif state.setting.mode == "canary":
                await self._climb(state, running)
            else:
                await self._watch_holdback(state, running)

    async def _roll_back(self, state: ModeState, running: Running) -> None:
        why = " ".join(stop_sentence(stop, RAW) for stop in running.stopped.values()) or f"its experiment was stopped {running.stop_reason}"
        setting = state.setting.model_copy(update={"mode": "off"})
        await self.modes.set(
            state.tenant, state.key, setting, teacher=state.teacher, reason=f"rolled back from {state.setting.mode}: {why}", after=state
        )

    async def _climb(self, state: ModeState, running: Running) -> None:
        setting = state.setting
        step = next((i for i, share in enumerate(setting.steps) if 2 * share >= running.enrolled - 1e-9), len(setting.steps) - 1)
        since = self._since.setdefault((running.definition.id, running.enrolled), time.monotonic())
        units = self.modes.experiments.watched_units(running)
        if time.monotonic() - since < setting.step_s or units < setting.step_units * (step + 1):
            return
        if step + 1 < len(setting.steps):
            await self.modes.experiments.ramp(running, min(1.0, 2 * setting.steps[step + 1]))
        elif setting.promote:
            on = setting.model_copy(update={"mode": "on"})
            reason = f"the canary came through its last step of {setting.steps[-1]:.0%}"
            await self.modes.set(state.tenant, state.key, on, teacher=state.teacher, reason=reason, after=state)

    async def _watch_holdback(self, state: ModeState, running: Running) -> None:
        """The interval of what instructions are worth: above 0 it is a benefit; one that reaches 0 after that, or still holds it when it
        should have shown, is an alarm."""
        noted = self.modes.noted(state)
        place = self._read.get(running.definition.id, 0)
        came = False
        while page := await self.modes.events.read(running.topic, after=place):
            place, came = page[-1][0], True
        self._read[running.definition.id] = place
        if noted.alarm is not None or not came:
            return
        try:
            report = await self.modes.experiments.report(running)
        except ValueError:  # nothing was logged that counts
            return
        metric = report.metrics.get(running.definition.metric.name)
        found = None if metric is None else metric.vs_control.get(INSTRUCTED)
        if metric is None or found is None or found.low is None or found.high is None:
            return
        low, high = (-found.high, -found.low) if metric.lower_is_better else (found.low, found.high)
        if low > 0.0:
            if not noted.benefit:
                await self.modes.note(state, "benefit", f"instructions are worth {low:.4g} to {high:.4g} of {report.metric}")
        elif noted.benefit or high <= 0.0 or sum(arm.units for arm in metric.arms.values()) >= state.setting.planned_n:
            before = "no more" if noted.benefit else "not"
            text = f"instructions are {before} surely worth anything: {low:.4g} to {high:.4g} of {report.metric} against the holdback"
            await self.modes.note(state, "alarm", text)


async def watch_modes(modes: Modes, teachers: Teachers, period_s: float) -> asyncio.Task[None]:
    """Take over the modes that were set and start to follow them. Without a log that can be read, keys are served as if none were."""
    try:
        if modes.events.exists or modes.events.shared:
            await modes.refresh()
    except StoreError as error:
        log.error("no mode holds until this is mended: %s", error)
    return asyncio.create_task(ModeWatch(modes, lambda: teachers.default.teacher.sha256).keep_watch(period_s))
