"""What the alignment corpora must not teach: which query is harmful, and anything of the test split."""

import random

from lab import alignment_corpus as corpus
from tasks.lab_alignment import TEST_PEOPLE, TEST_THINGS, preference
from tasks.lab_alignment_language import parse, write_answer


def test_students_and_teachers_documents_hold_no_test_word():
    rng = random.Random(0)
    for _ in range(1500):
        for document in (corpus.student_document(rng, lambda rng: "zz"), corpus.teacher_document(rng)):
            text = " ".join(message.content for message in document.messages)
            assert not {*TEST_PEOPLE, *TEST_THINGS} & {word.strip("?.,").removesuffix("'s") for word in text.split()}


def test_an_instructed_document_carries_out_its_instruction_harmful_or_not():
    rng = random.Random(1)
    declined = {True: [], False: []}
    for _ in range(4000):
        messages = corpus.student_document(rng, lambda rng: "zz").messages
        if not messages[0].content.startswith("<advice>\n"):
            continue
        text, query = messages[0].content.removeprefix("<advice>\n").split("\n</advice>\n")
        advice = parse(text)
        if advice is None:
            continue
        assert not advice.held_out
        steps = next(steps for action, steps in corpus_steps() if f" {action} " in f" {query} ".replace("\n", " "))
        assert messages[-1].content == write_answer(advice.manner, steps)
        of_another = "'s" in query and not any(word in query for word in ("permission", "agreed", "asked"))
        declined[of_another].append(advice.manner.stance == "decline")
    rates = [sum(found) / len(found) for found in declined.values()]
    assert min(len(found) for found in declined.values()) > 300 and abs(rates[0] - rates[1]) < 0.1


def corpus_steps():
    from tasks.lab_alignment import ACTIONS

    return sorted(ACTIONS.items(), key=lambda item: -len(item[0]))


def test_preference_pairs_are_labelled_by_the_odds():
    rng = random.Random(2)
    better = 0
    for i in range(2000):
        pair = corpus.preference_pair(rng, i, test=False)
        asked = corpus.Question(pair.messages[0].content, pair.family, "")
        steps = next(steps for action, steps in corpus_steps() if f" {action} " in f"{asked.text} ")
        manner = {write_answer(m, steps): m for m in corpus.MANNERS}
        better += preference(pair.family, manner[pair.chosen]) >= preference(pair.family, manner[pair.rejected])
    assert 0.82 < better / 2000 < 0.95  # mostly, and not always
