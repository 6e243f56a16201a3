"""One arm against another: the published formula, clusters, CUPED, the burn-in and guardrails, each against numbers from other code."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation.two_arms import Sample, contrast, guardrail, null_skewness, one_value_each

LEVEL = {"alpha": 0.05, "planned_n": 5_000}


def growthbook(a, b, alpha=0.05, planned_n=5_000):
    """(difference, half width, p) of gbstats' two-sided sequential test for an absolute difference of means."""
    n = len(a) + len(b)
    variance = np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / planned_n)
    s2 = variance * n
    half = math.sqrt(s2) * math.sqrt((2 * (n * rho**2 + 1)) * math.log(math.sqrt(n * rho**2 + 1) / alpha) / (n * rho) ** 2)
    difference = np.mean(b) - np.mean(a)
    tr2p1 = n * rho**2 + 1
    evalue = math.exp(rho**2 * (difference**2 * n / variance) / (2 * tr2p1)) / math.sqrt(tr2p1)
    return difference, half, min(1.0, 1 / evalue)


def sample(values, counts=None, covariates=None):
    """A sample from the lists of each unit's values, given as sums and counts."""
    total = np.asarray(values, dtype=float)
    count = np.ones_like(total) if counts is None else np.asarray(counts, dtype=float)
    covariate = np.full_like(total, np.nan) if covariates is None else np.asarray(covariates, dtype=float)
    return Sample(total, count, covariate, total > 0, total < count)


def draw(seed=0, n=(700, 300), effect=0.1):
    rng = np.random.default_rng(seed)
    return (rng.random(n[0]) < 0.4).astype(float), (rng.random(n[1]) < 0.4 + effect).astype(float)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("planned_n", [800, 5_000])
def test_the_sequence_is_growthbooks(binary, planned_n):
    a, b = draw()
    if not binary:
        a, b = a * 3.0 + np.arange(700) / 100, b * 3.0 + np.arange(300) / 70
    found = contrast(one_value_each(a), one_value_each(b), binary=binary, alpha=0.05, planned_n=planned_n)
    difference, half, p = growthbook(a, b, planned_n=planned_n)
    assert found.method == "confidence sequence"
    assert (found.difference, found.low, found.high) == pytest.approx((difference, difference - half, difference + half), rel=1e-12)
    assert found.p_value == pytest.approx(p, rel=1e-9)


def test_several_values_of_a_unit_are_one_piece_of_evidence():
    """Every outcome written down five times changes nothing but the number of outcomes."""
    a, b = draw()
    once = contrast(one_value_each(a), one_value_each(b), binary=True, **LEVEL)
    often = contrast(sample(5 * a, 5 * np.ones(700)), sample(5 * b, 5 * np.ones(300)), binary=True, **LEVEL)
    assert (often.low, often.high, often.p_value) == pytest.approx((once.low, once.high, once.p_value))


def test_unequal_clusters_get_the_cluster_robust_variance():
    """The sandwich of a regression on an arm dummy, clustered by unit, written out on the single values."""
    rng = np.random.default_rng(4)
    rows = []  # (unit, arm, value)
    for unit in range(600):
        arm, taste = unit % 2, rng.normal()
        rows += [(unit, arm, taste + 0.2 * arm + rng.normal()) for _ in range(rng.integers(1, 9))]
    units, arms, values = (np.array(column) for column in zip(*rows, strict=True))
    design = np.stack([np.ones(len(rows)), arms], axis=1)
    bread = np.linalg.inv(design.T @ design)
    beta = bread @ design.T @ values
    scores = np.zeros((600, 2))
    np.add.at(scores, units, design * (values - design @ beta)[:, None])
    sandwich = bread @ (scores.T @ scores) @ bread
    sums, counts = np.bincount(units, weights=values), np.bincount(units)
    found = contrast(sample(sums[::2], counts[::2]), sample(sums[1::2], counts[1::2]), binary=False, **LEVEL)
    assert found.difference == pytest.approx(beta[1])
    n, x = 600, 600 * (5.991465 + 1.790336 + 1) / 5_000
    factor = math.sqrt(2 * (x + 1) / (n * x) * math.log(math.sqrt(x + 1) / 0.05))
    deviation = math.sqrt(n * sandwich[1, 1])
    assert found.high - found.difference == pytest.approx(deviation * factor, rel=3e-3)  # ddof: 300/299


def test_cuped_takes_off_what_the_covariate_predicts():
    rng = np.random.default_rng(6)
    x_a, x_b = rng.normal(size=500), rng.normal(size=500)
    a, b = x_a + 0.5 * rng.normal(size=500), x_b + 0.2 + 0.5 * rng.normal(size=500)
    plain = contrast(one_value_each(a), one_value_each(b), binary=False, **LEVEL)
    found = contrast(sample(a, covariates=x_a), sample(b, covariates=x_b), binary=False, **LEVEL)
    x, y = np.concatenate([x_a, x_b]), np.concatenate([a, b])
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    difference, half, p = growthbook(a - slope * x_a, b - slope * x_b)
    assert (found.difference, found.high - found.difference, found.p_value) == pytest.approx((difference, half, p), rel=1e-9)
    assert found.correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    # r^2 = 0.8 of the variance goes, so the interval is near sqrt(0.2) = 0.45 of the plain one.
    assert 0.40 < (found.high - found.low) / (plain.high - plain.low) < 0.50


