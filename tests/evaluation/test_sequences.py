"""The sequences against numbers worked out apart from the code: by hand, by numerical integration, by solving for the error level."""

import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from evaluation.sequences import half_width, holm, lower_half_width, one_sided_p_value, p_value, tuning


def test_the_tuning_constant_is_the_published_one():
    # -2 ln 0.05 = 5.991465, its logarithm 1.790336: (5.991465 + 1.790336 + 1) / 5000 = 0.0017563601
    assert tuning(0.05, 5_000) ** 2 == pytest.approx(0.0017563601, rel=1e-7)


def test_half_width_by_hand():
    # N = 2000, rho^2 = 0.001, alpha = 0.05, s = 1: sqrt(2 * 3 / (4e6 * 0.001) * ln(sqrt(3) / 0.05)) = sqrt(0.0015 * 3.545038)
    assert half_width(1.0, 2_000, alpha=0.05, rho=math.sqrt(0.001)) == pytest.approx(math.sqrt(0.0015 * 3.5450384), rel=1e-7)
    assert half_width(2.5, 2_000, alpha=0.05, rho=math.sqrt(0.001)) == pytest.approx(2.5 * 0.07292158, rel=1e-6)


def test_the_sequence_is_about_narrowest_at_the_planned_number():
    """Against the best rho for that n, found by search, the published one loses under 0.1 % of the width."""
    best = optimize.minimize_scalar(
        lambda log_rho: half_width(1.0, 3_000, alpha=0.05, rho=math.exp(log_rho)), bounds=(-8, 0), method="bounded"
    )
    assert best.fun <= half_width(1.0, 3_000, alpha=0.05, rho=tuning(0.05, 3_000)) <= 1.001 * best.fun


@pytest.mark.parametrize(("estimate", "deviation", "n"), [(0.05, 1.0, 4_000), (-0.2, 2.0, 900), (0.01, 0.5, 300)])
def test_the_p_value_is_one_over_the_normal_mixture(estimate, deviation, n):
    rho = tuning(0.05, 2_000)
    score = n * estimate / deviation
    mixture = integrate.quad(lambda slope: math.exp(slope * score - slope**2 * n / 2) * stats.norm.pdf(slope, 0, rho), -10 * rho, 10 * rho)[
        0
    ]
    assert p_value(estimate, deviation, n, rho=rho) == pytest.approx(min(1.0, 1 / mixture), rel=1e-6)


@pytest.mark.parametrize("width", [half_width, lower_half_width])
def test_the_p_value_is_the_level_whose_interval_ends_at_zero(width):
    p_of = {half_width: p_value, lower_half_width: one_sided_p_value}[width]
    rho = tuning(0.05, 3_000)
    level = optimize.brentq(lambda alpha: width(1.0, 2_500, alpha=alpha, rho=rho) - 0.07, 1e-12, 0.9)
    assert p_of(0.07, 1.0, 2_500, rho=rho) == pytest.approx(level, rel=1e-6)


def test_the_one_sided_bound_is_no_narrower_than_its_exact_mixture():
    """Mixing over a half-normal gives 2 / sqrt(v + 1) exp(z) Phi(sqrt(2 z)); the closed form has to lie outside where that is 1/alpha."""
    rho, n, alpha = tuning(0.1, 2_000), 1_500, 0.05
    grown = n * rho**2 + 1
    z = optimize.brentq(lambda z: 2 / math.sqrt(grown) * math.exp(z) * stats.norm.cdf(math.sqrt(2 * z)) - 1 / alpha, 0.1, 50)
    exact = math.sqrt(2 * grown * z) / (n * rho)
    closed = lower_half_width(1.0, n, alpha=alpha, rho=rho)
    assert exact <= closed <= 1.05 * exact
    assert closed < half_width(1.0, n, alpha=alpha, rho=rho)


def test_p_values_at_the_ends():
    rho = tuning(0.05, 1_000)
    assert p_value(0.0, 1.0, 1_000, rho=rho) == 1.0
    assert p_value(100.0, 1.0, 10_000, rho=rho) == 0.0
    assert one_sided_p_value(-0.1, 1.0, 1_000, rho=rho) == 1.0
    assert one_sided_p_value(1e-30, 1.0, 1_000, rho=rho) == 1.0
    assert 0.0 < one_sided_p_value(1.2, 1.0, 1_000, rho=rho) < 1e-200


def test_a_brownian_path_leaves_the_sequence_with_at_most_alpha():
    """4,000 Gaussian paths of 3,000 steps, looked at from step 1 on: crossings stay under 5 %, and near it, or the width would be waste."""
    rng, rho = np.random.default_rng(5), tuning(0.05, 300)
    widths = np.array([half_width(1.0, n, alpha=0.05, rho=rho) for n in range(1, 3_001)])
    left = 0
    for _ in range(4_000):
        means = np.cumsum(rng.normal(size=3_000)) / np.arange(1, 3_001)
        left += bool((np.abs(means) > widths).any())
    assert 0.02 < left / 4_000 < 0.05


def test_holm_on_a_textbook_case():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
