"""The line as the service walks it: teacher, guard, composer. Every route that needs an instruction comes through here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from exchange.compose import compose
from exchange.guard import guard
from exchange.protocols import InstructionPolicy
from exchange.records import Instruction, Message, PublicExample
from server.engine import Answer, TeacherEngine


class ServedTeacher(Protocol):
    """What the service needs of a teacher; `teacher.policy.LoadedTeacher` is one."""

    @property
    def id(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def policy(self) -> InstructionPolicy: ...


@dataclass(frozen=True)
class Instructed:
    """A conversation ready for the student. `degraded` is set exactly where the instruction is a passthrough."""

    instruction: Instruction
    messages: tuple[Message, ...]
    degraded: str | None
    answer: Answer


async def instruct(example: PublicExample, engine: TeacherEngine) -> Instructed:
    """Instruct one example. Never fails: without a usable instruction the raw messages come back, with the reason."""
    answer = await engine.ask(example)
    degraded: str | None = answer.failure
    instruction = Instruction(text="", source="passthrough")
    if answer.instruction is not None:
        guarded = guard(answer.instruction)
        if answer.instruction.source == "passthrough":
            degraded = "query_too_long"
        elif guarded.refused is not None:
            degraded = f"refused_{guarded.refused}"
        elif guarded.instruction.text:
            instruction = guarded.instruction
        else:
            instruction = guarded.instruction.model_copy(update={"source": "silence"})
    return Instructed(instruction, compose(example, instruction), degraded, answer)
