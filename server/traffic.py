"""What the counters said lately: a look every few seconds, kept for ten minutes, so that a page shows rates without a Prometheus.

All from this process's `/metrics`; a replica shows itself. Deliberately raw requests (a key's mode, an opted-out request) are no fallback.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from prometheus_client import CollectorRegistry

from student_clients.budget import NANO, Price

PERIOD_S = 2.0
SPAN_S = 600.0
WINDOW_S = 60.0
"""Of the figures that stand for now."""
MEANT = ("mode_", "canary", "opted_out")
"""Beginnings of reasons that somebody chose."""

Buckets = dict[float, float]
"""Upper bound in seconds -> observations up to it."""


@dataclass
class Counts:
    """Totals since the start, at one moment."""

    requests: float = 0.0
    errors: float = 0.0
    instructed: float = 0.0
    fallbacks: float = 0.0
    cached: float = 0.0
    queued: float = 0.0
    """Now."""
    tokens: dict[tuple[str, str], float] = field(default_factory=dict)
    """(student, kind) -> tokens."""
    waits: dict[str, Buckets] = field(default_factory=dict)
    """wst_teacher_seconds and its like, over all labels."""
    reasons: dict[str, float] = field(default_factory=dict)


def counted(registry: CollectorRegistry) -> Counts:
    """The totals of a registry now."""
    found = Counts()
    for sample in (sample for metric in registry.collect() for sample in metric.samples):
        labels, value = sample.labels, sample.value
        if sample.name == "wst_requests_total" and labels["route"] != "other":
            found.requests += value
            found.errors += value if labels["status"] >= "500" else 0.0
        elif sample.name == "wst_instructions_total":
            found.instructed += value
            found.cached += value if labels["source"] == "cache" else 0.0
        elif sample.name == "wst_degraded_total":
            found.reasons[labels["reason"]] = value
            found.fallbacks += 0.0 if labels["reason"].startswith(MEANT) else value
        elif sample.name == "wst_teacher_queued":
            found.queued = value
        elif sample.name == "wst_student_tokens_total":
            found.tokens[labels["student"], labels["kind"]] = value
        elif sample.name.endswith("_seconds_bucket"):
            buckets = found.waits.setdefault(sample.name.removesuffix("_bucket"), {})
            bound = float(labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + value
    return found


def quantile(before: Buckets, after: Buckets, share: float) -> float | None:
    """Seconds below which a share of what came between two looks lies, by the line through its bucket; None where nothing came. In the
    last, open bucket its lower bound."""
    came = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    total = came.get(math.inf, 0.0)
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, upto in came.items():
        if upto >= share * total:
            return low if bound == math.inf else low + (bound - low) * (share * total - below) / (upto - below)
        low, below = bound, upto
    raise AssertionError("the last bucket holds everything")


@dataclass(frozen=True)
class Rates:
    """What came between two looks."""

    requests_s: float
    errors_s: float
    fallback_share: float | None
    """None = nothing was asked."""
    cache_share: float | None
    teacher_p50_s: float | None
    teacher_p95_s: float | None
    overhead_p95_s: float | None
    student_p95_s: float | None


def rates(before: Counts, after: Counts, seconds: float) -> Rates:
    """Of `seconds` between the two."""
    asked = after.instructed - before.instructed

    def wait(name: str, share: float) -> float | None:
        return quantile(before.waits.get(name, {}), after.waits.get(name, {}), share)

    return Rates(
        requests_s=(after.requests - before.requests) / seconds,
        errors_s=(after.errors - before.errors) / seconds,
        fallback_share=(after.fallbacks - before.fallbacks) / asked if asked else None,
        cache_share=(after.cached - before.cached) / asked if asked else None,
        teacher_p50_s=wait("wst_teacher_seconds", 0.5),
        teacher_p95_s=wait("wst_teacher_seconds", 0.95),
        overhead_p95_s=wait("wst_overhead_seconds", 0.95),
        student_p95_s=wait("wst_student_seconds", 0.95),
    )


class Traffic:
    """One app's looks. Used on its event loop."""

    def __init__(self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry, self._clock = registry, clock
        self._looks: deque[tuple[float, Counts]] = deque(maxlen=int(SPAN_S / PERIOD_S) + 1)

    def look(self) -> None:
        """Take note of the counters."""
        self._looks.append((self._clock(), counted(self.registry)))

    async def keep_looking(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(PERIOD_S)

    def now(self) -> tuple[Counts, Rates | None]:
        """(totals, what came in the last minute); None before there are two looks."""
        at, totals = self._clock(), counted(self.registry)
        earlier = [look for look in self._looks if look[0] < at]
        if not earlier:
            return totals, None
        began, before = next((look for look in earlier if look[0] >= at - WINDOW_S), earlier[-1])
        return totals, rates(before, totals, at - began)

    def span_s(self) -> float:
        """Seconds that a plot shows: one, three or ten minutes, by how long there have been looks."""
        age = self._clock() - self._looks[0][0] if self._looks else 0.0
        return next((span for span in (60.0, 180.0) if age <= span), SPAN_S)

    def points(self, span_s: float, steps: int = 60) -> list[tuple[float, Rates, float]]:
        """(seconds ago, what came until then since the one before, queue) of the last `span_s`, oldest first, at most about `steps`."""
        at = self._clock()
        looks = [look for look in self._looks if look[0] >= at - span_s]
        every = max(1, math.ceil(span_s / PERIOD_S / steps))
        kept = looks[(len(looks) - 1) % every :: every] if looks else []  # ends with the latest
        return [(at - later[0], rates(earlier[1], later[1], later[0] - earlier[0]), later[1].queued) for earlier, later in pairwise(kept)]


def dollars(tokens: Mapping[tuple[str, str], float], prices: Mapping[str, Price | None]) -> dict[str, float | None]:
    """Student -> what its tokens cost; None = no price is configured. Prompt tokens that the provider read from its cache count in full."""
    return {
        student: None if price is None else price.nano(*(int(tokens.get((student, kind), 0)) for kind in ("prompt", "completion"))) / NANO
        for student, price in prices.items()
    }