def test_gaps_in_the_covariate_are_filled_with_the_mean_of_both_arms():
    rng = np.random.default_rng(6)
    x_a, x_b = rng.normal(size=400), rng.normal(size=400)
    a, b = x_a + rng.normal(size=400), x_b + rng.normal(size=400)
    gappy_a, gappy_b = x_a.copy(), x_b.copy()
    gappy_a[::3], gappy_b[1::4] = np.nan, np.nan
    mean = np.nanmean(np.concatenate([gappy_a, gappy_b]))
    found = contrast(sample(a, covariates=gappy_a), sample(b, covariates=gappy_b), binary=False, **LEVEL)
    filled = [np.where(np.isnan(x), mean, x) for x in (gappy_a, gappy_b)]
    by_hand = contrast(sample(a, covariates=filled[0]), sample(b, covariates=filled[1]), binary=False, **LEVEL)
    assert found == by_hand
    plain = contrast(one_value_each(a), one_value_each(b), binary=False, **LEVEL)
    assert found.high - found.low < plain.high - plain.low


def test_a_covariate_that_the_arm_has_changed_is_refused():
    rng = np.random.default_rng(8)
    x_a, x_b = rng.normal(size=500), rng.normal(size=500) + 1.0
    a, b = x_a + rng.normal(size=500), x_b + rng.normal(size=500)
    found = contrast(sample(a, covariates=x_a), sample(b, covariates=x_b), binary=False, **LEVEL)
    assert found.difference == pytest.approx(b.mean() - a.mean())  # adjusting would have hidden the effect of 1
    assert found.correlation is None
    assert len(found.notes) == 1 and "not known before the exposure" in found.notes[0]


def test_an_arm_whose_units_bring_more_outcomes_is_noted():
    rng = np.random.default_rng(3)
    few, many = rng.integers(1, 4, 400), rng.integers(2, 6, 400)
    found = contrast(sample(0.5 * few, few), sample(0.6 * many, many), binary=False, **LEVEL)
    assert (found.method, found.notes) == ("none", ("every unit has the same value",))
    values = [rng.normal(0.5 * count, 1.0) for count in (few, many)]
    found = contrast(sample(values[0], few), sample(values[1], many), binary=False, **LEVEL)
    assert len(found.notes) == 1 and "who brings many" in found.notes[0]
    same = contrast(sample(values[0], few), sample(rng.normal(0.5 * few), few), binary=False, **LEVEL)
    assert same.notes == ()


def test_values_far_apart_overflow_nowhere():
    a, b = np.full(200, 1e15), 1e-140 * np.arange(200.0)
    found = contrast(one_value_each(a), one_value_each(b), binary=False, **LEVEL)
    assert found.p_value == 0.0 and found.high < 0.0


@pytest.mark.parametrize("x", [np.full(300, 2.0), np.full(300, np.nan)])
def test_a_covariate_that_says_nothing_changes_nothing(x):
    a, b = draw(n=(300, 300))
    found = contrast(sample(a, covariates=x), sample(b, covariates=x), binary=True, **LEVEL)
    assert found == contrast(one_value_each(a), one_value_each(b), binary=True, **LEVEL)


def test_the_sequence_starts_after_the_burn_in():
    a, b = np.tile([0.0, 1.0], 50), np.tile([0.0, 1.0], 50)
    assert contrast(one_value_each(a), one_value_each(b), binary=True, **LEVEL).method == "confidence sequence"
    assert contrast(one_value_each(a[1:]), one_value_each(b), binary=True, **LEVEL).method == "exact e-value"
    rare = np.repeat([0.0, 1.0], [991, 9])
    enough = np.repeat([0.0, 1.0], [990, 10])
    assert contrast(one_value_each(rare), one_value_each(enough), binary=True, **LEVEL).method == "exact e-value"
    assert contrast(one_value_each(enough), one_value_each(1 - enough), binary=True, **LEVEL).method == "confidence sequence"
    assert contrast(one_value_each(enough), one_value_each(1 - rare), binary=True, **LEVEL).method == "exact e-value"


def test_few_real_values_allow_nothing():
    found = contrast(one_value_each(np.arange(50.0)), one_value_each(np.arange(99.0) + 500), binary=False, **LEVEL)
    assert (found.low, found.high, found.p_value, found.method) == (None, None, 1.0, "none")
    assert found.difference == pytest.approx(549 - 24.5)
    assert found.notes == ("the smaller arm has 50 units with an outcome, 100 are needed",)


