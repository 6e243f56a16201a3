"""Paired statistics on questions that two arms both answered.

Intervals of a difference are percentile bootstraps over questions (Efron 1979), single rates get Wilson's interval, the p-value is
McNemar's exact test where every score is 0 or 1 and the sign-flip permutation test elsewhere. Every random draw is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from exchange.records import Record

RESAMPLES = 10_000


class ArmResult(Record):
    """One arm on its own. `mean` is the share right in [0, 1]; `low`/`high` its interval; `failed` answers are not in `n`."""

    mean: float
    low: float
    high: float
    n: int
    failed: int = 0
    silence_rate: float = 0.0
    """Share of questions on which the arm kept silent."""


class Comparison(Record):
    """One arm against another on the questions both answered. Rates are joint shares, so help - harm = difference."""

    difference: float
    low: float
    high: float
    p_value: float
    relative_gain: float | None
    """difference / control mean; None where the control is 0."""
    help_rate: float
    harm_rate: float
    n: int


def wilson(successes: float, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson's score interval for a rate (Wilson 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf(1 - alpha / 2))
    rate = successes / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_mean(values: Sequence[float], *, alpha: float = 0.05, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of per-question values; the values themselves are resampled, RESAMPLES times."""
    data = np.asarray(values, dtype=float)
    levels, counts = np.unique(data, return_counts=True)
    # Resampling n questions with replacement = a multinomial over the distinct values; exact and fast for 0/1 differences.
    draws = np.random.default_rng(seed).multinomial(len(data), counts / len(data), size=RESAMPLES)
    means = draws @ levels / len(data)
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def mcnemar(helped: int, harmed: int) -> float:
    """Exact two-sided McNemar p-value from the two discordant counts (McNemar 1947; binomial form); 1.0 where both are 0."""
    if helped + harmed == 0:
        return 1.0
    return float(stats.binomtest(helped, helped + harmed, 0.5).pvalue)


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided sign-flip permutation p-value for scores that are not 0/1."""
    data = np.asarray(differences, dtype=float)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(RESAMPLES, len(data)))
    extreme = np.abs((signs * data).mean(axis=1)) >= abs(data.mean()) - 1e-12
    return float((extreme.sum() + 1) / (RESAMPLES + 1))


def arm_result(scores: Sequence[float | None], *, alpha: float = 0.05, silence_rate: float = 0.0) -> ArmResult:
    """Summarise one arm's scores; None = failed or not judged, counted apart."""
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if known else 0.0
    binary = all(score in (0.0, 1.0) for score in known)
    low, high = wilson(sum(known), len(known), alpha) if binary else bootstrap_mean(known, alpha=alpha)
    return ArmResult(mean=mean, low=low, high=high, n=len(known), failed=len(scores) - len(known), silence_rate=silence_rate)


def compare(treated: Sequence[float | None], control: Sequence[float | None], *, alpha: float = 0.05, seed: int = 0) -> Comparison:
    """Compare two arms question by question; both sequences are in the same order of questions.

    Questions on which either failed are left out. Raises ValueError where the lengths differ or no question has both scores.
    """
    if len(treated) != len(control):
        raise ValueError(f"arms answered {len(treated)} and {len(control)} questions; a paired comparison needs the same ones")
    pairs = [(t, c) for t, c in zip(treated, control, strict=True) if t is not None and c is not None]
    if not pairs:
        raise ValueError("no question was scored under both arms, so nothing can be compared")
    differences = [t - c for t, c in pairs]
    difference = sum(differences) / len(pairs)
    mean_control = sum(c for _, c in pairs) / len(pairs)
    low, high = bootstrap_mean(differences, alpha=alpha, seed=seed)
    binary = all(value in (0.0, 1.0) for pair in pairs for value in pair)
    helped, harmed = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p_value=mcnemar(helped, harmed) if binary else sign_flip(differences, seed=seed),
        relative_gain=difference / mean_control if mean_control else None,
        help_rate=sum(d for d in differences if d > 0) / len(pairs),
        harm_rate=-sum(d for d in differences if d < 0) / len(pairs),
        n=len(pairs),
    )


def verdict(comparison: Comparison) -> str:
    """What the interval allows to say: "gain", "harm" or "no gain"."""
    if comparison.low > 0:
        return "gain"
    return "harm" if comparison.high < 0 else "no gain"
