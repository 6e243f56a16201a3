"""Paired statistics against exact answers, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from evaluation.paired import arm_result, bootstrap_mean, compare, mcnemar, sign_flip, verdict, wilson


def test_wilson_equals_the_published_form():
    low, high = wilson(8, 10)
    expected = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert wilson(0, 0) == (0.0, 1.0)


def test_mcnemar_is_the_exact_binomial():
    assert mcnemar(10, 2) == pytest.approx(2 * sum(stats.binom.pmf(k, 12, 0.5) for k in range(3)))
    assert mcnemar(0, 0) == 1.0


def test_a_comparison_on_a_toy():
    treated = [1.0, 1.0, 1.0, 0.0, None, 1.0]
    control = [0.0, 1.0, 0.0, 1.0, 1.0, None]
    pair = compare(treated, control)
    assert pair.n == 4
    assert pair.difference == pytest.approx(0.25)
    assert (pair.help_rate, pair.harm_rate) == (0.5, 0.25)
    assert pair.help_rate - pair.harm_rate == pytest.approx(pair.difference)
    assert pair.relative_gain == pytest.approx(0.25 / 0.5)
    assert pair.p_value == mcnemar(2, 1)
    assert verdict(pair) == "no gain"


def test_the_bootstrap_covers_a_known_mean():
    rng = np.random.default_rng(7)
    covered = 0
    for i in range(200):
        data = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=300)
        low, high = bootstrap_mean(data.tolist(), seed=i)
        covered += low <= 0.2 <= high
    assert 180 <= covered <= 199


def test_bootstrap_is_seeded_and_agrees_with_scipy():
    data = [0.0, 1.0, 1.0, 0.5, -1.0, 0.25] * 20
    assert bootstrap_mean(data) == bootstrap_mean(data)
    theirs = stats.bootstrap((data,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert bootstrap_mean(data) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_identical_arms_show_nothing():
    pair = compare([1.0, 0.0] * 50, [1.0, 0.0] * 50)
    assert (pair.difference, pair.low, pair.high, pair.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_sign_flip_sees_a_shift_and_not_a_zero():
    assert sign_flip([0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.5, 0.4, 0.3, 0.6]) < 0.01
    assert sign_flip([0.0] * 10) == 1.0


def test_verdicts():
    assert verdict(compare([1.0] * 50, [0.0] * 50)) == "gain"
    assert verdict(compare([0.0] * 50, [1.0] * 50)) == "harm"


def test_failed_answers_are_counted_and_left_out():
    arm = arm_result([1.0, None, 0.0, None])
    assert (arm.mean, arm.n, arm.failed) == (0.5, 2, 2)


def test_what_cannot_be_compared_is_said():
    with pytest.raises(ValueError, match="the same ones"):
        compare([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="nothing can be compared"):
        compare([None], [1.0])
