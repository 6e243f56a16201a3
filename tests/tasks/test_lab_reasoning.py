"""The questions of several steps: their golds, and that the splits share nothing that could be learnt by heart."""

import random

from tasks.lab_families import NAMES, TEST_NAMES
from tasks.lab_reasoning import (
    LENGTHS,
    MOST,
    draw_question,
    load,
    steps_of,
    write_chain,
)  # fmt: skip
from tasks.lab_reasoning import test_numbers as numbers_of_the_test_split


def test_a_question_worked_by_hand():
    rng = random.Random(0)
    question = draw_question(rng, test=False)
    state = question.start
    for sign, number in question.changes:
        state = {"+": state + number, "-": state - number, "twice": 2 * state}[sign]
    assert question.gold == state
    assert write_chain(["14 + 5 = 19", "19 + 19 = 38"], 38) == "14 + 5 = 19\n19 + 19 = 38\n#### 38"


def test_steps_are_right_sums_that_follow_one_another_and_stay_in_range():
    rng = random.Random(1)
    for _ in range(500):
        question = draw_question(rng, test=rng.random() < 0.5)
        assert len(question.changes) in LENGTHS
        state = question.start
        for line in steps_of(question):
            before, sign, number, equals, after = line.split(" ")
            assert int(before) == state and equals == "="
            state = int(after)
            assert state == int(before) + (int(number) if sign == "+" else -int(number)) and 2 <= state <= MOST
        assert state == question.gold


def test_the_test_split_has_its_own_names_and_numbers():
    rng = random.Random(2)
    for test in (True, False):
        for _ in range(300):
            question = draw_question(rng, test=test)
            words = set(question.text.replace(".", "").split())
            assert not words & set(NAMES if test else TEST_NAMES)
            assert numbers_of_the_test_split(question.start, question.changes) == test


def test_load_is_repeatable_and_its_splits_are_disjoint():
    splits = {name: load(name, limit=300) for name in ("train", "validation", "test")}
    texts = [{example.query for example in examples} for examples in splits.values()]
    assert all(len(found) == 300 for found in texts)
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert load("train", limit=50) == splits["train"][:50]
    for example in splits["test"]:
        assert example.reference.endswith(f"#### {example.gold}") and example.level in ("2 steps", "3 steps", "4 steps")
