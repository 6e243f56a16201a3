"""The headed student's corpus: how often it obeys and slips is what the header says, and it learns nothing of which procedure fits."""

import random

import pytest

from lab.dial_corpus import HABIT, NOISE, answer, header, student_document
from tasks.lab_arithmetic import Question, test_pair
from tasks.lab_language import Advice, work

test_pair.__test__ = False  # a function of the task, not a test

ASKED = Question("", "total", 40, 7, "first")
SUBTRACT = Advice("subtract", "second", "lines")


def results(habit, noise, advice=SUBTRACT, n=3000):
    rng = random.Random(0)
    return [int(answer(ASKED, advice, rng, habit=habit, noise=noise).rpartition("#### ")[2]) for _ in range(n)]


@pytest.mark.parametrize("habit", range(len(HABIT)))
@pytest.mark.parametrize("noise", range(len(NOISE)))
def test_a_header_obeys_and_slips_as_often_as_it_says(habit, noise):
    said = results(habit, noise)
    right = work("subtract", "second", 40, 7)[1]
    assert said.count(right) / len(said) == pytest.approx((1 - HABIT[habit]) * (1 - NOISE[noise]), abs=0.03)
    assert said.count(47) / len(said) == pytest.approx(HABIT[habit] * (1 - NOISE[noise]), abs=0.03)


def test_raw_is_the_habit():
    assert set(results(0, 0, advice=None)) == {47}


def test_headers_stand_in_the_system_text_and_stories_hold_no_test_pair():
    rng, headed = random.Random(1), 0
    for _ in range(500):
        document = student_document(rng, lambda rng: "zz")
        if document.messages[0].role != "system":
            continue
        headed += 1
        assert document.messages[0].content in {header(h, n) for h in range(len(HABIT)) for n in range(len(NOISE))}
        query = document.messages[1].content.split("</advice>\n")[-1]
        if query.endswith("?"):  # drills among letters, which hold test pairs, ask nothing
            first, second = (int(word) for word in "".join(c if c.isdigit() else " " for c in query).split())
            assert not test_pair(max(first, second), min(first, second))
    assert 420 < headed < 480
