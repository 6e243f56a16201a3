"""Between many requests and one teacher: micro-batches, a bounded queue, deadlines, and failures that stay small.

One `generate` over thirty prompts costs little more than one over a single prompt, so whatever waits when the teacher becomes free goes
into its next batch. Who comes while a batch runs waits for its end, or, where a second lane is free, no longer than `late_join_s`. A
teacher behind HTTP batches by itself: it is asked with batches of one and as many lanes as it bears. Equal requests in flight share one
place.

Its time goes to requests that it can still answer: who would come too late is refused on arrival, or when the next batch is made, and not
written for in vain.

A failing batch is halved and tried again until the queries that break the teacher are alone, because neighbours in a batch are strangers
to each other. Where neither half fares better, two single queries tell sooner than smaller halves whether it is the teacher that fails. One
that fails again and again and answers nobody is left alone for a while (the breaker), so that it costs callers nothing. Nothing here
raises: an `Answer` without an instruction says why.
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, get_args

from exchange.protocols import InstructionPolicy
from exchange.records import Instruction, PublicExample
from server.breaker import Breaker

log = logging.getLogger("wst.server")

Failure = Literal["timeout", "overloaded", "teacher_failed", "teacher_down"]

FAILURES: tuple[str, ...] = get_args(Failure)
SMOOTHING = 0.2
"""Weight of the newest batch in the running mean of how long a batch takes."""
HEADROOM = 0.1
"""Share of a deadline in which no answer is planned: for the way to the caller, and for a batch that takes longer than the mean. Planned to
the last millisecond, much of what an overloaded teacher writes on a busy machine comes too late."""
WINDOW_SHARE = 0.1
"""Of a batch's usual time, the most that an idle teacher waits for company: one that writes at once gains nothing by it."""
SLOW_SHARE = 0.75
"""Of its callers' longest deadline: a batch that was given up after so long because their time was over is a failure of the teacher, where
it also took longer than usual: haste says nothing of the teacher."""
HASTE_SHARE = 0.1
"""Of the engine's deadline: what stands for the usual time while no batch has succeeded yet."""
MOST_FAILED = 8
"""Failed tries in a row after which what is left of a batch is tried no more, though the teacher answered some of it."""


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
    """One place in the queue, for one request or for several equal ones."""

    example: PublicExample
    key: str | None
    arrived: float
    answers: list[asyncio.Future[Answer]] = field(default_factory=list)
    limit_s: float = 0.0
    """The longest deadline of its callers."""
    until: float = 0.0
    """When the last of its callers has to have an answer, headroom taken off."""
    late: bool = False
    """Whether a caller's time was over before there was one."""
    started: float | None = None
    batch: _Batch | None = None

    def wanted(self) -> bool:
        return any(not answer.done() for answer in self.answers)


@dataclass
class _Tries:
    """How asking for a batch and its parts went: whether any was answered, and how many failed since."""

    answered: bool = False
    failed: int = 0


@dataclass(eq=False)
class _Batch:
    """What is asked for in one call of the teacher."""

    tickets: Sequence[_Ticket]
    asking: asyncio.Future[list[Instruction]]


