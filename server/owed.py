"""What the store is still owed: leases to give back and costs to book, which nobody waits for and which must not be forgotten.

Tried at once, and again while the store fails, however the breakers of the hot path stand. What is owed for longer than it matters is
dropped: a lease ends by time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic

from store.protocol import StoreError

log = logging.getLogger("wst.server")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
MOST_OWED = 100_000
"""What a store that is down for long makes us remember; the oldest is forgotten first."""
LAST_WAIT_S = 2.0
"""Longest that a server which ends tries still."""

Payment = Callable[[], Awaitable[object]]


class Owed:
    """Used on one event loop."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._due: deque[tuple[float, Payment]] = deque()
        self._paying: asyncio.Task[None] | None = None
        self._first: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._due) + len(self._first)

    def add(self, payment: Payment, *, for_s: float) -> None:
        """Have `payment` awaited until it raises no StoreError, for `for_s` at most. It must do no harm twice: a reply may be lost."""
        trying = asyncio.create_task(self._try(payment, monotonic() + for_s))
        self._first.add(trying)
        trying.add_done_callback(self._first.discard)

    async def _try(self, payment: Payment, until: float) -> None:
        """The first time, beside all others: in a line, they would come later the more there are."""
        try:
            async with asyncio.timeout(self.timeout_s):
                await payment()
            return
        except (StoreError, TimeoutError):
            self._due.append((until, payment))
        if len(self._due) > MOST_OWED:
            self._due.popleft()
        if self._paying is None or self._paying.done():
            self._paying = asyncio.create_task(self._pay())

    async def _pay(self) -> None:
        wait_s = FIRST_WAIT_S
        while self._due:
            until, payment = self._due.popleft()
            if monotonic() > until:
                continue
            try:
                async with asyncio.timeout(self.timeout_s):
                    await payment()
                wait_s = FIRST_WAIT_S
            except (StoreError, TimeoutError):
                self._due.append((until, payment))
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def aclose(self) -> None:
        """Try what is left for a moment, then let it be."""
        if self._first:
            await asyncio.wait(set(self._first))
        if self._paying is None or self._paying.done():
            return
        await asyncio.wait([self._paying], timeout=LAST_WAIT_S)
        if not self._paying.done():
            log.warning("the store does not answer: %d leases or costs were not given back", len(self._due) + 1)
            self._paying.cancel()
            await asyncio.wait([self._paying])
