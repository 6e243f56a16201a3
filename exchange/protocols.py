"""The three seams of the line, as protocols: who answers, who instructs, who judges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from exchange.records import Completion, Example, Instruction, Message, PublicExample, Record, Score


class SamplingParams(Record):
    """How a student samples. Part of every cache key."""

    temperature: float | None = 0.0
    """0 = greedy: lower variance and repeatable, so the default for training and evaluation. None = not sent, since
    reasoning models refuse it."""
    max_tokens: int = 256
    """Upper bound on the answer's tokens."""
    seed: int | None = None
    """Passed on where the server supports it; None = not sent."""
    split: str | None = None
    """Split of the question that is asked: never sent, but questions of different splits share no cached answer."""


class StudentClient(Protocol):
    """A frozen model that answers. Failures come back as `Completion.error` only from wrappers that promise it; adapters raise
    `student_clients.errors.StudentError`."""

    name: str

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        """Return `n` completions for one conversation; `sample_index` is the index of the first of them."""
        ...

    async def aclose(self) -> None:
        """Give connections and threads back."""
        ...


class InstructionPolicy(Protocol):
    """Whatever writes instructions: a trained teacher, a static text, silence."""

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        """Return one instruction an example, in order."""
        ...


class Reward(Protocol):
    """What one answer is worth."""

    async def __call__(self, example: Example, instruction: Instruction, completion: Completion) -> Score: ...
