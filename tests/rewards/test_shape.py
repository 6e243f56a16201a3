"""Leakage, length and repetition: what is found, what is not, and what it costs."""

import asyncio

import pytest

from exchange.records import Completion, Example, Instruction
from rewards.rubric import RewardConfig, Rubric
from rewards.shape import leaks, length, repetition

REFERENCE = "She sells the remaining eggs at the market for two dollars each, which is 16 - 7 = 9 eggs.\n#### 18"
NUMBER = Example(id="1", task="gsm8k", split="train", query="She has 16 eggs and eats 7. Price 2?", gold="18", reference=REFERENCE)
MATH = Example(id="2", task="math", split="train", query="Solve $x^2=12$.", gold=r"2\sqrt{3}")
CHOICE = Example(id="3", task="choice", split="train", query="Which?\nA. a dog\nB. a cat", gold="B")


def write(text, **fields):
    return Instruction(text=text, source="teacher", **fields)


@pytest.mark.parametrize(
    ("example", "answer_type", "text", "found"),
    [
        (NUMBER, "number", "Take 7 from 16, then multiply by the price.", []),
        (NUMBER, "number", "You should get 18 in the end.", ["gold"]),
        (NUMBER, "number", "You should get $18.00 in the end.", ["gold"]),
        (NUMBER, "number", "There are 180 steps.", []),
        (NUMBER, "number", "The answer is 20.", ["final_answer"]),
        (NUMBER, "number", "End with #### and the number.", []),
        (NUMBER, "number", "Put the final answer in \\boxed{}.", []),
        (NUMBER, "number", "Write \\boxed{20}.", ["boxed"]),
        (NUMBER, "number", "She sells the remaining eggs at the market for two dollars each.", ["copy"]),
        (NUMBER, "number", "", []),
        (MATH, "math", r"Simplify the root to $2 \sqrt3$.", ["gold"]),
        (MATH, "math", "Simplify the root.", []),
        (CHOICE, "choice", "Compare option A with option B.", []),
        (CHOICE, "choice", "The answer is B.", ["final_answer"]),
        (CHOICE, "choice", "The answer is a letter.", []),
    ],
)
def test_leaks(example, answer_type, text, found):
    assert leaks(write(text), example, answer_type) == found


def test_length_and_repetition():
    assert length(write("one two three")) == 3 and length(write("one two three", num_tokens=5)) == 5
    assert repetition(write("add the two numbers")) == 0 and repetition(write("")) == 0
    assert repetition(write("a b c a b c a b c")) == pytest.approx(1 - 3 / 7)


def score(config, text, answer, example=NUMBER):
    return asyncio.run(Rubric(config)(example, write(text), Completion(text=answer)))


def test_what_the_terms_cost():
    leak = RewardConfig(leakage_penalty=0.5)
    assert score(leak, "You should get 18.", "#### 18").parts == {"correct": 1.0, "leakage": -1.5}
    assert score(leak, "You should get 18.", "#### 18").value == score(leak, "You should get 18.", "#### 17").value == -0.5
    assert score(leak, "Take 7 from 16.", "#### 18").parts == {"correct": 1.0}
    assert score(RewardConfig(), "You should get 18.", "#### 18").value == 1.0, "off by default: the lab was measured without"
    long = score(RewardConfig(length_penalty=0.1), " ".join(["Add"] * 50) + ".", "#### 18")
    assert long.parts["length"] == pytest.approx(-0.05) and long.value == pytest.approx(0.95)
    again = score(RewardConfig(repetition_penalty=1.0), "Add the two. Then add the two.", "#### 18")
    assert again.parts["repetition"] == pytest.approx(-0.2)


def test_the_task_chooses_the_grader_and_what_cannot_be_graded_is_none():
    assert score(RewardConfig(), "Go.", r"\boxed{\sqrt{12}}", MATH).value is not None
    assert score(RewardConfig(), "Think about it.", r"\boxed{\sqrt{12}}", MATH).value == 1.0
    assert score(RewardConfig(), "Think about it.", "It is a cat.", CHOICE).value == 1.0
    own = MATH.model_copy(update={"task": "own/text", "gold": "Paris"})
    assert score(RewardConfig(), "Think about it.", "Answer: paris.", own).value == 1.0
    assert score(RewardConfig(), "Be kind.", "Hello.", MATH.model_copy(update={"task": "hh_rlhf", "gold": None})).value is None
    lost = score(RewardConfig(silence_bonus=0.5), "Think about it.", r"\boxed{9^{9^{9^{9}}}}", MATH)
    assert lost.value is None and lost.parts == {}
