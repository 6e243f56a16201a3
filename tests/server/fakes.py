"""Teachers that need no model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exchange.protocols import InstructionPolicy
from exchange.records import Instruction, PublicExample

SHA256 = "ab" * 32


@dataclass
class FakePolicy:
    """Writes `say(example)`; keeps every batch it was asked for. `say` may raise."""

    say: Callable[[PublicExample], str] = lambda example: f"Think about {example.query}"
    batches: list[list[PublicExample]] = field(default_factory=list)

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        self.batches.append(list(examples))
        return [Instruction(text=self.say(example), source="teacher", teacher_sha256=SHA256) for example in examples]


class HangingPolicy:
    """Never answers, and knows how often it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError("unreachable")


@dataclass
class GarbagePolicy:
    """Breaks the protocol: returns whatever it is given."""

    result: Any

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        result: list[Instruction] = self.result
        return result


@dataclass
class FileGatedPolicy(FakePolicy):
    """For a server in another process: prints "begun" and writes when the file `gate` appears."""

    gate: str = ""

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        print("begun", flush=True)
        await asyncio.to_thread(self._wait)
        return await super().instruct(examples)

    def _wait(self) -> None:
        while not Path(self.gate).exists():
            time.sleep(0.01)


@dataclass(frozen=True)
class FakeTeacher:
    """A `ServedTeacher`."""

    policy: InstructionPolicy
    id: str = "fake-teacher"
    sha256: str = SHA256
    task: str = "gsm8k"
    max_instruction_tokens: int | None = None


def fail(error: Exception) -> Callable[[PublicExample], str]:
    """A `say` that raises."""

    def say(example: PublicExample) -> str:
        raise error

    return say
