"""What a probe's samples say: exact edges, known mixtures recovered, and a student that only wobbles has nothing to teach."""

import numpy as np
import pytest
from scipy import optimize

from evaluation.headroom import HALF_LEARNT, Estimate, Mixture, learnable, minus_log_likelihood, mixture, predicted, reachable, zero_part


def test_the_edges_are_exact():
    assert zero_part([0, 0, 0], [8, 8, 8]) == 1.0
    assert zero_part([1, 8, 3], [8, 8, 8]) == 0.0
    everything_right = reachable([1.0, 1.0], [0, 3], [8, 8])
    assert (everything_right.value, everything_right.low, everything_right.high) == (0.0, 0.0, 0.0)
    assert reachable([0.0] * 4, [0] * 4, [8] * 4).value == 0.0
    assert reachable([0.0, 0.0, 1.0, 1.0], [8, 8, 0, 0], [8] * 4).value == 0.5


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_the_zero_part_of_a_known_mixture_is_found(share):
    rng = np.random.default_rng(1)
    n = 2_000
    rates = np.where(rng.random(n) < share, 0.0, rng.beta(2.0, 6.0, n))
    assert zero_part(rng.binomial(8, rates), [8] * n) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("theta", [(-3.0, 0.5, 2.0), (1.0, -1.0, 0.3), (-8.5, 4.0, 5.0)])
def test_the_gradient_is_the_likelihoods(theta):
    counts = np.array([0.0, 1.0, 3.0, 8.0, 0.0]), np.array([8.0, 8.0, 8.0, 8.0, 16.0]), np.array([9, 4, 2, 1, 5])
    found = optimize.approx_fprime(np.array(theta), lambda at: minus_log_likelihood(at, *counts)[0], 1e-6)
    assert minus_log_likelihood(np.array(theta), *counts)[1] == pytest.approx(found, abs=1e-3)


def test_rare_hits_on_every_question_are_within_reach():
    """At a rate of 1 in 12 most questions are never hit in 8 samples, and yet all can be."""
    rng = np.random.default_rng(2)
    hits = rng.binomial(8, 1 / 12, 300)
    assert (hits == 0).mean() > 0.4
    found = reachable([0.0] * 300, hits, [8] * 300)
    assert found.high > 0.95 and found.value > 0.8


def test_a_hit_that_is_worth_no_more_than_raw_when_asked_again_was_luck():
    wrong, hits, trials = [0.0] * 4 + [1.0] * 4, [2] * 4 + [8] * 4, [8] * 8
    nothing = [None] * 4
    luck = reachable(wrong, hits, trials, again=[0.5] * 8, repeated=[0.5] * 4 + nothing)
    assert (luck.value, luck.high) == (0.0, 0.0)
    assert reachable(wrong, hits, trials, again=[0.25] * 8, repeated=[1.0] * 4 + nothing).value == pytest.approx(0.5 * 0.75)
    assert reachable(wrong, hits, trials).value == 0.5, "a greedy student's answers repeat"


def test_trials_that_end_at_the_first_hit_and_questions_without_trials_leave_the_mixture_as_it_is():
    rng = np.random.default_rng(5)
    n = 4_000
    rates = np.where(rng.random(n) < 0.4, 0.0, rng.beta(2.0, 6.0, n))
    first = rng.binomial(8, rates)
    more = np.where(first == 0, rng.binomial(8, rates), 0)
    found = mixture([*(first + more), *[0] * 99], [*np.where(first == 0, 16, 8), *[0] * 99])
    assert found.share == pytest.approx(0.4, abs=0.03)
    assert found.found(8) == pytest.approx((first > 0).mean(), abs=0.02)


def test_what_a_run_finds_and_makes_of_it():
    assert Mixture(share=0.5, a=1.0, b=1.0).found(1) == pytest.approx(0.25)
    assert Mixture(share=1.0, a=1.0, b=1.0).found(9) == Mixture(share=0.0, a=1.0, b=1.0).found(0) == 0.0
    could = Estimate(value=0.6, low=0.4, high=0.8)
    assert predicted(could, HALF_LEARNT).value == pytest.approx(0.3)
    assert predicted(could, 0.0).high == 0.0


WORDS = {"sum": "altogether both", "rest": "left over gone"}


def pairs(rng, right):
    """Questions of two kinds under 6 samples of two instructions; `right(kind, text)` says what is right."""
    queries, texts, grades = [], [], []
    for i in range(60):
        kind = ("sum", "rest")[i % 2]
        queries.append(f"Ann has {rng.integers(90)} and {WORDS[kind]} {rng.integers(90)}?")
        texts.append([("add the numbers", "subtract the numbers")[rng.integers(2)] for _ in range(6)])
        grades.append([float(right(kind, text)) for text in texts[-1]])
    return queries, texts, grades


def test_what_similar_questions_teach_is_learnable():
    rng = np.random.default_rng(3)
    queries, texts, grades = pairs(rng, lambda kind, text: (kind == "sum") == text.startswith("add"))
    found = learnable(queries, [0.0] * 60, texts, grades)
    assert found.low > 0.4 and found.value <= np.mean([max(row) for row in grades])


def test_a_student_that_changes_its_answer_at_random_teaches_nothing():
    rng = np.random.default_rng(4)
    queries, texts, grades = pairs(rng, lambda kind, text: rng.random() < 0.5)
    raw = (rng.random(60) < 0.5).astype(float)
    found = learnable(queries, raw, texts, grades)
    assert found.low < 0.05, "chance alone is no gain"
    assert np.mean([max(row) for row in grades]) > 0.9, "though the best of its samples looks like one"


def test_what_was_not_scored_is_left_out():
    queries, raw = ["a b", "a c", "d e"], [0.0, 0.0, 1.0]
    assert learnable(queries, raw, [["x"], ["x"], ["y"]], [[None], [None], [None]]).value == 0.0
