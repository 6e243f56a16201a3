"""How many units an A/B test needs when it is read by a confidence sequence rather than once at the end.

The sequence may be looked at all along, and its interval is wider for it: at the planned number about 3.0 standard errors where a test
that is read once has 1.96. In return it may stop early. A test's power here is the chance that the sequence leaves out 0 at some look up
to the planned number, computed, not simulated: in the limit the scaled difference is a Brownian motion with drift, and its first crossing
of the boundary follows by recursion over time (Armitage, McPherson, Rowe 1969).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from evaluation.sequences import BURN_IN_EACH_WAY, BURN_IN_UNITS, tuning
from exchange.records import Record

LOOKS = 400
"""Looks in the recursion. Looking after every one of thousands of units finds an effect a little earlier still, so power errs low."""

SPACING = 0.01
"""Grid of the scaled difference."""

LARGEST_DRIFT = 15.0
MOST_UNITS = 1e15


class Plan(Record):
    """What a test needs. `units` are enrolled units (users, say), not events."""

    units: dict[str, int]
    """By arm."""
    total_units: int
    planned_n: int
    """Units in the control and the smallest other arm together: what `--planned-n` of the analysis takes."""
    days: int | None
    """At the given units a day; None where none were given."""
    power: float
    """Chance that the sequence shows the effect at some look up to the planned number."""
    expected_units: int
    """Units in all arms at which the test ends on average, if it stops as soon as the effect shows, and the effect is as planned."""
    fixed_units: int
    """Units in all arms that a test read once, at its end, would need."""
    alpha_each: float
    """Error level that each comparison gets: alpha over the number of comparisons, Holm's first step."""


@lru_cache(maxsize=4096)
def crossing(drift: float, alpha: float, tuned_alpha: float) -> tuple[float, float]:
    """(chance of crossing by the planned n, mean share of the planned n at which it ends) under a drift.

    `drift` is effect * sqrt(n) / s at the planned n; the sequence has error level `alpha` and is tuned to the planned n at `tuned_alpha`.
    With x = n rho^2 at the planned n, it crosses at time t in (0, 1] where |B(t)| > sqrt(2 (t x + 1) / x * ln(sqrt(t x + 1) / alpha)).
    """
    x = tuning(tuned_alpha, 1.0) ** 2
    times = np.arange(1, LOOKS + 1) / LOOKS
    limits = np.sqrt(2.0 * (times * x + 1.0) / x * np.log(np.sqrt(times * x + 1.0) / alpha))
    reach = math.ceil(float(limits[-1]) / SPACING) + 1
    grid = np.arange(-reach, reach + 1) * SPACING
    step = 1.0 / LOOKS
    width = math.ceil((5.0 * math.sqrt(step) + abs(drift) * step) / SPACING)
    kernel = stats.norm.pdf(np.arange(-width, width + 1) * SPACING, drift * step, math.sqrt(step)) * SPACING
    mass = np.zeros_like(grid)
    mass[reach] = 1.0
    ended = 0.0
    for limit in limits:
        ended += float(mass.sum()) * step  # still running during this step
        mass = np.convolve(mass, kernel)[width : width + len(grid)]
        mass[np.abs(grid) > limit] = 0.0
    return 1.0 - float(mass.sum()), ended


def needed_drift(power: float, alpha: float, tuned_alpha: float) -> float:
    """The drift at which the sequence crosses with probability `power` by the planned n."""
    return float(optimize.brentq(lambda drift: crossing(round(drift, 6), alpha, tuned_alpha)[0] - power, 0.0, LARGEST_DRIFT, xtol=1e-4))


def unit_variance(variance: float, *, events_per_unit: float = 1.0, icc: float = 0.0, covariate_correlation: float = 0.0) -> float:
    """Variance of a unit's mean: variance / m * (1 + (m - 1) icc) * (1 - r^2).

    The design effect of m events a unit with intra-class correlation icc (Kish 1965), and what CUPED takes off with a covariate whose
    correlation with the unit's mean is r.
    """
    return variance / events_per_unit * (1.0 + (events_per_unit - 1.0) * icc) * (1.0 - covariate_correlation**2)


def plan(
    effect: float,
    *,
    control_variance: float,
    arm_variance: float,
    weights: Mapping[str, float],
    control: str,
    alpha: float = 0.05,
    power: float = 0.8,
    metrics: int = 1,
    daily_units: float | None = None,
    rates: tuple[float, float] | None = None,
) -> Plan:
    """The plan for an absolute `effect`, from the variances of a unit's mean (`unit_variance`) and the arms' shares.

    The smallest arm beside the control decides. `rates` of a 0/1 metric (control, arm) raise the number to where the analysis may first
    look at the sequence. Raises ValueError where the effect is too small for any number of units.
    """
    others = [weight for arm, weight in weights.items() if arm != control]
    pair = weights[control] + min(others)
    share = min(others) / pair
    variance = control_variance / (1.0 - share) + arm_variance / share
    each = alpha / (len(others) * metrics)
    drift = needed_drift(power, each, alpha)
    least = BURN_IN_UNITS / min(share, 1.0 - share)
    for rate in rates or ():
        least = max(least, BURN_IN_EACH_WAY / min(rate, 1.0 - rate) / min(share, 1.0 - share))
    standardised = abs(effect) / math.sqrt(variance)
    if standardised < drift / math.sqrt(MOST_UNITS):
        raise ValueError(f"an effect of {effect:g} is so small against the spread that more than {MOST_UNITS:g} units would be needed")
    n = math.ceil(max((drift / standardised) ** 2, least))
    # A drift past LARGEST_DRIFT crosses for certain; the recursion's arrays would grow with it.
    reached, ended = crossing(round(min(standardised * math.sqrt(n), LARGEST_DRIFT), 6), each, alpha)
    fixed = ((stats.norm.ppf(1.0 - each / 2.0) + stats.norm.ppf(power)) / standardised) ** 2
    units = {arm: math.ceil(n * weight / pair) for arm, weight in weights.items()}
    total = sum(units.values())
    return Plan(
        units=units,
        total_units=total,
        planned_n=n,
        days=None if daily_units is None else math.ceil(total / daily_units),
        power=reached,
        expected_units=math.ceil(max(ended * n, least) / pair),
        fixed_units=math.ceil(fixed / pair),
        alpha_each=each,
    )
