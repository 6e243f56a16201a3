"""What a request gets: its arm's treatment where it takes part in an experiment, else the teacher's instruction.

Every route that instructs on behalf of a caller comes through `treat`. It keeps the promise of the line: whatever happens to a teacher, a
log or an experiment, a conversation for the student comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from evaluation.assignment import Assignment
from exchange.compose import compose
from exchange.guard import INJECTION, guard
from exchange.records import Instruction, PublicExample
from server.engine import Answer
from server.errors import InvalidField
from server.experiments import Experiments, Running
from server.line import Instructed, passed_through
from server.tracing import span
from server.wire import Assignment as ArmOf
from server.wire import TeacherName
from store import StoreError

log = logging.getLogger("wst.server")

LOG_S = 0.5
"""Seconds that a request waits for the disk to take its exposure or its texts. One that comes to the disk later counts all the same; the
reply does not name its experiment."""


Ask = Callable[[str | None], Awaitable[tuple[Instructed, TeacherName] | None]]
"""Has a teacher instruct the request: the one of that sha256, None = the one for whoever is in no experiment. None = it is not loaded."""


@dataclass(frozen=True)
class Entry:
    """Whose request it is, and how it takes part in an experiment."""

    unit: str
    experiment: str | None = None
    covariate: float | None = None
    force_arm: str | None = None
    raw: str | None = None
    """Why its key's mode gives it the raw messages; None = it does not."""
    mode: bool = False
    """Whether the experiment is its key's mode: then who is not in it is raw, and the arm's teacher is the request's own."""


@dataclass(frozen=True)
class Treated:
    """A conversation for the student, who wrote its instruction, and the arm it was made for."""

    instructed: Instructed
    teacher: TeacherName | None
    experiment: ArmOf | None
    """If the exposure is in the log."""
    request_id: str
    """Under which outcomes are taken."""


async def treat(example: PublicExample, ask: Ask, experiments: Experiments, *, tenant: str, entry: Entry, capture: bool = False) -> Treated:
    """Serve one request; `example.id` is its id. `capture` keeps its texts in the log, for `teacher.collect`: only where its owner agreed.

    Raises InvalidField for a forced arm that does not exist.
    """
    treated = await _treated(example, ask, experiments, tenant, entry)
    if capture:
        try:
            async with asyncio.timeout(LOG_S):
                await experiments.capture(tenant, treated.request_id, entry.unit, _texts(example, treated, entry))
        except StoreError as error:
            log.error("the texts of a request were not kept: %s", error)
        except Exception as error:  # of the operator's redaction, whose words may be the query's
            log.error("the texts of a request were not kept: %s", type(error).__name__)
    return treated


def _texts(example: PublicExample, treated: Treated, entry: Entry) -> dict[str, Any]:
    done, about = treated.instructed, treated.experiment
    return {
        "unit": entry.unit,
        "experiment": None if about is None else about.id,
        "arm": None if about is None else about.arm,
        "forced": entry.force_arm is not None,
        "task": example.task,
        "query": example.query,
        "system": example.system,
        "history": [message.model_dump() for message in example.history],
        "instruction": done.instruction.text,
        "source": done.instruction.source,
        "degraded": done.degraded,
        "teacher": None if treated.teacher is None else treated.teacher.sha256,
    }


async def _treated(example: PublicExample, ask: Ask, experiments: Experiments, tenant: str, entry: Entry) -> Treated:
    started = perf_counter()
    if entry.raw is not None:
        return Treated(passed_through(example, entry.raw), None, None, example.id)
    running = None if entry.experiment is None else experiments.find(tenant, entry.experiment)
    if running is None or running.status != "running":
        if entry.mode:  # rolled back a moment ago, or not known to this replica yet
            return Treated(passed_through(example, "mode_off"), None, None, example.id)
        return await _taught(ask, None, example)
    try:
        assignment = experiments.assign(running, entry.unit, forced=entry.force_arm)
    except ValueError as error:
        raise InvalidField("force_arm", str(error)) from None
    if assignment.arm is None:
        if entry.mode:
            return Treated(passed_through(example, "canary"), None, None, example.id)
        return await _taught(ask, None, example)
    treated = await _arm(example, ask, running, assignment.arm, own_teacher=entry.mode)
    done = treated.instructed
    content = {
        "source": done.instruction.source,
        "degraded": done.degraded,
        "teacher": None if treated.teacher is None else treated.teacher.sha256,
        "covariate": entry.covariate,
        "measured": measured(done, perf_counter() - started),
    }
    return await _logged(treated, experiments, running, entry.unit, assignment, content)


async def _logged(
    treated: Treated, experiments: Experiments, running: Running, unit: str, assignment: Assignment, content: dict[str, Any]
) -> Treated:
    """With the exposure on the disk; a log that fails costs the analysis a request, and the caller nothing."""
    assert assignment.arm is not None
    try:
        with span("store events"):
            async with asyncio.timeout(LOG_S):
                known_as = await experiments.expose(running, unit, assignment, treated.request_id, content)
    except Exception as error:
        log.error("an exposure of experiment %s was not logged: %s", running.definition.id, str(error) or type(error).__name__)
        return treated
    return replace(treated, experiment=ArmOf(id=running.definition.id, arm=assignment.arm), request_id=known_as)


def measured(done: Instructed, seconds: float) -> dict[str, float]:
    """The guardrail metrics that the service measures itself (`evaluation.experiment.MEASURED`)."""
    return {
        "fallback": float(done.degraded is not None),
        "latency_ms": round(1000 * seconds, 3),
        "injection": float((done.degraded or "").removeprefix("refused_") in INJECTION),
    }


async def _taught(ask: Ask, sha256: str | None, example: PublicExample) -> Treated:
    asked = await ask(sha256)
    if asked is None:  # the server was started again with other teachers
        return Treated(passed_through(example, "teacher_not_loaded"), None, None, example.id)
    done, teacher = asked
    return Treated(done, None if done.degraded is not None else teacher, None, example.id)


async def _arm(example: PublicExample, ask: Ask, running: Running, name: str, *, own_teacher: bool) -> Treated:
    """An arm's treatment; a stopped arm has the control's."""
    definition = running.definition
    arm = definition.arm(definition.control if name in running.stopped else name)
    if arm.teacher is not None:
        return await _taught(ask, None if own_teacher else arm.teacher, example)
    if arm.text is not None:
        instruction = guard(Instruction(text=arm.text, source="static")).instruction
    else:
        instruction = Instruction(text="", source="silence")
    return Treated(Instructed(instruction, compose(example, instruction), None, Answer()), None, None, example.id)
