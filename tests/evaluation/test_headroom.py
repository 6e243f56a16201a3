"""What a probe's samples say: exact edges, known mixtures recovered, and a student that only wobbles has nothing to teach."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from evaluation import headroom
from evaluation.headroom import CENTRE, HALF_LEARNT, MOST_LESSONS, Mixture, Tried, fit, learnable, minus_log_likelihood, outlook

FINDS = [(400.0, 16), (144.0, 12)]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(headroom, "RESAMPLES", 30)


def tried(hits, trials, raw=0.0, **more):
    return [Tried(raw=raw, trials=int(n), hits=int(k), **more) for k, n in zip(hits, trials, strict=True)]


def simulated(rng, n, *, share, good, luck, again, a=2.0, b=8.0, trials=8, kinds=1):
    """Questions that are wrong raw, of a student that samples: a `share` of them no instruction serves, a hit is asked again and moved to
    three other questions, of which one in `kinds` is served by the same."""
    rates = np.where(rng.random(n) < share, 0.0, rng.beta(a, b, n))
    rows = []
    for rate in rates:
        merit = rng.random(trials) < rate
        hit = rng.random(trials) < np.where(merit, good, luck)
        lasting = rng.random(hit.sum()) < np.where(merit[hit], good, luck)
        moves = 3 * bool(hit.any())
        served = (rng.random(moves) < (1 - share) / kinds) & np.resize(merit[hit], moves)  # of the others a share is served by nothing
        moved = int((rng.random(moves) < np.where(served, good, luck)).sum())
        raws = int(rng.binomial(3, again))
        more = {"repeated": int(lasting.sum()), "again": raws, "fresh": 3, "moved": moved, "moves": moves}
        rows.append(Tried(raw=0.0, trials=trials, hits=int(hit.sum()), **more))
    return rows


def test_the_edges_are_exact():
    assert fit(np.full(3, 8.0), np.zeros(3), None).mixture.share == 1.0
    assert fit(np.full(3, 8.0), np.array([1.0, 8.0, 3.0]), None).mixture.share == 0.0
    for right in (tried([0, 3], [8, 8], raw=1.0), tried([0] * 4, [8] * 4), tried([0], [0])):
        found = outlook(right, FINDS)
        assert (found.reachable.value, found.reachable.low, found.reachable.high, found.predicted.high, found.solved) == (0, 0, 0, 0, 0)
    assert outlook(tried([8, 8], [8, 8]) + tried([0, 0], [8, 8], raw=1.0), FINDS).reachable.value == 0.5


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_the_zero_part_of_a_known_mixture_is_found(share):
    rng = np.random.default_rng(1)
    n = 2_000
    rates = np.where(rng.random(n) < share, 0.0, rng.beta(2.0, 6.0, n))
    assert fit(np.full(n, 8.0), rng.binomial(8, rates).astype(float), None).mixture.share == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("theta", [(-3.0, 0.5, 2.0, 1.0, -2.0), (1.0, -1.0, 0.3, -1.0, 1.0), (-8.5, 4.0, 5.0, 3.0, -4.0)])
def test_the_gradient_is_the_likelihoods(theta, greedy):
    rows, many = np.array([[8, 0, 0], [8, 1, 1], [8, 3, 2], [8, 8, 4], [16, 0, 0]], dtype=float), np.array([9.0, 4.0, 2.0, 1.0, 5.0])
    if greedy:
        rows[:, 2] = rows[:, 1]
    found = optimize.approx_fprime(np.array(theta), lambda at: minus_log_likelihood(at, rows, many, greedy=greedy)[0], 1e-6)
    assert minus_log_likelihood(np.array(theta), rows, many, greedy=greedy)[1] == pytest.approx(found, abs=1e-3)


def test_of_a_greedy_student_the_counts_are_a_zero_inflated_beta_binomial():
    theta = np.array([-0.4, 0.7, 1.6, *CENTRE[3:]])
    none, a, b = special.expit(theta[0]), np.exp(theta[1]), np.exp(theta[2])
    for k in (0, 1, 5):
        value, _, some = minus_log_likelihood(theta, np.array([[8.0, k, k]]), np.array([1.0]), greedy=True)
        prior = float((np.array([0.005, 0.02, 0.02]) * (theta - CENTRE)[:3] ** 2).sum())
        hit = (1 - none) * stats.betabinom(8, a, b).pmf(k) / special.comb(8, k)
        assert np.exp(prior - value) == pytest.approx(hit + none * (k == 0), rel=1e-3)
        assert some[0] == pytest.approx(1.0 if k else hit / (hit + none), rel=1e-3)


def test_rare_hits_on_every_question_are_within_reach():
    """At a rate of 1 in 12 most questions are never hit in 8 samples, and yet all can be."""
    hits = np.random.default_rng(2).binomial(8, 1 / 12, 300)
    assert (hits == 0).mean() > 0.4
    found = outlook(tried(hits, [8] * 300), FINDS).reachable
    assert found.high > 0.95 and found.value > 0.8


def test_a_hit_that_is_worth_no_more_than_raw_when_asked_again_was_luck():
    rng = np.random.default_rng(7)
    luck = outlook(simulated(rng, 100, share=1.0, good=0.0, luck=0.3, again=0.3), FINDS)
    assert luck.luck and luck.reachable.value == luck.predicted.value == 0.0


@pytest.mark.parametrize(("good", "luck"), [(0.85, 0.02), (0.6, 0.05)])
def test_luck_and_merit_of_a_student_that_samples_are_told_apart(good, luck):
    rng = np.random.default_rng(8)
    found = outlook(simulated(rng, 600, share=0.25, good=good, luck=luck, again=0.05), FINDS)
    assert found.reachable.value == pytest.approx(0.75 * (good - 0.05), abs=0.08)
    assert found.reachable.low < 0.75 * (good - 0.05) < found.reachable.high + 0.02


def test_how_many_instructions_serve_all_is_seen_by_moving_them():
    rng = np.random.default_rng(9)
    one, five = (outlook(simulated(rng, 400, share=0.0, good=0.8, luck=0.02, again=0.02, kinds=kinds), FINDS) for kinds in (1, 5))
    assert one.lessons == pytest.approx(1.0, abs=0.25) and five.lessons == pytest.approx(5.0, abs=1.5)
    assert one.predicted.value / one.reachable.value > five.predicted.value / five.reachable.value
    half = outlook(simulated(rng, 400, share=0.5, good=0.8, luck=0.02, again=0.02, kinds=1), FINDS)
    assert half.lessons == pytest.approx(1.0, abs=0.5), "what nothing serves is no lesson"
    nowhere = outlook(tried([2] * 40, [8] * 40, moved=0, moves=3), FINDS)
    assert nowhere.lessons == MOST_LESSONS
    everywhere = outlook(tried([2] * 40, [8] * 40, moved=3, moves=3), FINDS)
    assert everywhere.lessons == 1.0 and outlook(tried([2], [8]), FINDS).lessons == 1.0, "one question: nowhere to move to"
    k = everywhere.solved
    assert everywhere.predicted.value == pytest.approx(everywhere.reachable.value * k / (k + HALF_LEARNT))


def test_trials_that_end_at_the_first_hit_leave_the_mixture_as_it_is():
    rng = np.random.default_rng(5)
    n = 4_000
    rates = np.where(rng.random(n) < 0.4, 0.0, rng.beta(2.0, 6.0, n))
    first = rng.binomial(8, rates)
    more = np.where(first == 0, rng.binomial(8, rates), 0)
    found = fit(np.where(first == 0, 16.0, 8.0), (first + more).astype(float), None).mixture
    assert found.share == pytest.approx(0.4, abs=0.03)
    assert found.found(8) == pytest.approx((first > 0).mean(), abs=0.02)


def test_what_a_run_finds():
    assert Mixture(share=0.5, a=1.0, b=1.0).found(1) == pytest.approx(0.25, abs=1e-3)
    rates = np.random.default_rng(6).beta(0.3, 0.6, 3_000)  # works always or never
    seen = np.random.default_rng(6).binomial(8, rates)
    found = fit(np.full(3_000, 8.0), seen.astype(float), None).mixture
    assert found.found(16) == pytest.approx((1 - (1 - rates) ** 16).mean(), abs=0.03)
    assert Mixture(share=1.0, a=1.0, b=1.0).found(9) == Mixture(share=0.0, a=1.0, b=1.0).found(0) == 0.0
    assert outlook(tried([4] * 20, [8] * 20), [(100.0, 0)]).solved == outlook(tried([4] * 20, [8] * 20), []).predicted.value == 0.0


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
