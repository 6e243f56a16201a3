"""Paired statistics on questions that two arms both answered.

Intervals of a difference are percentile bootstraps over questions (Efron 1979), single rates get Wilson's interval, the p-value is
McNemar's exact test where every score is 0 or 1 and the sign-flip permutation test elsewhere. Every random draw is seeded.

A question that was sampled k times enters as one value, the mean of its samples, so questions are the clusters (Miller 2024, arXiv
2411.00640), and as each arm draws its own answers the intervals hold the student's sampling variance beside that of the questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from exchange.records import Record

RESAMPLES = 10_000
MOST_FAILED = 0.02
"""Share of questions without a score beyond which an arm is unfit for a claim."""
POWER = 0.8
"""Power at which the minimal detectable effect is stated."""


class ArmResult(Record):
    """One arm on its own. `mean` is the share right in [0, 1]; `low`/`high` its interval; `failed` answers are not in `n`."""

    mean: float
    low: float
    high: float
    n: int
    failed: int = 0
    silence_rate: float = 0.0
    """Share of questions on which the arm kept silent."""
    unfit: bool = False
    """More than MOST_FAILED of the questions have no score: who is missing may not be chance, so the arm supports no claim."""


class Comparison(Record):
    """One arm against another on the questions both answered. Rates are joint shares, so help - harm = difference."""

    difference: float
    low: float
    high: float
    p_value: float
    relative_gain: float | None
    """difference / control mean; None where the control is 0."""
    relative_low: float | None = None
    relative_high: float | None = None
    help_rate: float
    harm_rate: float
    n: int
    p_holm: float | None = None
    """The p-value after Holm's adjustment for all arms of the table."""
    p_equivalent: float = 1.0
    """p-value of TOST: two one-sided tests of a difference beyond the margin (Schuirmann 1987); small = the arms are alike."""
    detectable: float = 0.0
    """Minimal detectable effect: the true difference that this many questions would show with a probability of 80 %."""
    churn: float = 0.0
    """Share of questions that the student's own sampling alone helps, and as many that it harms; 0 where it is greedy."""
    churn_unknown: int = 0
    """Questions whose second raw answer failed, so that nobody knows their churn: left out of `churn` and of the net rates."""
    net_help_rate: float = 0.0
    """help_rate - churn over the questions whose churn is known, with its interval."""
    net_help_low: float = 0.0
    net_help_high: float = 0.0
    net_harm_rate: float = 0.0
    """harm_rate - churn over the same questions, with its interval."""
    net_harm_low: float = 0.0
    net_harm_high: float = 0.0


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


def newcombe(first: tuple[float, int], second: tuple[float, int], alpha: float = 0.05) -> tuple[float, float]:
    """Interval of the difference of two independent rates, each (successes, n) (Newcombe 1998, method 10)."""
    (x1, n1), (x2, n2) = first, second
    (low1, high1), (low2, high2) = wilson(x1, n1, alpha), wilson(x2, n2, alpha)
    rate1, rate2 = (x1 / n1 if n1 else 0.5), (x2 / n2 if n2 else 0.5)
    low = rate1 - rate2 - math.sqrt((rate1 - low1) ** 2 + (high2 - rate2) ** 2)
    high = rate1 - rate2 + math.sqrt((high1 - rate1) ** 2 + (rate2 - low2) ** 2)
    return low, high


