"""The share of a gap that was recovered: PGR of Burns et al. (arXiv 2312.09390), RGR of W2SR (arXiv 2505.20072).

    PGR   floor = the weak teacher, ceiling = the strong model trained on the truth
    RGR   floor = the untrained student, ceiling = the same student trained by reinforcement learning
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluation.paired import resampled_means
from exchange.records import Record

NO_GAP = 1e-9


class Recovered(Record):
    """The share of the gap with its percentile bootstrap interval (95 %); None where ceiling <= floor: there is no gap to recover."""

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: float = 0.0
    """Share of resamples in which the ceiling is not above the floor; they stand outside the interval."""


def gap_recovered(value: float, floor: float, ceiling: float) -> float:
    """(value - floor) / (ceiling - floor), never clipped: below 0 is worse than the floor, above 1 better than the ceiling. NaN where the
    ceiling is not above the floor."""
    return (value - floor) / (ceiling - floor) if ceiling > floor + NO_GAP else math.nan


def recovered(values: Sequence[float], floor: Sequence[float], ceiling: Sequence[float], *, seed: int = 0) -> Recovered:
    """The share recovered with its interval, from the scores of three systems on the same questions in the same order.

    Questions are resampled, so the three stay paired. Raises ValueError where the lengths differ or there is none.
    """
    if not values or not len(values) == len(floor) == len(ceiling):
        raise ValueError(f"{len(values)}, {len(floor)} and {len(ceiling)} scores; the three systems must answer the same questions")
    rows = np.stack([values, floor, ceiling], axis=1).astype(float)
    share = gap_recovered(*rows.mean(axis=0))
    if math.isnan(share):
        return Recovered(value=None)
    drawn = resampled_means(rows, seed=seed)
    defined = drawn[drawn[:, 2] > drawn[:, 1] + NO_GAP]
    low, high = np.quantile((defined[:, 0] - defined[:, 1]) / (defined[:, 2] - defined[:, 1]), [0.025, 0.975])
    return Recovered(value=share, low=low, high=high, undefined=1 - len(defined) / len(drawn))
