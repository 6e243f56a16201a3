"""Pacing: at most so many requests at a time, a minute and a day, and bounded retries of what may succeed later.

A wrapper and not a base class, so that it stands in front of any adapter. The SDK's own retries are off: they would hide calls from the
ledger and multiply with these.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import Field

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from exchange.settings import Settings
from student_clients.errors import StudentError
from student_clients.forwarding import ForwardedReply
from student_clients.ledger import Adapter, StudentWrapper
from student_clients.rate_limits import RateLimits, Ticket
from student_clients.token_bounds import body_tokens_at_most, prompt_tokens_at_most

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
SLICE_S = 1.0
"""A wait for a rate limit looks up this often whether it is still worth while."""
LONG_WAIT_S = 60.0
"""A wait for a rate limit that is longer than this is told to the user."""


class PacingConfig(Settings):
    concurrency: int = Field(default=32, ge=1)
    """Requests in flight at most, per event loop. 32 keeps a small local server busy; a served vLLM on a GPU takes more."""
    max_attempts: int = Field(default=4, ge=1)
    """Tries of one request, the first included; 1 = no retries. 4 outlast a hiccup of two to three seconds."""
    backoff_s: float = Field(default=0.5, ge=0)
    """Wait before the first retry in seconds; doubles with every further one. The wait is drawn from the upper half of that, so that
    requests which failed together do not come back together."""
    max_wait_s: float = Field(default=60.0, ge=0)
    """Longest wait before a retry in seconds. A server whose Retry-After asks for more is given up on."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests sent in any 60 s at most, retries included; None = no limit of ours."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens (prompt and answer) in any 60 s at most. A request in flight weighs what it can take at most, then what it took."""
    requests_per_day: int | None = Field(default=None, ge=1)
    """Requests sent in any 24 h at most; a run that reaches it waits. Counted in this process."""
    tokens_per_day: int | None = Field(default=None, ge=1)
    """Tokens in any 24 h at most."""

    def rate_limits(self) -> RateLimits:
        return RateLimits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            requests_per_day=self.requests_per_day,
            tokens_per_day=self.tokens_per_day,
        )


class PacedStudent(StudentWrapper):
    """Passes requests on to `client` under limits on concurrency and rate, repeats those that fail with a retryable StudentError, and asks
    again for the rest where a server gives fewer completions than `n` (some ignore it).

    A request that waits to be repeated keeps its place, so that a server that limits us is not pressed by the others. The last error is
    raised when the attempts are used up. Costs of all attempts are in the ledger.
    """

    def __init__(
        self,
        client: Adapter,
        config: PacingConfig,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
        limits: RateLimits | None = None,
    ) -> None:
        super().__init__(client)
        self.config = config
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._limits = limits or config.rate_limits()
        self._ended: RunError | None = None
        """Why nothing more can be asked (the budget is spent, say): whoever still waits need not wait for that."""
        # asyncio's semaphore belongs to one loop; the client is used from several over its life.
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    def _slot(self) -> asyncio.Semaphore:
        return self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.config.concurrency))

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        completions: list[Completion] = []
        async with self._slot():
            while len(completions) < n:
                completions += await self._ask(messages, params, n - len(completions), sample_index + len(completions))
        return completions[:n]

    async def _ask(self, messages: Sequence[Message], params: SamplingParams, n: int, sample_index: int) -> list[Completion]:
        """At least one completion, or the StudentError of the last attempt."""

        async def ask() -> list[Completion]:
            return await self.client.complete(messages, params, n=n, sample_index=sample_index)

        ticket, completions = await self._repeated(ask, prompt_tokens_at_most(messages) + n * params.max_tokens)
        if taken := sum(c.prompt_tokens + c.completion_tokens for c in completions):  # some servers send no usage
            self._limits.settle(ticket, taken)
        return completions

    @asynccontextmanager
    async def forward(
        self,
        body: Mapping[str, Any],
        *,
        content: bytes | None = None,
        path: str = "chat/completions",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[ForwardedReply]:
        """Pass a proxied request on. Repeated only before its first byte: what has begun to arrive is not asked for again."""
        begin = functools.partial(super().forward, body, content=content, path=path, headers=headers)
        async with self._slot(), AsyncExitStack() as stack:

            async def ask() -> ForwardedReply:
                return await stack.enter_async_context(begin())

            ticket, reply = await self._repeated(ask, body_tokens_at_most(body))
            yield reply
            if reply.usage is not None:
                self._limits.settle(ticket, reply.usage.prompt_tokens + reply.usage.completion_tokens)

    async def _repeated(self, ask: Callable[[], Awaitable[Answer]], tokens: int) -> tuple[Ticket, Answer]:
        """(ticket, answer) of the first attempt that succeeds, or the StudentError of the last one."""
        attempt = 1
        while True:
            ticket = await self._within_rate(tokens)
            try:
                return ticket, await ask()
            except RunError as error:
                self._ended = error
                raise
            except StudentError as error:
                wait_s = self._wait_s(attempt, error)
                if wait_s is None:
                    raise
            await self._sleep(wait_s)
            attempt += 1

    async def _within_rate(self, tokens: int) -> Ticket:
        told = False
        while True:
            if self._ended is not None:
                raise self._ended
            found = self._limits.take(tokens)
            if not isinstance(found, tuple):
                return found
            wait_s, setting = found
            if wait_s > LONG_WAIT_S and not told:
                log.warning("student.pacing.%s is used up: %s waits %.0f s", setting, self.name, wait_s)
                told = True
            await self._sleep(min(wait_s, SLICE_S))

    def _wait_s(self, attempt: int, error: StudentError) -> float | None:
        """Seconds to wait before the next attempt; None = do not try again."""
        if not error.retryable or attempt == self.config.max_attempts:
            return None
        asked_s = error.retry_after_s or 0.0
        if asked_s > self.config.max_wait_s:
            return None
        backoff_s = min(self.config.backoff_s * 2.0 ** (attempt - 1), self.config.max_wait_s)
        return asked_s + backoff_s * self._rng.uniform(0.5, 1.0)
