"""One arm against its control on one metric: the difference, its sequence and p-value, valid at every look.

The unit of analysis is the unit of randomisation. A unit with several values (a user with several requests) enters with all of them, and
the arm's mean is sum over units of values / sum over units of counts; its variance over *units* is the delta method's (Deng, Knoblich, Lu,
"Applying the delta method in metric analytics", KDD 2018, section 3), which is the cluster-robust variance. That mean is the one a reader
can recompute from the log, and what a request earns on average. A unit's weight is capped at CAP times the median count, so that no
client can decide a test with one unit.

CUPED (Deng, Xu, Kohavi, Walker, WSDM 2013) takes off what a covariate from before the exposure predicts. Any fixed slope keeps the
difference unbiased; the slope is estimated on both arms pooled, so it cannot favour one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.safe_test import SafeTest, block_sizes
from evaluation.sequences import BURN_IN_EACH_WAY, BURN_IN_SKEWNESS, BURN_IN_UNITS, half_width, lower_half_width, p_value, tuning

CAP = 10
"""A unit counts with at most this many times the median number of values a unit has (median over all arms)."""

EARLY_SHARE = 0.5
"""Part of alpha that the exact test may spend before the burn-in. The sequence after it has all of alpha, as published, so together they
could in theory spend 1.5 alpha; measured over twice the planned units it is under alpha (benchmarks/results/sequential.json). At 1 the
two together came to 5 % of A/A tests."""

SURE = 0.001
"""Always-valid p-value at which two things are said that should not happen: a covariate that differs between the arms was not known before
the exposure and is not used; units that bring more outcomes in one arm are noted."""

Floats = NDArray[np.float64]
Method = Literal["confidence sequence", "exact e-value", "none"]


@dataclass(frozen=True)
class Sample:
    """One arm's units that have an outcome, in order of their first; arrays are (units,)."""

    total: Floats
    """Sum of the unit's values, after the cap."""
    count: Floats
    """Number of values it counts with, after the cap."""
    covariate: Floats
    """NaN where the unit has none."""
    hit: NDArray[np.bool_]
    """Whether a value of the unit is 1; read only for 0/1 metrics."""
    missed: NDArray[np.bool_]
    """Whether a value of the unit is 0; read only for 0/1 metrics."""

    @property
    def units(self) -> int:
        return len(self.count)

    def mean(self) -> float:
        return float(self.total.sum() / self.count.sum())

    def contributions(self) -> Floats:
        """(units,) what each unit adds: values whose plain mean is the arm's mean and whose spread is the delta method's.

        R + (total - R count) / mean(count); a unit's value itself where every unit has one.
        """
        mean = self.mean()
        return np.asarray(mean + (self.total - mean * self.count) / self.count.mean(), dtype=float)


@dataclass(frozen=True)
class Contrast:
    """Arm minus control. None where nothing valid can be said yet."""

    difference: float | None
    low: float | None
    high: float | None
    p_value: float
    method: Method
    correlation: float | None = None
    """Of the covariate with the outcome, where CUPED was used."""
    notes: tuple[str, ...] = ()


def one_value_each(values: Floats) -> Sample:
    """A sample of units with a single value and no covariate."""
    return Sample(values, np.ones_like(values), np.full_like(values, math.nan), values == 1.0, values == 0.0)


def waits_for(control: Sample, arm: Sample, *, binary: bool) -> str | None:
    """What the asymptotic sequence still lacks before it may be looked at; None past the burn-in."""
    units = min(control.units, arm.units)
    if units < BURN_IN_UNITS:
        return f"the smaller arm has {units} units with an outcome, {BURN_IN_UNITS} are needed"
    if binary:
        fewest = min(int(side.sum()) for sample in (control, arm) for side in (sample.hit, sample.missed))
        return None if fewest >= BURN_IN_EACH_WAY else f"an arm has {fewest} units with one of the outcomes, {BURN_IN_EACH_WAY} are needed"
    skewness = abs(null_skewness(control.contributions(), arm.contributions()))
    if skewness > BURN_IN_SKEWNESS:
        limit = f"skewness {skewness:.2g}, at most {BURN_IN_SKEWNESS:.2g}"
        return f"the values are so skewed and the arms so uneven that few units decide ({limit}); capping extreme values helps"
    return None


def null_skewness(a: Floats, b: Floats) -> float:
    """Skewness of the difference of means if both arms had the same distribution, that of the pooled residuals: 0 for even arms.

    gamma (n_a - n_b) / sqrt(n_a n_b (n_a + n_b)), from the third cumulants gamma s^3 / n^2 of the two means.
    """
    residuals = np.concatenate([a - a.mean(), b - b.mean()])
    scale = float(np.abs(residuals).max())
    if scale == 0.0:
        return 0.0
    residuals = residuals / scale
    gamma = float((residuals**3).mean() / (residuals**2).mean() ** 1.5)
    return gamma * (len(a) - len(b)) / math.sqrt(len(a) * len(b) * (len(a) + len(b)))