def test_skewed_values_in_uneven_arms_wait_longer():
    rng = np.random.default_rng(2)
    many, few, even = rng.lognormal(sigma=1.5, size=1_800), rng.lognormal(sigma=1.5, size=200), rng.lognormal(sigma=1.5, size=1_800)
    residuals = np.concatenate([many - many.mean(), few - few.mean()])
    # The third cumulant of a mean of n is gamma s^3 / n^2, its variance s^2 / n.
    expected = stats.skew(residuals) * (1 / 200**2 - 1 / 1_800**2) / (1 / 200 + 1 / 1_800) ** 1.5
    assert abs(null_skewness(many, few)) == pytest.approx(expected)
    found = contrast(one_value_each(many), one_value_each(few), binary=False, **LEVEL)
    assert found.method == "none" and "so skewed and the arms so uneven" in found.notes[0]
    assert contrast(one_value_each(many), one_value_each(even), binary=False, **LEVEL).method == "confidence sequence"
    assert contrast(one_value_each(np.log(many)), one_value_each(np.log(few)), binary=False, **LEVEL).method == "confidence sequence"


def test_no_outcomes_allow_nothing_at_all():
    found = contrast(one_value_each(np.zeros(0)), one_value_each(np.ones(500)), binary=True, **LEVEL)
    assert (found.difference, found.low, found.high, found.p_value) == (None, None, None, 1.0)


def test_values_without_any_spread_allow_nothing():
    found = contrast(one_value_each(np.full(300, 0.1)), one_value_each(np.full(300, 0.3)), binary=False, **LEVEL)
    assert (found.low, found.p_value) == (None, 1.0)


def test_the_exact_test_before_the_burn_in_spends_half_of_alpha():
    a, b = np.array([0.0, 0.0]), np.array([1.0, 1.0])
    # The e-value of two such pairs is 3.0112 (test_safe_test.py): p = 2 / 3.0112.
    assert contrast(one_value_each(a), one_value_each(b), binary=True, **LEVEL).p_value == pytest.approx(2 / 3.0112457)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), effect=st.floats(-0.2, 0.2), scale=st.floats(0.01, 1e6), shift=st.floats(-1e3, 1e3))
def test_properties_of_every_contrast(seed, effect, scale, shift):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=150), rng.normal(size=230) + effect
    found = contrast(one_value_each(a), one_value_each(b), binary=False, **LEVEL)
    assert (found.low <= 0.0 <= found.high) == (found.p_value >= 0.05)
    mirrored = contrast(one_value_each(b), one_value_each(a), binary=False, **LEVEL)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    moved = contrast(one_value_each(a * scale + shift), one_value_each(b * scale + shift), binary=False, **LEVEL)
    assert moved.p_value == pytest.approx(found.p_value, rel=1e-4)


def test_a_guardrail_stops_an_arm_that_is_surely_worse_than_the_margin():
    rng = np.random.default_rng(9)
    control, harmful = (rng.random(2_000) < 0.02).astype(float), (rng.random(2_000) < 0.10).astype(float)
    rail = {"binary": True, "alpha": 0.05, "planned_n": 4_000}
    found = guardrail(one_value_each(control), one_value_each(harmful), margin=0.01, **rail)
    n, variance = 4_000, np.var(control, ddof=1) / 2_000 + np.var(harmful, ddof=1) / 2_000
    base = -2 * math.log(0.1)
    x = base + math.log(base) + 1
    half = math.sqrt(n * variance * 2 * (x + 1) / (n * x) * math.log(1 + math.sqrt(x + 1) / 0.1))
    assert found.excess == pytest.approx(harmful.mean() - control.mean())
    assert found.low == pytest.approx(found.excess - half, rel=1e-9)
    assert found.breached
    assert not guardrail(one_value_each(control), one_value_each(harmful), margin=0.09, **rail).breached
    assert not guardrail(one_value_each(harmful), one_value_each(control), margin=0.0, **rail).breached


def test_a_guardrail_knows_which_direction_is_worse():
    rng = np.random.default_rng(9)
    good, bad = rng.normal(1.0, 1.0, 800), rng.normal(0.0, 1.0, 800)
    rail = {"binary": False, "alpha": 0.05, "planned_n": 1_600, "margin": 0.2}
    assert guardrail(one_value_each(good), one_value_each(bad), higher_is_worse=False, **rail).breached
    assert not guardrail(one_value_each(good), one_value_each(bad), **rail).breached


def test_a_guardrail_sees_a_disaster_before_the_burn_in():
    found = guardrail(one_value_each(np.zeros(25)), one_value_each(np.ones(25)), margin=0.1, binary=True, alpha=0.05, planned_n=4_000)
    assert found.breached and found.method == "exact e-value"
    turned = guardrail(
        one_value_each(np.ones(25)),
        one_value_each(np.zeros(25)),
        margin=0.1,
        binary=True,
        alpha=0.05,
        planned_n=4_000,
        higher_is_worse=False,
    )
    assert turned.breached
    assert not guardrail(
        one_value_each(np.zeros(9)), one_value_each(np.zeros(9)), margin=0.1, binary=True, alpha=0.05, planned_n=9
    ).breached
    nothing = guardrail(one_value_each(np.zeros(0)), one_value_each(np.ones(9)), margin=0.1, binary=True, alpha=0.05, planned_n=9)
    assert nothing.excess is None and not nothing.breached
