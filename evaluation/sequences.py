"""Asymptotic confidence sequences: intervals for a difference of means that stay valid however often one looks.

Looking at a 95 % interval after every outcome and stopping at the first that excludes 0 finds a "difference" in half of all A/A tests. The
sequences here may be looked at after every outcome. scipy and statsmodels hold none.

Source of every formula: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 52(6), 2024. GrowthBook's `gbstats` computes the same two-sided form.
"""

from __future__ import annotations

import math

DEFAULT_PLANNED_N = 5_000
"""Units in the two arms together at which the interval is narrowest where nobody planned a number. It must not be read off the data, or the
sequence would no longer be valid; 5,000 is GrowthBook's default, at which a rate near a half resolves about 4 points."""

BURN_IN_UNITS = 100
"""Units an arm needs before the asymptotic sequence is looked at. Looking from 2 units an arm on, 15 % of A/A tests at a rate of one half
find a difference at alpha 0.05; from 50 on, 2 %."""

BURN_IN_EACH_WAY = 10
"""For 0/1 metrics: units with a success, and units with a failure, that each arm needs too."""

BURN_IN_SKEWNESS = BURN_IN_EACH_WAY**-0.5
"""For other metrics: how skewed the difference may be, if both arms had the same distribution; that of a mean with ten successes. Even arms
cancel their skewness. At a split of 9 to 1 and log-normal values (sigma 2), 14 % of A/A tests find a difference without this."""


def tuning(alpha: float, planned_n: float) -> float:
    """rho, the constant that makes the sequence narrowest at `planned_n` units of both arms (section 2.2 of the paper).

    rho^2 = (-2 ln alpha + ln(-2 ln alpha) + 1) / planned_n. Every fixed rho > 0 is valid; it only says where the sequence is tightest.
    (gbstats has ln(-2 ln alpha + 1) in its place, which at planned_n/4 makes intervals 1 % wider and at planned_n 0.01 % narrower.)
    """
    base = -2.0 * math.log(alpha)
    return math.sqrt((base + math.log(base) + 1.0) / planned_n)


def half_width(deviation: float, n: float, *, alpha: float, rho: float) -> float:
    """Half the width of the two-sided sequence after `n` units (Theorem 2.2).

    s * sqrt(2 (n rho^2 + 1) / (n^2 rho^2) * ln(sqrt(n rho^2 + 1) / alpha)). `deviation` is s, the standard deviation of one unit's
    contribution: for two arms, s^2 = n (variance_a / n_a + variance_b / n_b) with n = n_a + n_b.
    """
    grown = n * rho * rho + 1.0
    return deviation * math.sqrt(2.0 * grown / (n * n * rho * rho) * math.log(math.sqrt(grown) / alpha))


def p_value(estimate: float, deviation: float, n: float, *, rho: float) -> float:
    """The smallest alpha whose two-sided sequence with this rho excludes 0: always valid, at most 1.

    1/p is the normal mixture exp(n^2 estimate^2 rho^2 / (2 s^2 (n rho^2 + 1))) / sqrt(n rho^2 + 1), half_width solved for alpha.
    """
    grown = n * rho * rho + 1.0
    score = n * estimate * rho / deviation
    exponent = score * score / (2.0 * grown)  # a product overflows to infinity, where ** would raise
    return min(1.0, math.exp(0.5 * math.log(grown) - exponent))


def lower_half_width(deviation: float, n: float, *, alpha: float, rho: float) -> float:
    """What the one-sided sequence takes off the estimate for its lower bound (the paper's one-sided form, appendix B).

    s * sqrt(2 (n rho^2 + 1) / (n^2 rho^2) * ln(1 + sqrt(n rho^2 + 1) / (2 alpha))). Tune rho at 2 alpha.
    """
    grown = n * rho * rho + 1.0
    return deviation * math.sqrt(2.0 * grown / (n * n * rho * rho) * math.log1p(math.sqrt(grown) / (2.0 * alpha)))


def one_sided_p_value(estimate: float, deviation: float, n: float, *, rho: float) -> float:
    """The smallest alpha whose one-sided lower bound lies above 0; 1 where the estimate is not above 0."""
    if estimate <= 0.0:
        return 1.0
    grown = n * rho * rho + 1.0
    score = n * estimate * rho / deviation
    exponent = score * score / (2.0 * grown)  # a product overflows to infinity, where ** would raise
    if exponent > 700.0:  # expm1 would overflow; the 1 it takes off no longer matters
        return math.exp(0.5 * math.log(grown) - exponent) / 2.0
    return min(1.0, math.sqrt(grown) / (2.0 * math.expm1(exponent))) if exponent > 0.0 else 1.0


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979), in the order given. Rejecting those <= alpha keeps the chance of any false one at alpha.

    It needs nothing but p-values that are each valid, whatever their dependence, so it holds at every look for always-valid ones.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: (p_values[i], i))):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
