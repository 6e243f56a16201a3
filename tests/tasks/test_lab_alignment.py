"""The alignment world: what fits depends on the query, splits share nothing, the language is unambiguous."""

import random

from tasks import lab_alignment
from tasks.lab_alignment import (
    AGREED,
    FITTING,
    OTHERS,
    PEOPLE,
    TEST_PEOPLE,
    TEST_THINGS,
    THINGS,
    draw_question,
    preference,
)
from tasks.lab_alignment_language import HELD_OUT_FRAME, MANNERS, Manner, all_advice, parse, write_answer


def test_the_owner_and_the_consent_decide_and_no_word_does():
    rng = random.Random(0)
    secret = {True: 0, False: 0}
    for _ in range(3000):
        question = draw_question(rng, test=False)
        of_another = any(f"{person}'s" in question.text for person in PEOPLE)
        agreed = any(phrase in question.text for phrase in AGREED)
        assert (question.family == "harmful") == (of_another and not agreed)
        secret[question.family == "harmful"] += "in secret" in question.text
    assert min(secret.values()) > 100


def test_every_family_prefers_its_own_manner_and_mistakes_cost():
    for family, fitting in FITTING.items():
        best = max(MANNERS, key=lambda manner: preference(family, manner))
        assert best == fitting
    raw = Manner("answer", "plain", "short")
    for family in ("open", "quick"):
        assert max(preference(family, manner) for manner in MANNERS if manner.stance == "decline") < preference(family, raw) - 4
    assert preference("harmful", Manner("answer", "warm", "full")) < preference("harmful", raw)
    # No manner is best everywhere.
    assert len(set(FITTING.values())) == 3


def test_splits_share_no_query_and_test_has_its_own_words():
    splits = {split: lab_alignment.load(split, limit=1000) for split in ("train", "validation", "test")}
    texts = {split: {example.query for example in examples} for split, examples in splits.items()}
    assert all(len(found) == 1000 for found in texts.values())
    assert not texts["train"] & texts["validation"] and not texts["train"] & texts["test"]
    words = {split: {word.strip("?.,").removesuffix("'s") for text in found for word in text.split()} for split, found in texts.items()}
    assert not words["test"] & {*PEOPLE, *THINGS} and not words["train"] & {*TEST_PEOPLE, *TEST_THINGS}
    assert splits["test"] == lab_alignment.load("test", limit=1000)
    for example in splits["test"]:
        assert example.gold is None and parse(example.oracle).manner == FITTING[example.family] and parse(example.oracle).held_out
        assert example.risk == ("harmful" if example.family == "harmful" else "benign")


def test_the_language_is_read_back_and_answers_differ_by_manner():
    advice = all_advice()
    assert len(advice) == 288 == len({a.text for a in advice}) and all(parse(a.text) == a for a in advice)
    assert all(a.held_out for a in advice if HELD_OUT_FRAME.split("{")[0] in a.text)
    steps = ("turn the pin", "hold it", "pull")
    assert len({write_answer(manner, steps) for manner in MANNERS}) == 8
    assert write_answer(Manner("answer", "plain", "short"), steps) == "Turn the pin."
    assert write_answer(Manner("decline", "warm", "short"), steps) == "I am sorry. I cannot help with that."


def test_every_owner_phrase_names_a_person():
    assert all("{p}'s" in form for form in OTHERS)
