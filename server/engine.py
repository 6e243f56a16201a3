"""Between many requests and one teacher: micro-batches, a bounded queue, a deadline, and failures that stay small.

One `generate` over thirty prompts costs little more than one over a single prompt, so whatever waits when the teacher becomes free goes
into its next batch. A failing batch is halved and tried again until the one query that breaks the teacher is alone, because neighbours
in a batch are strangers to each other. Nothing here raises: an `Answer` without an instruction says why.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from exchange.protocols import InstructionPolicy
from exchange.records import Instruction, PublicExample

log = logging.getLogger("wst.server")

Failure = Literal["timeout", "overloaded", "teacher_failed"]


@dataclass(frozen=True)
class Answer:
    """What came of one request. `instruction` is None exactly where `failure` says why."""

    instruction: Instruction | None = None
    failure: Failure | None = None
    queue_s: float = 0.0
    teacher_s: float = 0.0

    @property
    def seconds(self) -> float:
        """The caller's whole wait for the teacher."""
        return self.queue_s + self.teacher_s


@dataclass(eq=False)
class _Ticket:
    """One waiting request."""

    example: PublicExample
    answer: asyncio.Future[Answer]
    arrived: float
    started: float | None = None


class TeacherEngine:
    """Asks `policy` on behalf of concurrent requests of one event loop."""

    def __init__(self, policy: InstructionPolicy, *, batch_size: int, window_s: float, deadline_s: float, max_queued: int) -> None:
        self.policy = policy
        self.batch_size = batch_size
        self.window_s = window_s
        self.deadline_s = deadline_s
        self.max_queued = max_queued
        self._waiting: dict[_Ticket, None] = {}
        """In order of arrival; a request that gives up takes its ticket out."""
        self._runner: asyncio.Task[None] | None = None

    async def ask(self, example: PublicExample) -> Answer:
        """The policy's instruction for one example, or why there is none; within `deadline_s`."""
        if len(self._waiting) >= self.max_queued:
            return Answer(failure="overloaded")
        ticket = _Ticket(example, asyncio.get_running_loop().create_future(), perf_counter())
        self._waiting[ticket] = None
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self.deadline_s):
                return await ticket.answer
        except TimeoutError:
            now = perf_counter()
            started = ticket.started or now
            return Answer(failure="timeout", queue_s=started - ticket.arrived, teacher_s=now - started)
        finally:
            self._waiting.pop(ticket, None)

    async def aclose(self) -> None:
        """Stop asking. The server calls it after the last request."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        """Work until nobody waits. The window counts only from idle: behind a running batch requests have gathered already."""
        await asyncio.sleep(self.window_s)
        while self._waiting:
            batch = [ticket for ticket, _ in zip(self._waiting, range(self.batch_size))]
            for ticket in batch:
                del self._waiting[ticket]
                ticket.started = perf_counter()
            await self._answer(batch)

    async def _answer(self, batch: Sequence[_Ticket]) -> None:
        batch = [ticket for ticket in batch if not ticket.answer.done()]  # the others have given up
        if not batch:
            return
        try:
            async with asyncio.timeout(self.deadline_s):  # after that long nobody of this batch is left
                instructions = await self.policy.instruct([ticket.example for ticket in batch])
            if len(instructions) != len(batch) or not all(isinstance(i, Instruction) for i in instructions):
                raise TypeError(f"the policy did not return {len(batch)} instructions")
        except TimeoutError:
            log.warning("the teacher took longer than %.3f s for a batch of %d", self.deadline_s, len(batch))
            self._resolve(batch, [None] * len(batch), "timeout")
        except Exception as error:  # whatever a model raises is a passthrough for the app, never a 500
            if len(batch) > 1:
                await self._answer(batch[: len(batch) // 2])
                await self._answer(batch[len(batch) // 2 :])
                return
            # Type and place only: the text of an exception may quote the query.
            log.error("the teacher failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__, limit=-6)))
            self._resolve(batch, [None], "teacher_failed")
        else:
            self._resolve(batch, instructions, None)

    @staticmethod
    def _resolve(batch: Sequence[_Ticket], instructions: Sequence[Instruction | None], failure: Failure | None) -> None:
        now = perf_counter()
        for ticket, instruction in zip(batch, instructions, strict=True):
            if not ticket.answer.done():
                assert ticket.started is not None
                ticket.answer.set_result(Answer(instruction, failure, ticket.started - ticket.arrived, now - ticket.started))
