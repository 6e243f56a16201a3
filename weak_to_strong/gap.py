"""How much of a gap is closed: RGR (W2SR) and PGR (Burns et al., arXiv 2312.09390) are one formula with other floors and ceilings.

    gap recovered = (x - floor) / (ceiling - floor)

RGR: floor = the untrained student, ceiling = the same student after reinforcement learning (arXiv 2505.20072). PGR: floor = the weak
teacher, ceiling = the strong model trained on ground truth. The value may be below 0 or above 1 and is never clipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluation.paired import resampled_means
from exchange.records import Record


def gap_recovered(x: float, floor: float, ceiling: float, *, eps: float = 1e-9) -> float:
    """(x - floor) / (ceiling - floor); NaN where the ceiling is not above the floor: there is no gap to recover."""
    return (x - floor) / (ceiling - floor) if ceiling > floor + eps else math.nan


class Recovered(Record):
    """A share of a gap, with a percentile bootstrap interval over questions (the three systems' grades of a question stay together).

    The three are None where there is no gap. Resamples without a gap are left out; `low` and `high` are None where those are more than
    one in twenty, because the interval would then be one of the lucky draws.
    """

    value: float | None
    low: float | None
    high: float | None
    x: float
    floor: float
    ceiling: float
    n: int


def recovered(
    x: Sequence[float | None], floor: Sequence[float | None], ceiling: Sequence[float | None], *, alpha: float = 0.05, seed: int = 0
) -> Recovered:
    """The gap recovered from per-question grades in [0, 1] of the three systems on the same questions; questions that one of them has no
    grade for are left out. Raises ValueError where no question is left, or the lengths differ."""
    rows = [(a, b, c) for a, b, c in zip(x, floor, ceiling, strict=True) if a is not None and b is not None and c is not None]
    if not rows:
        raise ValueError("no question was graded for all three systems")
    means = [float(value) for value in np.mean(rows, axis=0)]
    value = gap_recovered(*means)
    low = high = None
    if not math.isnan(value):
        drawn = resampled_means(rows, seed=seed)
        gap = drawn[:, 2] - drawn[:, 1]
        fit = gap > 1e-9
        if fit.mean() >= 0.95:
            low, high = (float(q) for q in np.quantile((drawn[fit, 0] - drawn[fit, 1]) / gap[fit], [alpha / 2, 1 - alpha / 2]))
    return Recovered(
        value=None if math.isnan(value) else value, low=low, high=high, x=means[0], floor=means[1], ceiling=means[2], n=len(rows)
    )  # fmt: skip
