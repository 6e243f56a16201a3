"""The exact test against plain loops, a numerical optimiser, and the definition: its mean under the null is at most 1."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from evaluation.safe_test import SafeTest, block_sizes


def bernoulli(value, rate):
    return (rate if rate > 0 else 1.0) ** value * ((1 - rate) if rate < 1 else 1.0) ** (1 - value)


def nearest(a, b, n_a, n_b, difference):
    """The point (t, t + difference) nearest to (a, b) in relative entropy, by search."""

    def divergence(t):
        parts = ((n_a, a, t), (n_b, b, t + difference))
        return sum(n * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) for n, p, q in parts)

    low, high = max(0.0, -difference) + 1e-12, min(1.0, 1.0 - difference) - 1e-12
    return optimize.minimize_scalar(divergence, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x


def e_value(a, b, n_a, n_b, difference):
    """Turner's e-value with Beta(0.18, 0.18) priors, block by block."""
    product = 1.0
    for block in range(min(len(a) // n_a, len(b) // n_b)):
        seen_a, seen_b = a[: block * n_a], b[: block * n_b]
        rate_a = (sum(seen_a) + 0.18) / (len(seen_a) + 0.36)
        rate_b = (sum(seen_b) + 0.18) / (len(seen_b) + 0.36)
        null_a = nearest(rate_a, rate_b, n_a, n_b, difference)
        for value in a[block * n_a : (block + 1) * n_a]:
            product *= bernoulli(value, rate_a) / bernoulli(value, null_a)
        for value in b[block * n_b : (block + 1) * n_b]:
            product *= bernoulli(value, rate_b) / bernoulli(value, null_a + difference)
    return product


def last(a, b, blocks=(1, 1), difference=0.0):
    return math.exp(SafeTest(np.array(a, float), np.array(b, float), blocks=blocks).log_e_values(difference)[-1])


def test_the_first_block_by_hand():
    # Before any outcome both rates are learned as 1/2, as is the null: the first block says nothing.
    assert last([0], [1]) == pytest.approx(1.0)
    # Then a = 0.18/1.36 = 0.132353, b = 1.18/1.36 = 0.867647, null 1/2: (1 - a) b / 0.25 = 3.0112457
    assert last([0, 0], [1, 1]) == pytest.approx(3.0112457)


@pytest.mark.parametrize("blocks", [(1, 1), (1, 3), (2, 1)])
@pytest.mark.parametrize("difference", [0.0, 0.3, -0.55])
def test_e_values_equal_a_plain_loop(blocks, difference):
    rng = np.random.default_rng(7)
    a, b = (rng.random(40) < 0.3).astype(int).tolist(), (rng.random(40) < 0.5).astype(int).tolist()
    assert last(a, b, blocks, difference) == pytest.approx(e_value(a, b, *blocks, difference), rel=1e-4)


@pytest.mark.parametrize("blocks", [(1, 1), (1, 2)])
@pytest.mark.parametrize(("rate_a", "difference"), [(0.5, 0.0), (0.03, 0.0), (0.2, 0.5), (0.9, -0.6), (0.0, 0.4)])
def test_the_mean_over_every_outcome_is_at_most_one(blocks, rate_a, difference):
    """All outcomes of three blocks, weighted by their exact probability where the null holds: this is what makes it an e-value."""
    n_a, n_b = 3 * blocks[0], 3 * blocks[1]
    mean = 0.0
    for outcome in itertools.product([0, 1], repeat=n_a + n_b):
        a, b = outcome[:n_a], outcome[n_a:]
        chance = math.prod(rate_a if y else 1 - rate_a for y in a) * math.prod(
            rate_a + difference if y else 1 - rate_a - difference for y in b
        )
        if chance > 0.0:
            mean += chance * last(a, b, blocks, difference)
    assert mean <= 1.0 + 1e-9
    assert mean > 0.5


def test_the_mean_is_at_most_one_for_values_between_0_and_1_too():
    """Units' means: three equally likely values with mean 0.5 in both arms, four blocks, every outcome."""
    values = (0.0, 0.5, 1.0)
    means = [last(outcome[:4], outcome[4:]) for outcome in itertools.product(values, repeat=8)]
    assert np.mean(means) <= 1.0 + 1e-9


def test_p_value_and_interval_on_a_clear_difference():
    rng = np.random.default_rng(1)
    test = SafeTest((rng.random(90) < 0.2).astype(float), (rng.random(90) < 0.7).astype(float))
    low, high = test.interval(0.05)
    assert test.p_value() < 0.001
    assert 0.0 < low < 0.5 < high < 1.0
    wide_low, wide_high = test.interval(0.001)
    assert wide_low < low and wide_high > high


def test_the_interval_ends_where_the_e_value_is_one_over_alpha():
    rng = np.random.default_rng(3)
    a, b = (rng.random(60) < 0.4).astype(int).tolist(), (rng.random(60) < 0.5).astype(int).tolist()
    low, high = SafeTest(np.array(a, float), np.array(b, float)).interval(0.04)
    for end in (low, high):
        assert e_value(a, b, 1, 1, end) == pytest.approx(25.0, rel=1e-3)


def test_nothing_yet():
    test = SafeTest(np.array([]), np.array([1.0]))
    assert test.p_value() == 1.0
    assert test.interval(0.05) == (-1.0, 1.0)


def test_a_difference_of_one_is_kept_where_the_arms_are_opposite():
    low, high = SafeTest(np.zeros(30), np.ones(30)).interval(0.05)
    assert low > 0.6 and high == 1.0
    low, high = SafeTest(np.ones(30), np.zeros(30)).interval(0.05)
    assert low == -1.0 and high < -0.6


outcomes = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(a=outcomes, b=outcomes)
def test_the_interval_holds_zero_where_the_p_value_is_large_and_mirrors(a, b):
    test, mirrored = SafeTest(np.array(a), np.array(b)), SafeTest(np.array(b), np.array(a))
    low, high = test.interval(0.05)
    assert -1.0 <= low <= high <= 1.0
    if test.p_value() > 0.05:
        assert low <= 0.0 <= high
    assert mirrored.p_value() == pytest.approx(test.p_value())
    assert mirrored.interval(0.05) == pytest.approx((-high, -low), abs=1e-6)


def test_block_sizes_follow_the_planned_shares():
    assert block_sizes(0.5, 0.5) == (1, 1)
    assert block_sizes(0.9, 0.1) == (9, 1)
    assert block_sizes(0.25, 0.5) == (1, 2)
    assert block_sizes(0.001, 0.999) == (1, 20)
