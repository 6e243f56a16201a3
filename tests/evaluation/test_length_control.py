"""The length-controlled win rate: the plain rate where lengths are equal, none left where length explains every win."""

import numpy as np
import pytest

from evaluation.length_control import length_controlled


def test_with_equal_lengths_it_is_the_plain_win_rate():
    found = length_controlled([1, 1, 1, 0], [10] * 4, [10] * 4)
    assert found.mean == pytest.approx(0.75, abs=1e-6) and found.n == 4
    assert found.low < 0.75 < found.high


def test_fractions_count_as_such():
    assert length_controlled([0.5] * 6, [10] * 6, [10] * 6).mean == pytest.approx(0.5)


def test_wins_by_length_alone_are_taken_out():
    rng = np.random.default_rng(0)
    longer = rng.normal(50, 60, size=400)  # the arm is longer on the whole
    wins = (rng.random(400) < 1 / (1 + np.exp(-longer / 20))).astype(float)
    plain = wins.mean()
    found = length_controlled(list(wins), [int(100 + d) for d in longer], [100] * 400)
    assert plain > 0.7 and found.low < 0.5 < found.high


def test_a_better_answer_stays_better_at_any_length():
    rng = np.random.default_rng(1)
    longer = rng.normal(0, 60, size=400)
    wins = (rng.random(400) < 0.8).astype(float)
    found = length_controlled(list(wins), [int(500 + d) for d in longer], [500] * 400)
    assert found.mean == pytest.approx(wins.mean(), abs=0.02) and found.low > 0.7


def test_where_all_answers_are_longer_nothing_is_claimed():
    assert length_controlled([1.0] * 50, list(range(20, 70)), [10] * 50) is None
    assert length_controlled([1.0] * 50, [5] * 50, [10] * 50) is None


def test_all_wins_have_a_finite_fit():
    found = length_controlled([1.0] * 50, list(range(50)), [10] * 50)
    assert 0.95 < found.low <= found.mean <= found.high <= 1.0


def test_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="2 wins, 1 and 2 lengths"):
        length_controlled([1, 0], [1], [1, 1])
