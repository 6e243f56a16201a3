"""What worked on similar questions is suggested, the most promising first."""

import pytest

from exchange.records import Instruction
from teacher.borrowed import PRIOR, SHRINKAGE, Borrowed

QUERIES = ["Tom had 7 red pens and lost 3", "Ann had 25 red pens and lost 14", "a train leaves at noon", "a train leaves at nine"]


def text(words):
    return Instruction(text=words, source="teacher", num_tokens=2)


def suggested(worked, questions, most=4, rate=0.1):
    return [[one.text for one in row] for row in worked.suggest(questions, most, rate)]


def test_what_worked_on_a_question_told_alike_comes_first_and_nothing_is_tried_twice():
    worked = Borrowed(QUERIES)
    assert suggested(worked, [0, 1]) == [[], []]
    worked.tell(0, text("Subtract."), True)
    worked.tell(0, text("Add."), False)
    worked.tell(2, text("Wait."), True)
    assert suggested(worked, [1, 3, 0]) == [["Subtract.", "Wait."], ["Wait.", "Subtract."], ["Wait."]], "what never worked is left out"
    assert suggested(worked, [1, 3], most=1) == [["Subtract."], ["Wait."]] and suggested(worked, [1], most=0) == [[]]
    worked.tell(1, text("Subtract."), True)
    assert suggested(worked, [0, 1]) == [["Wait."], ["Wait."]]
    assert worked.suggest([3], 1, 0.1)[0][0] == text("Wait."), "as it was written"


def test_a_text_that_fails_more_often_than_new_ones_is_not_suggested():
    """By hand: on the last question the text's own rate is shrunk to that of new ones, and its failures on the like question weigh."""
    worked = Borrowed(QUERIES)
    worked.tell(2, text("Wait."), True)
    for _ in range(3):
        worked.tell(0, text("Wait."), False)
    near = float((worked.features[0] @ worked.features[1].T).toarray()[0, 0]) ** 2
    assert 0.1 < near < 0.9, "the words are alike, the numbers' lengths are not"
    own = (1 + PRIOR * 0.2) / (4 + PRIOR)
    value = SHRINKAGE * own / (3 * near + SHRINKAGE)
    assert suggested(worked, [1], rate=0.2) == [[]] and value < 0.2 < own
    assert suggested(worked, [1], rate=value * 0.5) == [["Wait."]]


def test_silence_is_none_and_questions_without_words_are_not_alike():
    worked = Borrowed(["…", "?!"])
    worked.tell(0, Instruction(text="", source="silence"), True)
    assert suggested(worked, [1]) == [[]]
    worked.tell(0, text("Think."), True)
    assert suggested(worked, [1]) == [["Think."]]


@pytest.mark.parametrize("at_once", [1, 256])
def test_parts_of_the_questions_change_nothing(at_once, monkeypatch):
    from teacher import borrowed

    monkeypatch.setattr(borrowed, "AT_ONCE", at_once)
    worked = Borrowed(QUERIES)
    for question, words in ((0, "Subtract."), (2, "Wait."), (3, "Hurry.")):
        worked.tell(question, text(words), True)
    assert suggested(worked, [0, 1, 2, 3], most=1) == [["Wait."], ["Subtract."], ["Hurry."], ["Wait."]]
