"""Rate limits on our own side: so many requests and tokens in any minute and any day, counted over a sliding window.

A provider's 429 costs a round trip and at some of them counts against the limit as well; keeping below it costs nothing. The window slides
(no fixed minute that starts anew), so that no span of 60 s or 24 h ever holds more than its limit. Counted in this process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

DAY_S = 86_400.0


@dataclass
class Entry:
    """One request in a window: when it started, and what it weighs."""

    at_s: float
    amount: int
    counted: bool = True
    """Whether it is still in its window."""


@dataclass
class Window:
    """At most `limit` in any span of `seconds`. `name` is the setting, for messages."""

    name: str
    limit: int
    seconds: float
    entries: deque[Entry] = field(default_factory=deque)
    total: int = 0

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.total += entry.amount

    def change(self, entry: Entry, amount: int) -> None:
        """Correct what an entry weighs."""
        if entry.counted:
            self.total += amount - entry.amount
        entry.amount = amount

    def wait_s(self, now_s: float, amount: int) -> float:
        """Seconds until `amount` more fits; 0 = now. More than the limit fits where the window is empty, else it would never pass."""
        while self.entries and self.entries[0].at_s <= now_s - self.seconds:
            old = self.entries.popleft()
            old.counted = False
            self.total -= old.amount
        excess = self.total + min(amount, self.limit) - self.limit
        for entry in self.entries:
            if excess <= 0:
                break
            excess -= entry.amount
            if excess <= 0:
                return entry.at_s + self.seconds - now_s
        return 0.0


@dataclass(frozen=True)
class Ticket:
    """A request that was let through, to be corrected when its tokens are known."""

    token_entries: tuple[Entry, ...]


class RateLimits:
    """Several windows over requests and tokens, safe to use from several threads."""

    def __init__(
        self,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        requests_per_day: int | None = None,
        tokens_per_day: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        requests = (("requests_per_minute", requests_per_minute, 60.0), ("requests_per_day", requests_per_day, DAY_S))
        tokens = (("tokens_per_minute", tokens_per_minute, 60.0), ("tokens_per_day", tokens_per_day, DAY_S))
        self.requests = [Window(name, limit, seconds) for name, limit, seconds in requests if limit is not None]
        self.tokens = [Window(name, limit, seconds) for name, limit, seconds in tokens if limit is not None]
        self.clock = clock
        self._lock = threading.Lock()

    def take(self, tokens: int) -> Ticket | tuple[float, str]:
        """Let a request of at most `tokens` tokens through, or (seconds to wait, the setting that makes it wait)."""
        with self._lock:
            now_s = self.clock()
            waits = [(window.wait_s(now_s, 1), window.name) for window in self.requests]
            waits += [(window.wait_s(now_s, tokens), window.name) for window in self.tokens]
            longest = max(waits, default=(0.0, ""))
            if longest[0] > 0:
                return longest
            for window in self.requests:
                window.add(Entry(now_s, 1))
            entries = tuple(Entry(now_s, min(tokens, window.limit)) for window in self.tokens)
            for window, entry in zip(self.tokens, entries, strict=True):
                window.add(entry)
            return Ticket(entries)

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """The request took `tokens` in truth."""
        with self._lock:
            for window, entry in zip(self.tokens, ticket.token_entries, strict=True):
                window.change(entry, tokens)


def hours_under_limits(calls: int, tokens: int, limits: RateLimits) -> float:
    """Hours that `calls` requests with `tokens` tokens in all take at least when every limit is used to the full."""
    spans_s = [window.seconds * calls / window.limit for window in limits.requests]
    spans_s += [window.seconds * tokens / window.limit for window in limits.tokens]
    return max(spans_s, default=0.0) / 3600
