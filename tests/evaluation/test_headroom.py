"""What a probe's samples say: exact edges, known mixtures recovered, and a student that only wobbles has nothing to teach."""

import numpy as np
import pytest

from evaluation.headroom import learnable, reachable, zero_part


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


def test_rare_hits_on_every_question_are_within_reach():
    """At a rate of 1 in 12 most questions are never hit in 8 samples, and yet all can be."""
    rng = np.random.default_rng(2)
    hits = rng.binomial(8, 1 / 12, 300)
    assert (hits == 0).mean() > 0.4
    found = reachable([0.0] * 300, hits, [8] * 300)
    assert found.high > 0.95 and found.value > 0.8


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
