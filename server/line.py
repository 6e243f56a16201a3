"""The line as the service walks it: teacher, guard, composer. Every route that needs an instruction comes through here."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from exchange.compose import compose
from exchange.guard import guard
from exchange.records import Instruction, Message, PublicExample
from server.cache import cache_key
from server.engine import Answer
from server.teachers import Desk
from server.tracing import span


@dataclass(frozen=True)
class Instructed:
    """A conversation ready for the student. `degraded` is set exactly where the instruction is a passthrough."""

    instruction: Instruction
    messages: tuple[Message, ...]
    degraded: str | None
    answer: Answer


async def instruct(example: PublicExample, desk: Desk, *, tenant: str = "", deadline_s: float | None = None) -> Instructed:
    """Instruct one example. Never fails: without a usable instruction the raw messages come back, with the reason.

    Tenants share no cached instruction. `deadline_s` shortens the wait for the teacher.
    """
    answer = await ask(example, desk, tenant=tenant, deadline_s=deadline_s)
    degraded: str | None = answer.failure
    instruction = Instruction(text="", source="passthrough")
    if answer.instruction is not None:
        guarded = guard(answer.instruction, example)
        if answer.instruction.source == "passthrough":
            degraded = "query_too_long"
        elif guarded.refused is not None:
            degraded = f"refused_{guarded.refused}"
        elif guarded.instruction.text:
            instruction = guarded.instruction
        else:
            instruction = guarded.instruction.model_copy(update={"source": "silence"})
    return Instructed(instruction, compose(example, instruction), degraded, answer)


def passed_through(example: PublicExample, degraded: str) -> Instructed:
    """The raw messages, and why."""
    raw = Instruction(text="", source="passthrough")
    return Instructed(raw, compose(example, raw), degraded, Answer())


async def ask(example: PublicExample, desk: Desk, *, tenant: str, deadline_s: float | None) -> Answer:
    """The teacher's own words, or those it wrote before for an equal query of the tenant."""
    if not desk.cached:
        with span("teacher"):
            return await desk.engine.ask(example, deadline_s=deadline_s)
    key = cache_key(example, desk.teacher.sha256, tenant=tenant)
    began = perf_counter()
    if (known := await desk.cache.get(key)) is not None:
        source = "cache" if known.source == "teacher" else known.source
        return Answer(known.model_copy(update={"source": source}), queue_s=perf_counter() - began)
    limit_s = desk.engine.deadline_s if deadline_s is None else min(deadline_s, desk.engine.deadline_s)
    with span("teacher"):
        answer = await desk.engine.ask(example, key=key, deadline_s=max(0.0, limit_s - (perf_counter() - began)))  # the look-up counts
    if answer.instruction is not None and answer.instruction.source != "passthrough":
        desk.cache.put(key, answer.instruction)
    return answer