def resampled_means(
    rows: Sequence[Sequence[float]] | NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """(resamples, columns) means of each column over rows drawn with replacement; the columns of a row stay together."""
    distinct, counts = np.unique(np.asarray(rows, dtype=float), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    blocks = [rng.multinomial(len(rows), counts / len(rows), size=resamples // 10) @ distinct for _ in range(10)]
    return np.asarray(np.concatenate(blocks) / len(rows))


def standard_error(differences: Sequence[float]) -> float:
    """Standard error of the mean of paired differences, half a pair added in either direction (Agresti and Min 2005), so that a sample
    without a discordant pair is not taken for certainty."""
    data = np.asarray(differences, dtype=float)
    n = len(data) + 1
    return math.sqrt(max(0.0, ((data**2).sum() + 1) / n - (data.sum() / n) ** 2) / n)


def equivalence(differences: Sequence[float], margin: float) -> float:
    """p-value of TOST for |difference| < margin, by the normal approximation."""
    error, mean = standard_error(differences), float(np.mean(differences))
    return float(max(stats.norm.sf((mean + margin) / error), stats.norm.sf((margin - mean) / error)))


def detectable(differences: Sequence[float], alpha: float = 0.05) -> float:
    """The smallest true mean difference that a two-sided test at `alpha` on as many questions shows with probability POWER."""
    return float((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(POWER)) * standard_error(differences))


def mcnemar(helped: int, harmed: int) -> float:
    """Exact two-sided McNemar p-value from the two discordant counts (McNemar 1947; binomial form); 1.0 where both are 0."""
    if helped + harmed == 0:
        return 1.0
    return float(stats.binomtest(helped, helped + harmed, 0.5).pvalue)


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided sign-flip permutation p-value for scores that are not 0/1."""
    data = np.asarray(differences, dtype=float)
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(10):  # in blocks: all signs at once would take 80 kB a question
        signs = rng.choice([-1.0, 1.0], size=(RESAMPLES // 10, len(data)))
        extreme += int((np.abs((signs * data).mean(axis=1)) >= abs(data.mean()) - 1e-12).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def arm_result(scores: Sequence[float | None], *, alpha: float = 0.05, silence_rate: float = 0.0) -> ArmResult:
    """Summarise one arm's scores; None = failed or not judged, counted apart."""
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if known else 0.0
    binary = all(score in (0.0, 1.0) for score in known)
    low, high = wilson(sum(known), len(known), alpha) if binary else bootstrap_mean(known, alpha=alpha)
    failed = len(scores) - len(known)
    return ArmResult(
        mean=mean,
        low=low,
        high=high,
        n=len(known),
        failed=failed,
        silence_rate=silence_rate,
        unfit=failed > MOST_FAILED * len(scores),
    )


def compare(
    treated: Sequence[float | None],
    control: Sequence[float | None],
    *,
    alpha: float = 0.05,
    margin: float = 0.05,
    churn: Sequence[float | None] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two arms question by question; all sequences are in the same order of questions.

    `churn` is what the student's sampling alone helps, and as much harms, on each question (`churn_floor`); None = nothing, and of a
    question = not known. Questions on which either arm failed are left out. Raises ValueError where the lengths differ or no question has
    both scores.
    """
    if len(treated) != len(control):
        raise ValueError(f"arms answered {len(treated)} and {len(control)} questions; a paired comparison needs the same ones")
    floor: Sequence[float | None] = churn if churn is not None else [0.0] * len(treated)
    pairs = [(t, c, f) for t, c, f in zip(treated, control, floor, strict=True) if t is not None and c is not None]
    if not pairs:
        raise ValueError("no question was scored under both arms, so nothing can be compared")
    differences = [t - c for t, c, _ in pairs]
    difference = sum(differences) / len(pairs)
    mean_control = sum(c for _, c, _ in pairs) / len(pairs)
    low, high = bootstrap_mean(differences, alpha=alpha, seed=seed)
    binary = all(value in (0.0, 1.0) for t, c, _ in pairs for value in (t, c))
    helped, harmed = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    help_rate = sum(d for d in differences if d > 0) / len(pairs)
    harm_rate = -sum(d for d in differences if d < 0) / len(pairs)
    known = [(t - c, c, f) for t, c, f in pairs if f is not None]
    over = known or [(t - c, c, 0.0) for t, c, _ in pairs]
    mean_churn = sum(f for _, _, f in over) / len(over)
    drawn = resampled_means([(d, c, max(d, 0.0) - f, max(-d, 0.0) - f) for d, c, f in over], seed=seed)
    ends = [alpha / 2, 1 - alpha / 2]
    means = drawn if len(over) == len(pairs) else resampled_means([(t - c, c) for t, c, _ in pairs], seed=seed)
    relative = means[means[:, 1] > 0]
    relative_low, relative_high = np.quantile(relative[:, 0] / relative[:, 1], ends) if mean_control else (None, None)
    net_help, net_harm = np.quantile(drawn[:, 2], ends), np.quantile(drawn[:, 3], ends)
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p_value=mcnemar(helped, harmed) if binary else sign_flip(differences, seed=seed),
        relative_gain=difference / mean_control if mean_control else None,
        relative_low=relative_low,
        relative_high=relative_high,
        help_rate=help_rate,
        harm_rate=harm_rate,
        n=len(pairs),
        p_equivalent=equivalence(differences, margin),
        detectable=detectable(differences, alpha),
        churn=mean_churn,
        churn_unknown=len(pairs) - len(known),
        net_help_rate=sum(max(d, 0.0) for d, _, _ in over) / len(over) - mean_churn,
        net_help_low=net_help[0],
        net_help_high=net_help[1],
        net_harm_rate=sum(max(-d, 0.0) for d, _, _ in over) / len(over) - mean_churn,
        net_harm_low=net_harm[0],
        net_harm_high=net_harm[1],
    )


def churn_floor(raw: Sequence[float | None], again: Sequence[float | None], touched: Sequence[bool]) -> list[float | None]:
    """What the student's own sampling helps, and as much harms, on each question on which an arm's messages are not raw's.

    Half of |raw again - raw|: two draws of one prompt are exchangeable, so either direction estimates the same rate, and with one floor
    for both net help - net harm is still the difference. Where an arm keeps silent it shares raw's answers and nothing churns. None = not
    known: one of the two raw answers failed.
    """
    rows = zip(raw, again, touched, strict=True)
    return [0.0 if not spoke else None if a is None or b is None else abs(a - b) / 2 for a, b, spoke in rows]


def verdict(comparison: Comparison) -> str:
    """What the interval allows to say: "gain", "harm" or "no gain"."""
    if comparison.low > 0:
        return "gain"
    return "harm" if comparison.high < 0 else "no gain"
