"""The sample-ratio check against the closed form of its Bayes factor, its definition, and small simulations."""

import itertools
import math

import numpy as np
import pytest
from scipy import special

from evaluation.sample_ratio import concentration, log_bayes_factors, sample_ratio_p_values


def closed_form(counts, weights, kappa):
    """ln of B(kappa w + counts) / B(kappa w) / prod w^counts, with B the multivariate beta function."""
    prior = [kappa * w for w in weights]
    total = special.gammaln(kappa) - special.gammaln(kappa + sum(counts))
    total += sum(special.gammaln(a + s) - special.gammaln(a) for a, s in zip(prior, counts, strict=True))
    return total - sum(s * math.log(w) for s, w in zip(counts, weights, strict=True))


def test_the_prior_has_a_standard_deviation_of_one_point():
    assert concentration([0.5, 0.5]) == pytest.approx(2_499)
    # Beta(kappa/2, kappa/2) varies by 1 / (4 (kappa + 1)) = 0.01^2
    assert math.sqrt(0.25 / 2_500) == pytest.approx(0.01)
    assert concentration([0.9, 0.05, 0.05]) == pytest.approx(0.09 / 1e-4 - 1)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, 0.2, 0.1]])
def test_the_running_product_is_the_closed_form(weights):
    rng = np.random.default_rng(2)
    arms = rng.choice(len(weights), size=500, p=weights)
    factors = log_bayes_factors(arms, weights)
    for n in (1, 17, 500):
        counts = np.bincount(arms[:n], minlength=len(weights))
        assert factors[n - 1] == pytest.approx(closed_form(counts, weights, concentration(weights)), abs=1e-8)


def test_the_mean_over_every_sequence_is_one():
    weights = [0.3, 0.7]
    total = 0.0
    for arms in itertools.product([0, 1], repeat=7):
        chance = math.prod(weights[arm] for arm in arms)
        total += chance * math.exp(log_bayes_factors(np.array(arms), weights, deviation=0.2)[-1])
    assert total == pytest.approx(1.0)


def test_the_lowest_p_value_keeps_an_alarm_and_the_present_one_goes_by_the_counts():
    broken = np.array([0] * 3_000 + [1] * 3_000)  # mended later
    now, lowest = sample_ratio_p_values(broken, [0.5, 0.5])
    assert now == 1.0
    assert lowest == sample_ratio_p_values(broken[:3_000], [0.5, 0.5])[0] < 1e-6
    shuffled = np.random.default_rng(1).permutation(np.array([0] * 3_000 + [1] * 2_600))
    assert sample_ratio_p_values(shuffled, [0.5, 0.5])[0] == pytest.approx(sample_ratio_p_values(np.sort(shuffled), [0.5, 0.5])[0])
    assert sample_ratio_p_values(np.array([], dtype=np.int64), [0.5, 0.5]) == (1.0, 1.0)


def test_one_point_is_caught_at_a_hundred_thousand_and_a_sound_split_is_not():
    rng = np.random.default_rng(3)
    tilted = [sample_ratio_p_values((rng.random(100_000) < 0.51).astype(np.int64), [0.5, 0.5])[0] for _ in range(100)]
    sound = [sample_ratio_p_values((rng.random(100_000) < 0.5).astype(np.int64), [0.5, 0.5])[1] for _ in range(100)]
    assert sum(p <= 0.01 for p in tilted) >= 98
    assert sum(p <= 0.01 for p in sound) <= 4
