"""What a request gets: its arm's treatment where it takes part in an experiment, else the teacher's instruction.

Every route that instructs on behalf of a caller comes through `treat`. It keeps the promise of the line: whatever happens to a teacher, a
log or an experiment, a conversation for the student comes back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from evaluation.assignment import Assignment
from exchange.compose import compose
from exchange.guard import guard, looks_injected
from exchange.records import Instruction, PublicExample
from server.engine import Answer, TeacherEngine
from server.errors import InvalidField
from server.experiments import Experiments, Running
from server.line import Instructed, ServedTeacher, instruct
from store import StoreError

log = logging.getLogger("wst.server")


@dataclass(frozen=True)
class Desk:
    """The loaded teachers with their engines, by sha256."""

    teacher: ServedTeacher
    """The one that serves whoever is in no experiment."""
    engines: Mapping[str, tuple[ServedTeacher, TeacherEngine]]

    def resolve(self, name: str) -> str:
        """The sha256 of the loaded teacher that an arm names: by its sum, at least 8 digits of it, or its id. Raises ValueError."""
        for sha256, (teacher, _) in self.engines.items():
            if name == teacher.id or (len(name) >= 8 and sha256.startswith(name.lower())):
                return sha256
        loaded = ", ".join(f"{teacher.id} ({sha256[:12]})" for sha256, (teacher, _) in self.engines.items())
        raise ValueError(f"teacher {name[:80]!a} is not loaded; loaded: {loaded}. Load more with WST_ARM_TEACHERS")


@dataclass(frozen=True)
class Entry:
    """How a request takes part in an experiment."""

    experiment: str
    unit: str
    covariate: float | None = None
    force_arm: str | None = None


@dataclass(frozen=True)
class Treated:
    """A conversation for the student, who wrote its instruction, and the arm it was made for."""

    instructed: Instructed
    teacher: ServedTeacher | None
    experiment: tuple[str, str] | None
    """(experiment, arm), if the exposure is in the log."""
    request_id: str
    """Under which outcomes are taken."""


async def treat(example: PublicExample, desk: Desk, experiments: Experiments, *, tenant: str, entry: Entry | None) -> Treated:
    """Serve one request; `example.id` is its id. Raises InvalidField for a forced arm that does not exist."""
    started = perf_counter()
    running = None if entry is None else experiments.find(tenant, entry.experiment)
    if entry is None or running is None or running.status != "running":
        return await _plain(example, desk)
    try:
        assignment = experiments.assign(running, entry.unit, forced=entry.force_arm)
    except ValueError as error:
        raise InvalidField("force_arm", str(error)) from None
    if assignment.arm is None:
        return await _plain(example, desk)
    done, teacher = await _arm(example, desk, running, assignment.arm)
    content = {
        "source": done.instruction.source,
        "degraded": done.degraded,
        "teacher": None if teacher is None else teacher.sha256,
        "covariate": entry.covariate,
        "measured": measured(done, perf_counter() - started),
    }
    return await _logged(Treated(done, teacher, None, example.id), experiments, running, entry.unit, assignment, content)


async def _logged(
    treated: Treated, experiments: Experiments, running: Running, unit: str, assignment: Assignment, content: dict[str, Any]
) -> Treated:
    """With the exposure on the disk; a log that fails costs the analysis a request, and the caller nothing."""
    assert assignment.arm is not None
    try:
        known_as = await experiments.expose(running, unit, assignment, treated.request_id, content)
    except StoreError as error:
        log.error("an exposure of experiment %s was not logged: %s", running.definition.id, error)
        return treated
    return Treated(treated.instructed, treated.teacher, (running.definition.id, assignment.arm), known_as)


def measured(done: Instructed, seconds: float) -> dict[str, float]:
    """The guardrail metrics that the service measures itself (`evaluation.experiment.MEASURED`)."""
    return {
        "fallback": float(done.degraded is not None),
        "latency_ms": round(1000 * seconds, 3),
        "injection": float(looks_injected(done.instruction.text)),
    }


async def _plain(example: PublicExample, desk: Desk) -> Treated:
    done = await instruct(example, desk.engines[desk.teacher.sha256][1])
    return Treated(done, None if done.degraded is not None else desk.teacher, None, example.id)


async def _arm(example: PublicExample, desk: Desk, running: Running, name: str) -> tuple[Instructed, ServedTeacher | None]:
    """An arm's treatment; a stopped arm has the control's."""
    definition = running.definition
    arm = definition.arm(definition.control if name in running.stopped else name)
    if arm.teacher is not None:
        if arm.teacher not in desk.engines:  # the server was started again with other teachers
            raw = Instruction(text="", source="passthrough")
            return Instructed(raw, compose(example, raw), "teacher_not_loaded", Answer()), None
        teacher, engine = desk.engines[arm.teacher]
        done = await instruct(example, engine)
        return done, None if done.degraded is not None else teacher
    if arm.text is not None:
        instruction = guard(Instruction(text=arm.text, source="static")).instruction
    else:
        instruction = Instruction(text="", source="silence")
    return Instructed(instruction, compose(example, instruction), None, Answer()), None
