"""What the reasoning corpora must not teach: the test split, and steps where nothing asks for them."""

import random

from lab import reasoning_corpus as corpus
from tasks.lab_families import TEST_NAMES
from tasks.lab_reasoning import HUNCH_TEXTS, STEPS_TEXTS


def documents(n=3000):
    rng = random.Random(0)
    for _ in range(n):
        yield corpus.student_document(rng, lambda rng: "zz")


def test_no_document_holds_a_name_of_the_test_split():
    rng = random.Random(1)
    others = (corpus.weak_document, corpus.teacher_document, corpus.worked_document)
    made = [*documents(1000), *(make(rng) for _ in range(300) for make in others)]
    for document in made:
        words = {word.strip(".?") for message in document.messages for word in message.content.split()}
        assert not words & set(TEST_NAMES)


def test_steps_stand_only_where_something_asks_for_them():
    bare, asked, hunches = [], [], []
    for document in documents():
        *before, answer = document.messages
        stepwise = "=" in answer.content
        query = before[-1].content
        if len(before) > 1:
            assert stepwise == ("=" in before[1].content)  # the manner of the demonstrations
            assert len(before) == 2 * corpus.DEMONSTRATIONS + 1
        elif any(text in query for text in STEPS_TEXTS):
            asked.append(stepwise)
        elif any(text in query for text in HUNCH_TEXTS):
            hunches.append(stepwise)
        elif "?" in query:
            bare.append(stepwise)
    assert all(asked) and not any(hunches) and min(len(asked), len(hunches), len(bare)) > 100
    assert 0.22 < sum(bare) / len(bare) < 0.38


def test_what_the_strong_student_reads_second_is_always_worked_and_right():
    rng = random.Random(4)
    made = [corpus.worked_document(rng).messages for _ in range(300)]
    assert all(right(messages[-1].content) for messages in made)
    assert {len(messages) for messages in made} == {2, 2 + 2 * corpus.DEMONSTRATIONS}
    assert any(text in messages[-2].content for messages in made for text in STEPS_TEXTS)


def test_what_is_learnt_after_slipping_demonstrations_is_right():
    rng = random.Random(3)
    slips = 0
    for _ in range(200):
        *turns, asked, answer = corpus.demonstrated(rng, stepwise=True).messages
        for text in [turn.content for turn in turns if turn.role == "assistant"]:
            slips += not right(text)
        assert right(answer.content), asked
    assert slips > 50


def right(chain):
    *steps, answer = chain.split("\n")
    for step in steps:
        before, sign, number, _, after = step.split(" ")
        if int(before) + (int(number) if sign == "+" else -int(number)) != int(after):
            return False
    return answer == f"#### {steps[-1].split(' ')[-1]}"