def contrast(
    control: Sample, arm: Sample, *, binary: bool, alpha: float, planned_n: float, shares: tuple[float, float] = (0.5, 0.5)
) -> Contrast:
    """Compare two arms at error level `alpha`.

    Past the burn-in: the confidence sequence. Before it: the exact e-value for 0/1 metrics (there a unit with several values enters with
    its mean), and nothing for others. `shares` are the planned shares of (control, arm). No outcome in an arm: everything is None.
    """
    if control.units == 0 or arm.units == 0:
        return Contrast(None, None, None, 1.0, "none")
    difference = arm.mean() - control.mean()
    lacking = waits_for(control, arm, binary=binary)
    if lacking is None:
        adjusted, deviation, correlation, note = adjusted_difference(control, arm, planned_n=planned_n)
        n, rho = control.units + arm.units, tuning(alpha, planned_n)
        if deviation > 0.0:
            half = half_width(deviation, n, alpha=alpha, rho=rho)
            p = p_value(adjusted, deviation, n, rho=rho)
            notes = tuple(text for text in (note, _uneven_counts(control, arm, planned_n=planned_n)) if text)
            return Contrast(adjusted, adjusted - half, adjusted + half, p, "confidence sequence", correlation, notes)
    if binary:
        low, high = _safe_test(control, arm, shares).interval(alpha * EARLY_SHARE)
        return Contrast(difference, low, high, early_p_value(control, arm, shares), "exact e-value")
    return Contrast(difference, None, None, 1.0, "none", notes=(lacking or "every unit has the same value",))


def _safe_test(control: Sample, arm: Sample, shares: tuple[float, float]) -> SafeTest:
    return SafeTest(control.total / control.count, arm.total / arm.count, blocks=block_sizes(*shares))


def early_p_value(control: Sample, arm: Sample, shares: tuple[float, float]) -> float:
    """The exact test's always-valid p-value as it counts before the burn-in of a 0/1 metric."""
    return min(1.0, _safe_test(control, arm, shares).p_value() / EARLY_SHARE)


def adjusted_difference(control: Sample, arm: Sample, *, planned_n: float) -> tuple[float, float, float | None, str | None]:
    """(difference, s, correlation with the covariate, note): s as `half_width` wants it, both after CUPED where it applies."""
    a, b = control.contributions(), arm.contributions()
    correlation, note = None, None
    if not (np.isnan(control.covariate).all() or np.isnan(arm.covariate).all()):
        x_a, x_b = _filled(control.covariate, arm.covariate)
        x, y = np.concatenate([x_a, x_b]), np.concatenate([a, b])
        spread = _spread(x_a, x_b)
        balance = p_value(float(x_b.mean() - x_a.mean()), spread, len(x), rho=tuning(SURE, planned_n)) if spread > 0.0 else 1.0
        if balance <= SURE:
            note = f"the covariate differs between the arms (p = {balance:.2g}), so it was not known before the exposure; it is not used"
        elif spread > 0.0 and np.ptp(y) > 0.0:
            slope = float(np.cov(x, y)[0, 1] / x.var(ddof=1))
            a, b = a - slope * (x_a - x.mean()), b - slope * (x_b - x.mean())
            correlation = float(np.corrcoef(x, y)[0, 1])
    return float(b.mean() - a.mean()), _spread(a, b), correlation, note


def _uneven_counts(control: Sample, arm: Sample, *, planned_n: float) -> str | None:
    """A note where units bring more outcomes each in one arm: a mean over outcomes then also shows who brings many."""
    spread = _spread(control.count, arm.count)
    means = [float(sample.count.mean()) for sample in (control, arm)]
    if spread == 0.0 or p_value(means[1] - means[0], spread, control.units + arm.units, rho=tuning(SURE, planned_n)) > SURE:
        return None
    return f"a unit brings {means[1]:.3g} outcomes in the arm and {means[0]:.3g} in the control, so the mean also shows who brings many"


def _filled(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Covariates with gaps filled by the mean of both arms: a constant that no arm can bend, so a gap costs precision and nothing else."""
    mean = float(np.nanmean(np.concatenate([a, b])))
    return np.where(np.isnan(a), mean, a), np.where(np.isnan(b), mean, b)


def _spread(a: Floats, b: Floats) -> float:
    """s with s^2 = n (variance_a / n_a + variance_b / n_b), n = n_a + n_b; a constant's rounding error counts as 0."""
    total = 0.0
    for values in (a, b):
        if np.ptp(values) > 1e-12 * np.abs(values).max():
            total += float(values.var(ddof=1)) / len(values)
    return math.sqrt((len(a) + len(b)) * total)


@dataclass(frozen=True)
class Excess:
    """How much worse an arm is than its control on a guardrail, and whether that is sure enough to stop the arm."""

    excess: float | None
    """In the direction that is worse; None without outcomes."""
    low: float | None
    """The excess is larger than this, at every look, with probability 1 - alpha; None before anything can be said."""
    breached: bool
    """`low` lies above the margin."""
    method: Method


def guardrail(
    control: Sample,
    arm: Sample,
    *,
    margin: float,
    binary: bool,
    alpha: float,
    planned_n: float,
    higher_is_worse: bool = True,
    shares: tuple[float, float] = (0.5, 0.5),
) -> Excess:
    """The one-sided sequence of an arm's excess over its control in errors, seconds, dollars; breached once it is surely above `margin`.

    An arm that is truly no worse than the margin is stopped with probability at most `alpha`, however often this is asked. Before the
    burn-in 0/1 metrics use the lower end of the exact two-sided interval.
    """
    if control.units == 0 or arm.units == 0:
        return Excess(None, None, False, "none")
    sign = 1.0 if higher_is_worse else -1.0
    excess = sign * (arm.mean() - control.mean())
    low: float | None = None
    method: Method = "none"
    spread = _spread(control.contributions(), arm.contributions()) if min(control.units, arm.units) > 1 else 0.0
    if spread > 0.0 and waits_for(control, arm, binary=binary) is None:
        low = excess - lower_half_width(spread, control.units + arm.units, alpha=alpha, rho=tuning(2.0 * alpha, planned_n))
        method = "confidence sequence"
    elif binary:
        bottom, top = _safe_test(control, arm, shares).interval(alpha * EARLY_SHARE)
        low, method = (bottom if higher_is_worse else -top), "exact e-value"
    return Excess(excess, low, low is not None and low > margin, method)
