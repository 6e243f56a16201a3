"""The share of a gap, on published figures and at its edges."""

import math

import pytest

from weak_to_strong.gap import gap_recovered, recovered


@pytest.mark.parametrize(
    ("x", "floor", "ceiling", "value"),
    [
        (61.9, 56.6, 64.5, 0.6709),  # openai/weak-to-strong, vision: AlexNet, DINO ResNet-50
        (66.6, 56.6, 74.0, 0.5747),  # AlexNet, ViT-B/8
        (0.704, 0.661, 0.866, 0.2098),  # issue 3: GPT-2 medium, LLaMA-7B
        (0.588, 0.40, 0.60, 0.94),  # W2SR's abstract: 94 % of the gains of RL
    ],
)
def test_published_values(x, floor, ceiling, value):
    assert gap_recovered(x, floor, ceiling) == pytest.approx(value, abs=5e-5)


def test_no_gap_is_nan_and_nothing_is_clipped():
    assert math.isnan(gap_recovered(0.5, 0.6, 0.6)) and math.isnan(gap_recovered(0.5, 0.6, 0.5))
    assert gap_recovered(0.3, 0.4, 0.6) == pytest.approx(-0.5)
    assert gap_recovered(0.7, 0.4, 0.6) == pytest.approx(1.5)


def test_interval_holds_the_value_and_shrinks_with_the_questions():
    def found(copies):
        x, floor, ceiling = [1.0, 1, 0, 1, 0, 1, 1, 1] * copies, [0.0, 1, 0, 0, 0, 0, 1, 0] * copies, [1.0, 1, 1, 1, 0, 1, 1, 1] * copies
        return recovered(x, floor, ceiling)

    small, large = found(25), found(400)
    assert small.value == large.value == pytest.approx(0.8)
    assert small.low < large.low < 0.8 < large.high < small.high
    assert large.high - large.low == pytest.approx((small.high - small.low) / 4, rel=0.15)


def test_questions_without_a_grade_are_left_out_for_all_three():
    found = recovered([1, 1, None, 0], [0, 0, 1, 0], [1, 1, 1, None])
    assert (found.n, found.x, found.floor, found.ceiling) == (2, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="no question"):
        recovered([None], [1], [1])


def test_a_gap_that_may_not_be_there_has_no_interval():
    found = recovered([1, 0, 1, 0] * 5, [0, 1, 0, 0] * 5, [1, 0, 0, 0] * 5)  # floor = ceiling
    assert (found.value, found.low, found.high) == (None, None, None)
    close = recovered([1, 0] * 50, [1.0] + [0.0] * 99, [1.0, 1.0] + [0.0] * 98)  # one question apart
    assert close.value is not None and close.low is None
