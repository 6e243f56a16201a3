"""What a key may spend a day (UTC), in dollars of the students behind the proxy and in tokens: reserved before, settled after a request.

Kept in the Redis that replicas share, else in an SQLite file that the workers of one machine share. An account that cannot be asked
counts as spent. Dollars are reserved at a request's highest possible price, so that requests in flight never pass the budget together;
tokens as about what was sent, so that they may, by the answers that are on their way.

A key past its budget gets what its `on_failure` says: 429, or the raw messages. Raw messages that go to a student cost all the same, and
are booked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import partial

from server.breaker import Breaker
from server.keys import Caller
from server.owed import Owed
from store import Store, StoreError
from student_clients.budget import NANO

log = logging.getLogger("wst.server")

OWED_S = 24 * 3600.0
OVER, UNKNOWN = "over_budget", "budget_unknown"


@dataclass(frozen=True)
class Held:
    """What one request has set aside."""

    caller: str
    day: str
    tokens: int | None
    """None = this key has no budget of tokens."""
    nano: int | None
    """Nano-dollars; None = this key has no budget of dollars."""
    refused: str | None = None
    """Why nothing may be spent: over_budget or budget_unknown."""


class Budgets:
    """Used on one event loop. `now` is the time of day by which days are told apart."""

    def __init__(self, store: Store, *, timeout_s: float, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.store, self.timeout_s, self._now = store, timeout_s, now
        self.breaker = Breaker(most_failures=1)
        self.owed = Owed(max(timeout_s, 1.0))

    async def reserve(self, caller: Caller, *, tokens: int, nano: int = 0) -> Held | None:
        """Set aside what a request may cost; None where the key has no budget. Nothing is set aside where it is `refused`."""
        if caller.tokens_per_day is None and caller.dollars_per_day is None:
            return None
        wanted = Held(
            caller.id,
            self._now().date().isoformat(),
            None if caller.tokens_per_day is None else tokens,
            None if caller.dollars_per_day is None else nano,
        )
        if not self.breaker.allows():
            return _refused(wanted, UNKNOWN)
        try:
            async with asyncio.timeout(self.timeout_s):
                fits = await self._add(wanted, caller)
            self.breaker.succeeded()
        except (StoreError, TimeoutError) as error:  # whatever was set aside before it failed stays so
            self.breaker.failed()
            log.error("the budgets cannot be asked, so nothing is spent: %s", str(error) or "no answer in time")
            return _refused(wanted, UNKNOWN)
        return wanted if fits else _refused(wanted, OVER)

    def settle(self, held: Held | None, *, tokens: int, nano: int = 0) -> None:
        """Book what a request cost in place of what it had set aside; also one that was refused and went to the student all the same."""
        if held is None:
            return
        for what, reserved, cost in (("tokens", held.tokens, tokens), ("nano", held.nano, nano)):
            if reserved is None:
                continue
            change = cost - (0 if held.refused else reserved)
            if change:
                # Where a reply is lost it is open whether it was booked. Costs are booked again then, and what was set aside is not given
                # back again: both err on the side of having spent.
                book = partial(self.store.add, _account(held, what), {what: change})
                self.owed.add(book if change > 0 else partial(_once, book), for_s=OWED_S)

    async def spent(self, caller: str) -> tuple[int, float] | None:
        """(tokens, dollars) that a key with budgets spent today, what is set aside included; None where the store does not say."""
        day = self._now().date().isoformat()
        accounts = [(what, f"spent/{caller}/{day}/{what}") for what in ("tokens", "nano")]
        try:
            async with asyncio.timeout(self.timeout_s):
                tokens, nano = [(await self.store.totals(account)).get(what, 0) for what, account in accounts]
        except (StoreError, TimeoutError):
            return None
        return tokens, nano / NANO

    def retry_after_s(self) -> int:
        """Seconds until the next day begins."""
        now = self._now()
        return max(1, math.ceil((datetime.combine(now.date() + timedelta(days=1), time(), UTC) - now).total_seconds()))

    async def _add(self, wanted: Held, caller: Caller) -> bool:
        if wanted.tokens is not None and await self._full("tokens", wanted.tokens, caller.tokens_per_day or 0, wanted):
            return False
        limit = math.floor((caller.dollars_per_day or 0) * NANO)
        if wanted.nano is not None and await self._full("nano", wanted.nano, limit, wanted):
            if wanted.tokens is not None:
                await self.store.add(_account(wanted, "tokens"), {"tokens": -wanted.tokens})
            return False
        return True

    async def _full(self, what: str, amount: int, limit: int, wanted: Held) -> bool:
        return await self.store.add(_account(wanted, what), {what: amount}, limit=limit) is None

    async def aclose(self) -> None:
        await self.owed.aclose()
        await self.store.aclose()


async def _once(book: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(StoreError):
        await book()


def _account(held: Held, what: str) -> str:
    return f"spent/{held.caller}/{held.day}/{what}"


def _refused(wanted: Held, why: str) -> Held:
    return Held(wanted.caller, wanted.day, wanted.tokens, wanted.nano, why)
