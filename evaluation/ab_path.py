"""How a comparison came to its verdict: the confidence sequence of an A/B test at looks from its first line to its last.

Each look is the analysis of the log as it stood then, so whoever looked that day saw these numbers. All of them hold together: the chance
that any interval of the path leaves out the truth is at most alpha.
"""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.ab import planned_shares, samples
from evaluation.ab_log import LogBuilder
from evaluation.two_arms import contrast
from exchange.records import Record

LOOKS = 40
"""Looks of a path, at equal numbers of lines: more cannot be told apart in a plot."""


class Look(Record):
    """One comparison as it stood when the log was so long."""

    time: float
    """Of the last line, seconds since 1970."""
    units: int
    """With an outcome of the metric, in both arms together."""
    difference: float | None
    low: float | None
    high: float | None


def paths(
    builder: LogBuilder, metric: str, control: str, *, alpha: float, planned_n: int, weights: Mapping[str, float]
) -> dict[str, tuple[Look, ...]]:
    """Arm -> its path on a metric; looks before both arms have an outcome are left out."""
    found: dict[str, list[Look]] = {arm: [] for arm in builder.arms if arm != control}
    total = len(builder)
    for lines in dict.fromkeys(-(-total * look // LOOKS) for look in range(1, LOOKS + 1)):
        log = builder.build(lines)
        shares, table = planned_shares(log.arms, weights), log.metrics.get(metric)
        if table is None:
            continue
        by_arm = samples(log, table)
        for arm, path in found.items():
            one, other = by_arm[control], by_arm[arm]
            if not one.units or not other.units:
                continue
            seen = contrast(one, other, binary=table.binary, alpha=alpha, planned_n=planned_n, shares=(shares[control], shares[arm]))
            path.append(Look(time=log.until, units=one.units + other.units, difference=seen.difference, low=seen.low, high=seen.high))
    return {arm: tuple(path) for arm, path in found.items()}
