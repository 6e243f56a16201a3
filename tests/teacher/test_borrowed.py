"""What worked on similar questions is suggested, the most promising first."""

import random
from collections import Counter

import pytest

from exchange.records import Instruction
from teacher.borrowed import POWER, PRIOR, SHRINKAGE, Borrowed

QUERIES = ["Tom had 7 red pens and lost 3", "Ann had 25 red pens and lost 14", "a train leaves at noon", "a train leaves at nine"]

WORDS = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu", "ra") for b in ("bel", "dan", "fir", "gom", "hus", "jat", "kel", "lim")]


def text(words):
    return Instruction(text=words, source="teacher", num_tokens=2)


def suggested(worked, questions, most=4, rate=0.1):
    return [[one.text for one in row] for row in worked.suggest(questions, most, rate)]


def test_what_worked_on_a_question_told_alike_is_lent_and_what_worked_twice_to_others_too():
    worked = Borrowed(QUERIES)
    assert suggested(worked, [0, 1]) == [[], []]
    worked.tell(0, text("Subtract."), True)
    worked.tell(0, text("Add."), False)
    worked.tell(2, text("Wait."), True)
    assert suggested(worked, [1, 3, 0]) == [["Subtract."], ["Wait."], []], "one hit says nothing of questions that are not alike"
    assert suggested(worked, [1], most=0) == [[]]
    worked.tell(1, text("Subtract."), True)
    assert [sorted(row) for row in suggested(worked, [3, 0])] == [["Subtract.", "Wait."], []], "and none twice on a question"


def test_texts_are_drawn_in_proportion_to_the_square_of_their_value():
    """By hand, as in the test above: two texts, of which one stands on its own rate alone."""
    worked = Borrowed(QUERIES)
    for question in (0, 1):
        worked.tell(question, text("Subtract."), True)
    worked.tell(2, text("Wait."), True)
    near = float((worked.features[2] @ worked.features[3].T).toarray()[0, 0]) ** 2
    assert (worked.features[0] @ worked.features[3].T).nnz == 0
    promising = (near + SHRINKAGE * 0.1) / (near + SHRINKAGE)
    own = (1 + PRIOR * 0.1) / (1 + PRIOR)
    first = Counter(row[0] for row in suggested(worked, [3] * 4000, most=1))
    share = promising**POWER / (promising**POWER + own**POWER)
    assert first["Wait."] / 4000 == pytest.approx(share, abs=0.03) and 0.6 < share < 0.9


def test_a_text_is_lent_where_its_value_is_above_twice_the_rate_of_new_ones():
    """By hand: its own rate leaves out the hit by which it was found, and its failures on the like question weigh."""
    worked = Borrowed(QUERIES)
    worked.tell(2, text("Wait."), True)
    worked.tell(2, text("Wait."), True)
    for _ in range(3):
        worked.tell(0, text("Wait."), False)
    near = float((worked.features[0] @ worked.features[1].T).toarray()[0, 0]) ** 2
    assert 0.1 < near < 0.9, "the words are alike, the numbers' lengths are not"
    own = (2 - 1 + PRIOR * 0.05) / (5 - 1 + PRIOR)
    value = SHRINKAGE * own / (3 * near + SHRINKAGE)
    assert 0.05 < value < 0.1 < own
    assert suggested(worked, [1], rate=0.05) == [[]] and suggested(worked, [1], rate=0.01) == [["Wait."]]


def test_what_could_not_be_judged_weighs_nothing_and_is_not_asked_again():
    worked = Borrowed(QUERIES)
    worked.tell(2, text("Wait."), True)
    worked.tell(3, text("Wait."), None)
    assert suggested(worked, [3]) == [[]]
    worked = Borrowed(QUERIES)
    cut = text("Wait.").model_copy(update={"truncated": True})
    worked.tell(0, cut, False)
    worked.tell(2, text("Wait."), True)
    assert worked.suggest([3], 1, 0.1) == [[text("Wait.")]], "as it was written where it worked"


def test_silence_is_none_and_questions_without_words_are_not_alike():
    worked = Borrowed(["…", "?!"])
    worked.tell(0, Instruction(text="", source="silence"), True)
    assert suggested(worked, [1]) == [[]]
    worked.tell(0, text("Think."), True)
    assert suggested(worked, [1]) == [[]]
    worked.tell(0, text("Think."), True)
    assert suggested(worked, [1]) == [["Think."]], "by its own rate"


@pytest.mark.parametrize("at_once", [1, 256])
def test_parts_of_the_questions_change_nothing(at_once, monkeypatch):
    from teacher import borrowed

    monkeypatch.setattr(borrowed, "AT_ONCE", at_once)
    worked = Borrowed(QUERIES)
    for question, words in ((0, "Subtract."), (2, "Wait."), (3, "Hurry.")):
        worked.tell(question, text(words), True)
    assert suggested(worked, [0, 1, 2, 3], most=1) == [[], ["Subtract."], ["Hurry."], ["Wait."]]


def test_texts_about_one_question_that_hit_by_luck_on_others_stay_where_they_belong():
    """A world in which every instruction is right with one chance whatever it says: what is lent there would only crowd out new ones."""
    rng = random.Random(0)
    queries = [" ".join(rng.choices(WORDS, k=12)) for _ in range(200)]
    worked = Borrowed(queries)
    for question in range(200):
        for k in range(8):
            worked.tell(question, text(f"About {question}, {k}."), rng.random() < 0.1)
    lent = [row for row in suggested(worked, range(200), most=2) if row]
    assert len(lent) <= 2
