"""Paired statistics against exact answers, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from evaluation.paired import (
    arm_result,
    bootstrap_mean,
    churn_floor,
    compare,
    detectable,
    equivalence,
    mcnemar,
    newcombe,
    sign_flip,
    verdict,
    wilson,
)  # fmt: skip
from evaluation.sequences import holm


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


def test_rates_differences_and_holm_are_those_of_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar as theirs
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

    for count, n in [(0, 20), (7, 50), (490, 500), (20, 20)]:
        assert wilson(count, n) == pytest.approx(proportion_confint(count, n, method="wilson"))
    for first, second in [((56, 70), (48, 80)), ((0, 10), (3, 12)), ((9, 10), (1, 10))]:
        expected = confint_proportions_2indep(*first, *second, method="newcomb", compare="diff")
        assert newcombe(first, second) == pytest.approx(expected)
    assert mcnemar(17, 5) == pytest.approx(theirs([[40, 17], [5, 38]], exact=True).pvalue)
    p_values = [0.04, 0.001, 0.6, 0.02, 0.0003]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_equivalence_is_the_paired_tost_of_statsmodels_but_for_half_a_pair():
    from statsmodels.stats.weightstats import ttost_paired

    rng = np.random.default_rng(3)
    for shift in (0.0, 0.02, 0.06):
        treated = rng.binomial(1, 0.6, 2000).astype(float)
        control = np.where(rng.random(2000) < 0.05 + shift, 1 - treated, treated)
        expected = ttost_paired(treated, control, -0.05, 0.05)[0]
        assert equivalence((treated - control).tolist(), 0.05) == pytest.approx(expected, rel=0.15, abs=1e-6)
    # Twenty equal pairs are no proof of equality within 5 points; 500 are.
    assert equivalence([0.0] * 20, 0.05) > 0.05 > equivalence([0.0] * 500, 0.05)


def test_the_detectable_effect_is_detected_four_times_in_five():
    rng = np.random.default_rng(11)
    n, discordant = 400, 0.2
    base = np.repeat([1.0, -1.0, 0.0], [n * discordant / 2, n * discordant / 2, n * (1 - discordant)])
    effect = detectable(base.tolist())
    up, down = discordant / 2 + effect / 2, discordant / 2 - effect / 2
    found = 0
    for _ in range(1000):
        helped, harmed, _ = rng.multinomial(n, [up, down, 1 - up - down])
        z = (helped - harmed) / np.sqrt(helped + harmed)
        found += abs(z) > stats.norm.ppf(0.975)
    assert 0.74 < found / 1000 < 0.86


def test_the_relative_gain_has_an_interval_that_covers():
    rng = np.random.default_rng(5)
    covered = 0
    for i in range(200):
        control = rng.binomial(1, 0.4, 300)
        treated = np.where(control == 1, rng.binomial(1, 0.9, 300), rng.binomial(1, 0.4, 300))
        pair = compare(treated.astype(float).tolist(), control.astype(float).tolist(), seed=i)
        assert pair.relative_low < pair.relative_gain < pair.relative_high
        covered += pair.relative_low <= 0.2 / 0.4 <= pair.relative_high
    assert 180 <= covered <= 199
    assert compare([1.0, 0.0], [0.0, 0.0]).relative_low is None


def test_a_useless_arm_of_a_noisy_student_helps_and_harms_nobody_net_of_churn():
    """Raw, raw again and an arm that changes nothing, on questions of every difficulty: gross rates are far from 0, net ones are not."""
    rng = np.random.default_rng(2)
    covered = 0
    for i in range(200):
        p = rng.beta(0.5, 0.5, 400)
        raw, again, arm = (rng.binomial(1, p).astype(float).tolist() for _ in range(3))
        pair = compare(arm, raw, churn=churn_floor(raw, again, [True] * 400), seed=i)
        assert pair.help_rate > 0.05 and pair.harm_rate > 0.05
        assert pair.net_help_rate - pair.net_harm_rate == pytest.approx(pair.difference)
        covered += pair.net_help_low <= 0 <= pair.net_help_high and pair.net_harm_low <= 0 <= pair.net_harm_high
    assert covered >= 175


def test_a_silent_question_has_no_churn():
    assert churn_floor([1.0, 0.0, 1.0, None], [0.0, 1.0, 0.0, 1.0], [True, True, False, True]) == [0.5, 0.5, 0.0, None]


def test_a_question_whose_churn_is_not_known_is_left_out_of_the_net_rates_and_counted():
    arm, raw, again = [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, None]
    pair = compare(arm, raw, churn=churn_floor(raw, again, [True] * 4))
    assert (pair.help_rate, pair.harm_rate, pair.n, pair.churn_unknown) == (0.5, 0.0, 4, 1)
    assert pair.churn == pytest.approx(0.5 / 3)
    assert pair.net_help_rate == pytest.approx(1 / 3 - 0.5 / 3)
    assert pair.net_harm_rate == pytest.approx(-0.5 / 3)
    assert pair.net_help_low <= pair.net_help_rate <= pair.net_help_high
    assert compare(arm, raw, churn=[None] * 4).churn_unknown == 4


def test_several_samples_of_a_question_are_one_cluster():
    """The same 50 questions asked ten times each are not 500 questions."""
    rng = np.random.default_rng(4)
    p = rng.beta(0.5, 0.5, 50)
    treated = rng.binomial(10, p).astype(float) / 10
    pair = compare(treated.tolist(), [0.5] * 50)
    width = pair.high - pair.low
    assert width > 1.5 * 2 * 1.96 * np.sqrt(0.25 / 500)


def test_an_arm_with_more_than_two_per_cent_failures_is_unfit():
    assert not arm_result([1.0] * 98 + [None] * 2).unfit
    assert arm_result([1.0] * 97 + [None] * 3).unfit
