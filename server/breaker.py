"""A circuit breaker: what fails again and again is left alone for a while, so that a dead neighbour costs nothing and not a timeout each.

closed ── `most_failures` in a row ──▶ open for `wait_s` ──▶ half open: one try ── succeeds ──▶ closed
                                          ▲                                     └─ fails ──▶ open, twice as long
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

LONGEST_FACTOR = 32
"""The wait doubles from failure to failure up to this many times the first one."""


class Breaker:
    """Used on one event loop; the caller asks `allows` before a try and reports how it went."""

    def __init__(self, *, most_failures: int = 5, wait_s: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        self.most_failures = most_failures
        self.wait_s = wait_s
        self._clock = clock
        self._failures = 0
        self._until: float | None = None
        """When the next try is due; None = closed."""
        self._factor = 1
        self._trying = False
        """Whether the one try of a half-open breaker is under way."""

    @property
    def open(self) -> bool:
        return self._until is not None

    @property
    def shut(self) -> bool:
        """Open, and nobody is trying."""
        return self.open and not self._trying

    def allows(self) -> bool:
        """Whether to try. Of those who ask when a try is due, the first gets True; the others wait for what comes of it, as long again."""
        if self._until is None:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self.wait_s * self._factor  # in case that the one who tries never reports
        self._trying = True
        return True

    def succeeded(self) -> None:
        self._failures, self._until, self._factor, self._trying = 0, None, 1, False

    def failed(self) -> None:
        self._failures += 1
        if self._until is not None:
            if not self._trying:  # begun before it opened: a batch that fails row by row is one outage and not five
                return
            self._factor, self._trying = min(2 * self._factor, LONGEST_FACTOR), False
        if self._until is not None or self._failures >= self.most_failures:
            self._until = self._clock() + self.wait_s * self._factor
