"""What the corpora must not teach: which procedure fits, and anything of the test split."""

import random

from exchange.compose import compose, raw_messages
from exchange.records import Instruction, PublicExample
from lab import corpus
from tasks.lab_arithmetic import test_pair
from tasks.lab_families import TEST_NAMES
from tasks.lab_language import parse, work

test_pair.__test__ = False  # a function of the task, not a test


def numbers(text):
    return [int(word) for word in "".join(c if c.isdigit() else " " for c in text).split()]


def test_questions_never_hold_a_test_pair_or_a_test_name():
    rng = random.Random(0)
    for _ in range(2000):
        asked = corpus.question(rng)
        first, second = asked.first, asked.second
        assert not test_pair(max(first, second), min(first, second))
        assert numbers(asked.text) == [first, second]
        assert not set(TEST_NAMES) & {word.strip(".,?") for word in asked.text.split()}


def test_an_instructed_document_carries_out_its_instruction_whatever_the_question_asks():
    rng = random.Random(1)
    followed = fits = 0
    for _ in range(3000):
        document, whole = corpus.student_document(rng, lambda rng: "zz")
        if len(document) != 2 or not document[0].content.startswith("<advice>\n"):
            continue
        text, question = document[0].content.removeprefix("<advice>\n").split("\n</advice>\n")
        advice = parse(text)
        if advice is None:
            continue
        assert not advice.held_out
        first, second = numbers(question)
        steps, result = work(advice.operation, advice.order, first, second)
        if whole:
            assert document[-1].content.endswith(f"#### {result}")
        else:
            assert document[-1].content.removeprefix("1) ") == steps[0].partition(" =")[0]
        followed += 1
        fits += "altogether" in question and advice.operation == "add"
    assert followed > 500
    # Question and instruction are independent: the fitting pairs are no more frequent than chance (about 1/6 of the `total` questions).
    assert fits / followed < 0.06


def test_the_teachers_corpus_says_nothing_about_what_fits():
    rng = random.Random(2)
    silent = stated = add = total = 0
    for _ in range(6000):
        question, text = (message.content for message in corpus.teacher_document(rng).messages)
        silent += not text
        stated += text.startswith("The answer is")
        if "altogether" in question and (advice := parse(text)):
            total += 1
            add += advice.operation == "add"
    assert 0.06 < silent / 6000 < 0.10 and 0.02 < stated / 6000 < 0.045
    assert 0.12 < add / total < 0.22


def test_silence_composes_to_the_raw_prompt():
    example = PublicExample(id="1", task="t", split="test", query="2 + 3?")
    assert compose(example, Instruction(text="", source="silence")) == raw_messages(example)