class TeacherEngine:
    """Asks `policy` on behalf of concurrent requests of one event loop."""

    def __init__(
        self,
        policy: InstructionPolicy,
        *,
        batch_size: int,
        window_s: float,
        deadline_s: float,
        max_queued: int,
        lanes: int = 1,
        late_join_s: float = 0.0,
        breaker: Breaker | None = None,
    ) -> None:
        """`lanes`: calls of the teacher at the same time; the first waits `window_s` at most for company, the others `late_join_s`."""
        self.policy = policy
        self.batch_size = batch_size
        self.window_s = window_s
        self.deadline_s = deadline_s
        self.max_queued = max_queued
        self.lanes = lanes
        self.late_join_s = late_join_s
        self.breaker = breaker or Breaker()
        self.batch_s = 0.0
        """How long a batch takes that succeeds, running mean; 0 before the first."""
        self._waiting: dict[_Ticket, None] = {}
        """In order of arrival; a request that gives up takes its ticket out."""
        self._by_key: dict[str, _Ticket] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._joining: asyncio.TimerHandle | None = None
        self._began: list[float] = []
        """When each running batch began."""

    @property
    def queued(self) -> int:
        """Requests that the teacher has not begun with."""
        return len(self._waiting)

    async def ask(self, example: PublicExample, *, key: str | None = None, deadline_s: float | None = None) -> Answer:
        """The policy's instruction for one example, or why there is none; within `deadline_s`, at most the engine's own.

        Requests of equal `key` (everything that the instruction depends on) share one place in the queue; None = never shared.
        """
        limit_s = self.deadline_s if deadline_s is None else min(deadline_s, self.deadline_s)
        ticket = self._by_key.get(key) if key is not None else None
        if ticket is None or not ticket.wanted():
            if (refusal := self._refusal(limit_s)) is not None:
                return Answer(failure=refusal)
            ticket = self._queue(example, key)
        arrived = perf_counter()
        ticket.limit_s = max(ticket.limit_s, limit_s)
        ticket.until = max(ticket.until, arrived + (1 - HEADROOM) * limit_s)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        ticket.answers.append(answer)
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError:
            now, ticket.late = perf_counter(), True
            started = min(max(ticket.started or now, arrived), now)
            return Answer(failure="timeout", queue_s=started - arrived, teacher_s=now - started)
        finally:
            answer.cancel()
            if not ticket.wanted():
                self._leave(ticket)

    async def idle(self) -> None:
        """Return once nobody waits and nothing is written: for a teacher that no request can reach any more."""
        while running := {lane for lane in self._running if not lane.done()}:
            await asyncio.wait(running)

    async def aclose(self) -> None:
        """Stop asking. The server calls it after the last request."""
        running = {lane for lane in self._running if not lane.done()}
        for lane in running:
            lane.cancel()
        if running:
            await asyncio.wait(running)

    def _refusal(self, limit_s: float) -> Failure | None:
        """Why a request would not be answered in time; None where it may be."""
        if self._overloaded(limit_s):
            return "overloaded"
        return None if self.breaker.allows() else "teacher_down"  # last: who is refused must not spend the one try

    def _overloaded(self, limit_s: float) -> bool:
        if len(self._waiting) >= self.max_queued:
            return True
        if not self._running and not self._waiting:
            return False  # however slow the last batch was: only a new one tells
        batches = math.floor(len(self._waiting) / self.batch_size) / self.lanes + 1
        # Where no lane is free, the one that began first has to end before.
        rest_s = self.batch_s - (perf_counter() - min(self._began)) if len(self._began) >= self.lanes else 0.0
        return max(0.0, rest_s) + batches * self.batch_s > (1 - HEADROOM) * limit_s

    def _queue(self, example: PublicExample, key: str | None) -> _Ticket:
        ticket = _Ticket(example, key, perf_counter())
        self._waiting[ticket] = None
        if key is not None:
            self._by_key[key] = ticket
        self._running -= {lane for lane in self._running if lane.done()}  # of an event loop that ended before it could say so
        loop = asyncio.get_running_loop()
        if not self._running:
            self._open_lane(min(self.window_s, WINDOW_SHARE * self.batch_s) if self.batch_s else self.window_s)
        elif len(self._running) < self.lanes:
            if not self.late_join_s:
                self._open_lane(0.0)
            elif self._joining is None or self._joining.when() < loop.time():
                self._joining = loop.call_later(self.late_join_s, self._join_late)
        return ticket

    def _join_late(self) -> None:
        self._joining = None
        if self._waiting and len(self._running) < self.lanes:
            self._open_lane(0.0)

    def _open_lane(self, window_s: float) -> None:
        lane = asyncio.create_task(self._run(window_s))
        self._running.add(lane)
        lane.add_done_callback(self._running.discard)

    def _leave(self, ticket: _Ticket) -> None:
        """Nobody waits for this ticket any more."""
        self._waiting.pop(ticket, None)
        if ticket.key is not None and self._by_key.get(ticket.key) is ticket:
            del self._by_key[ticket.key]
        if ticket.batch is not None and not any(other.wanted() for other in ticket.batch.tickets):
            ticket.batch.asking.cancel()

    async def _run(self, window_s: float) -> None:
        """Work until nobody waits. The window counts only from idle: behind a running batch requests have gathered already."""
        await asyncio.sleep(window_s)
        while batch := self._next_batch():
            began = perf_counter()
            self._began.append(began)
            for ticket in batch:
                ticket.started = began
            try:
                await self._answer(batch)
            finally:
                self._began.remove(began)

    def _next_batch(self) -> list[_Ticket]:
        """In order of arrival, without those whom a batch's usual time would make late: they hear it now. Where all would be, some are
        taken all the same: only a batch tells how long one takes by now."""
        now = perf_counter()
        if self.breaker.shut:
            self._resolve(list(self._waiting), None, "teacher_down")
        batch: list[_Ticket] = []
        late: list[_Ticket] = []
        for ticket in self._waiting:
            if len(batch) == self.batch_size:
                break
            (late if now + self.batch_s > ticket.until else batch).append(ticket)
        if batch:
            self._resolve(late, None, "overloaded")
        else:
            batch = late[: self.batch_size]
        for ticket in batch:
            del self._waiting[ticket]
        return batch

    async def _answer(self, tickets: Sequence[_Ticket]) -> None:
        """Whatever a model raises is a passthrough for the app, never a 500."""
        tries = _Tries()
        error = await self._try(tickets, tries)
        broken = [] if error is None else [(tickets, error)]
        while broken:
            part, error = broken.pop(0)
            if len(part) == 1 or self._hopeless(tries):
                self._fail(part, error)
                continue
            half = len(part) // 2
            halved = tries.answered or part is tickets
            for piece in (part[:half], part[half:]) if halved else (part[:1], part[-1:], part[1:-1]):
                failed = error if self._hopeless(tries) else await self._try(piece, tries)
                if failed is not None:
                    broken.append((piece, failed))

    def _hopeless(self, tries: _Tries) -> bool:
        return self.breaker.shut or tries.failed >= MOST_FAILED

    async def _try(self, tickets: Sequence[_Ticket], tries: _Tries) -> BaseException | None:
        """Ask the teacher once for these; the error after which halves may fare better. None: it answered, nobody waits any more, or it is
        too slow for all of them."""
        tickets = [ticket for ticket in tickets if ticket.wanted()]  # the others have given up
        if not tickets:
            return None
        began = perf_counter()
        asking = asyncio.ensure_future(self.policy.instruct([ticket.example for ticket in tickets]))
        batch = _Batch(tickets, asking)
        for ticket in tickets:
            ticket.batch = batch
        try:
            # After that long nobody of this batch is left, save who joined it late.
            await asyncio.wait({asking}, timeout=self.deadline_s)
        finally:
            timed_out = asking.cancel()
        took = perf_counter() - began
        longest_s, usual_s = max(ticket.limit_s for ticket in tickets), self.batch_s or HASTE_SHARE * self.deadline_s
        slow_s = min(SLOW_SHARE * self.deadline_s, max(SLOW_SHARE * longest_s, usual_s))
        left = asking.cancelled() and not any(ticket.wanted() for ticket in tickets)
        if timed_out or (left and any(ticket.late for ticket in tickets) and took >= slow_s):
            log.warning("the teacher took longer than %.3f s for a batch of %d", took, len(tickets))
            self.breaker.failed()
            self._resolve(tickets, None, "timeout")
            return None
        if left:
            return None
        error = asyncio.CancelledError() if asking.cancelled() else asking.exception() or _garbage(asking.result(), len(tickets))
        if error is None:
            self.batch_s = took if not self.batch_s else (1 - SMOOTHING) * self.batch_s + SMOOTHING * took
            tries.answered, tries.failed = True, 0
            self.breaker.succeeded()
            self._resolve(tickets, asking.result(), None)
        else:
            tries.failed += 1
            if not tries.answered:  # a teacher that answers others of the batch is not down
                self.breaker.failed()
        return error

    def _fail(self, tickets: Sequence[_Ticket], error: BaseException) -> None:
        if not isinstance(error, TimeoutError):
            # Type and place only: the text of an exception may quote the query.
            log.error("the teacher failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__, limit=-6)))
        self._resolve(tickets, None, "timeout" if isinstance(error, TimeoutError) else "teacher_failed")

    def _resolve(self, tickets: Sequence[_Ticket], instructions: Sequence[Instruction] | None, failure: Failure | None) -> None:
        """`instructions`: one a ticket; None = none, for `failure`."""
        now = perf_counter()
        for ticket, instruction in zip(tickets, [None] * len(tickets) if instructions is None else instructions, strict=True):
            self._waiting.pop(ticket, None)
            if ticket.key is not None and self._by_key.get(ticket.key) is ticket:
                del self._by_key[ticket.key]
            started = now if ticket.started is None else ticket.started
            for answer in ticket.answers:
                if not answer.done():
                    answer.set_result(Answer(instruction, failure, started - ticket.arrived, now - started))


def _garbage(instructions: object, wanted: int) -> TypeError | None:
    """The error where a policy breaks its protocol."""
    if isinstance(instructions, list) and len(instructions) == wanted and all(isinstance(i, Instruction) for i in instructions):
        return None
    return TypeError(f"the policy did not return {wanted} instructions")
