"""A key's limits as the service keeps them: in the store that replicas share, and in this process while that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from server.breaker import Breaker
from server.owed import Owed
from server.tracing import span
from store.limits import LEASE_S, Limiter, MemoryLimiter, Quota, Verdict
from store.protocol import StoreError


class SharedLimits:
    """A lease is given back where it was taken, in the store also after a while of its absence.

    The breaker is the limits' own: what fails elsewhere says nothing of them. What fails here is told to `others`, who would wait for the
    same store one after another."""

    def __init__(self, shared: Limiter | None, timeout_s: float, *, others: Sequence[Breaker] = ()) -> None:
        self.shared, self.timeout_s = shared, timeout_s
        self.breaker, self.others = Breaker(most_failures=1), others
        self.local = MemoryLimiter()
        self.owed = Owed(timeout_s)
        self._local_leases: set[str] = set()

    async def take(self, caller: str, quota: Quota, lease: str, tokens: int) -> Verdict:
        if self.shared is not None and self.breaker.allows():
            try:
                with span("store limits"):
                    async with asyncio.timeout(self.timeout_s):  # the wait for a free connection too
                        verdict = await self.shared.take(caller, quota, lease, tokens=tokens)
                self.breaker.succeeded()
                return verdict
            except (StoreError, TimeoutError):
                for breaker in (self.breaker, *self.others):
                    breaker.failed()
                self._owe(caller, quota, lease, 0)  # it may have been taken, and only the reply be lost
        verdict = await self.local.take(caller, quota, lease, tokens=tokens)
        if verdict.refused is None:
            self._local_leases.add(lease)
        return verdict

    async def give_back(self, caller: str, quota: Quota, lease: str, tokens: int) -> None:
        """Ends a lease that was granted; the store is told behind the caller's back. `tokens`: taken beyond what `take` was told."""
        if quota.concurrency is None and quota.tokens_per_minute is None:
            self._local_leases.discard(lease)
        elif lease in self._local_leases:
            self._local_leases.discard(lease)
            await self.local.give_back(caller, quota, lease, tokens=tokens)
        else:
            self._owe(caller, quota, lease, tokens)

    def _owe(self, caller: str, quota: Quota, lease: str, tokens: int) -> None:
        if self.shared is not None and (quota.concurrency is not None or quota.tokens_per_minute is not None):
            self.owed.add(partial(self.shared.give_back, caller, quota, lease, tokens=tokens), for_s=LEASE_S)

    async def aclose(self) -> None:
        await self.owed.aclose()
