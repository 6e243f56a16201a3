"""Several hundred pairs of answers that are the same or are not, every other one turned round; what an output alone may say.

The pairs stand in `pairs.txt` beside this file, a pair a line: `GOLD == ANSWER` or `GOLD != ANSWER`.
"""

from pathlib import Path

import pytest

from rewards.correctness import Grader

ROWS = [
    line for line in (Path(__file__).parent / "pairs.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("# ")
]


def test_pairs(pool):
    grader = Grader(pool)
    wrong = []
    for number, row in enumerate(ROWS):
        gold, sign, answer = row.partition(" == ") if " == " in row else row.partition(" != ")
        gold, answer = (gold, answer) if number % 2 else (answer, gold)
        if grader.grade("math", gold, f"so $\\boxed{{{answer}}}$.").correct is not (sign == " == "):
            wrong.append(row)
    assert wrong == []
    assert len(ROWS) > 600


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("600", r"600 \text{ minutes} = 10 \text{ hours}", True),
        ("10", "600 minutes = 10 hours", True),
        (r"10\text{ hours}", "600 minutes = 10 hours", True),
        ("60", "600 minutes = 10 hours", False),
        ("7", "a+b=7", True),
        ("7", "2a+3b=7", False),
        ("1000", "1\u2009000", True),
        ("1000", "1\u202f000", True),
        ("1000", "1\u00a0000", True),
        ("1", "1\u2009000", False),
    ],
)
def test_what_an_output_may_say_of_a_gold(pool, gold, answer, same):
    assert Grader(pool).grade("math", gold, rf"\boxed{{{answer}}}").correct is same


@pytest.mark.parametrize(
    ("gold", "output"),
    [
        ("5", "The answer is **5** apples."),
        ("12", "The answer is not 13 but 12."),
        ("12", "The answer is 12, not 13."),
        ("4", "The correct answer is neither 3 nor 5 but $4$."),
        ("(3,4)", "The answer is $(3,4)$ since $3^2+4^2=25$."),
        (r"\text{Evelyn}", r"The answer is \text{Evelyn}, who runs fastest"),
        ("5", "So x = 5."),
        ("-5", "**Answer:** -5"),
        ("x^2", "The answer is x**2"),
        ("7", "答案：7"),
        ("C", "The answer is C) seven"),
        ("1200", "The answer is 1 200."),
        ("(3,5)", "The answer is x > 3 and x < 5."),
        ("2,3", r"The roots are \boxed{2} and \boxed{3}"),
        (r"\frac{1}{2}", r"\boxed{1/2 \text{ cup}}"),
        ("11", "The answer is m+n=11."),
    ],
)
def test_outputs_as_models_write_them(pool, gold, output):
    assert Grader(pool).grade("math", gold, output).correct is True
