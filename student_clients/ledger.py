"""The call ledger: what a student was asked and what that took. It fills the `student` block of summary.json.

Whoever sends, counts: an adapter writes its calls and tokens into its own ledger where they happen, so that retries of the wrappers
above it are seen one by one. `CountingStudent` stands outermost and adds what only shows there: final failures and cache hits.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, cast

from exchange.protocols import SamplingParams, StudentClient
from exchange.records import Completion, Message
from student_clients.errors import StudentBadRequest, StudentError
from student_clients.forwarding import ForwardedReply


@dataclass(frozen=True)
class StudentStats:
    """Totals since the student was made."""

    calls: int = 0
    """HTTP requests for completions that reached the server, failed and repeated ones included, so that it equals the server's own
    count. For an embedded student: sequences computed."""
    cache_hits: int = 0
    """Completions that cost nothing: from a cache, or shared with an equal request in flight."""
    failures: int = 0
    """Completions that were asked for and in the end not given, after all retries."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Ledger:
    """Running totals. The lock is there because clients are used from several event loops, each on its own thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = StudentStats()

    def add(self, **amounts: float) -> None:
        """Add to the named totals."""
        with self._lock:
            held = asdict(self._stats)
            self._stats = replace(self._stats, **{name: held[name] + amount for name, amount in amounts.items()})

    @property
    def stats(self) -> StudentStats:
        return self._stats


class Adapter(StudentClient, Protocol):
    """What an adapter offers beyond answering; wrappers pass it on.

    An adapter makes one request and may give fewer than `n` completions, at least one; `PacedStudent` asks for the rest.
    """

    ledger: Ledger

    @property
    def identity(self) -> str:
        """Whatever the answers depend on beside messages and parameters, e.g. address and model name or a fingerprint of the weights.
        Part of every cache key, so it is stable from process to process and holds no secret."""
        ...

    async def check(self) -> None:
        """Return if the student can answer, else raise a StudentError that says in one line what to do."""
        ...


class Forwarding(Protocol):
    """What adapters of servers, and the wrappers around them, offer a proxy."""

    def forward(
        self,
        body: Mapping[str, Any],
        *,
        content: bytes | None = None,
        path: str = "chat/completions",
        headers: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[ForwardedReply]:
        """Send a request as it stands and give the reply from its first byte on (`OpenAICompatibleStudent.forward`)."""
        ...


def forwarding(client: object) -> Forwarding:
    """`client` as one that can forward. Raises StudentBadRequest where it has no server."""
    if not hasattr(client, "forward"):
        raise StudentBadRequest("this student has no server to forward to; use one of kind openai")
    return cast(Forwarding, client)


class StudentWrapper:
    """Base of whatever takes a client and gives a client: passes on all that it does not do itself, which is `complete` at least."""

    def __init__(self, client: Adapter) -> None:
        self.client = client
        self.name = client.name
        self.ledger = client.ledger

    @functools.cached_property
    def identity(self) -> str:
        return self.client.identity

    def forward(
        self,
        body: Mapping[str, Any],
        *,
        content: bytes | None = None,
        path: str = "chat/completions",
        headers: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[ForwardedReply]:
        """Pass a proxied request on."""
        return forwarding(self.client).forward(body, content=content, path=path, headers=headers)

    async def check(self) -> None:
        await self.client.check()

    async def aclose(self) -> None:
        await self.client.aclose()


class CountingStudent(StudentWrapper):
    """The outermost wrapper of every student: passes all calls on and keeps the ledger complete."""

    @property
    def stats(self) -> StudentStats:
        return self.ledger.stats

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        try:
            completions = await self.client.complete(messages, params, n=n, sample_index=sample_index)
        except StudentError:
            self.ledger.add(failures=n)
            raise
        self.ledger.add(cache_hits=sum(completion.cached for completion in completions))
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
        """Pass a proxied request on and count it where it fails."""
        try:
            async with super().forward(body, content=content, path=path, headers=headers) as reply:
                yield reply
        except StudentError:
            self.ledger.add(failures=1)
            raise
