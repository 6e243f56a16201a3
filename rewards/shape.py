"""What an instruction must not be, whatever the answer made of it: long, repetitive, or a way to hand the answer over.

A teacher that is paid for right answers learns to write the answer into the instruction where it can. `leaks` names the ways it finds:

    gold           the gold's value, which the question does not hold
    boxed          a value in \\boxed{}
    final_answer   "the answer is 12", "#### 12", "Answer: B"
    copy           eight words in a row of the reference solution that are not in the question
"""

from __future__ import annotations

import re

from exchange.records import Example, Instruction
from tasks.answer_type import AnswerType
from tasks.gsm8k_answer import gold_number
from tasks.latex_form import normal
from tasks.math_answer import gold_expression

COPY_WORDS = 8
"""Shorter runs of words are shared by chance."""
REPEAT_WORDS = 3
_NUMBER = re.compile(r"(?<![\w.])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_BOXED = re.compile(r"\\boxed\s*\{[^{}]*[0-9A-Za-z\\][^{}]*\}")
_SAID = re.compile(
    r"(?:\b(?:final |correct |right )?answer\s*(?:is|=|:)\s*|####\s*)\W{0,4}(?:option\s+)?"
    r"([-+]?\\?\$?\(?[0-9][\w.,/]*|\(?[A-J]\)?(?![\w'])|yes\b|no\b|true\b|false\b|\\frac|\\sqrt)",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _runs(text: str, length: int) -> list[tuple[str, ...]]:
    spoken = words(text)
    return [tuple(spoken[i : i + length]) for i in range(len(spoken) - length + 1)]


def repetition(instruction: Instruction) -> float:
    """The share of three-word runs that were said before, in [0, 1)."""
    runs = _runs(instruction.text, REPEAT_WORDS)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def length(instruction: Instruction) -> int:
    """Tokens, or words where no model wrote the text."""
    return instruction.num_tokens if instruction.num_tokens is not None else len(instruction.text.split())


def _numbers(text: str) -> set[str]:
    return {number for found in _NUMBER.findall(text) if (number := gold_number(found)) is not None}


def leaks(instruction: Instruction, example: Example, answer_type: AnswerType | None) -> list[str]:
    """The names of the ways in which the instruction hands the answer over; [] = none was found."""
    text, found = instruction.text, []
    if example.gold is not None and _holds_gold(text, example, answer_type):
        found.append("gold")
    if _BOXED.search(text):
        found.append("boxed")
    if any(said.casefold() not in example.query.casefold().split() for said in _SAID.findall(text)):
        found.append("final_answer")
    if example.reference is not None:
        given = set(_runs(example.query, COPY_WORDS))
        reference = set(_runs(example.reference, COPY_WORDS)) - given
        if reference & set(_runs(text, COPY_WORDS)):
            found.append("copy")
    return found


def _holds_gold(text: str, example: Example, answer_type: AnswerType | None) -> bool:
    """Whether the gold's value stands in the text and not in the question. One letter or word (choice, yes/no) says nothing alone."""
    assert example.gold is not None
    if answer_type in ("choice", "yes_no", None):
        return False
    number = gold_number(example.gold) if answer_type == "number" else None
    if number is not None:
        return number in _numbers(text) - _numbers(example.query)
    gold = gold_expression(example.gold) if answer_type == "math" else example.gold
    if gold is None:
        return False
    value = normal(gold).replace(" ", "")
    if _NUMBER.fullmatch(value):
        return bool(_numbers(value) & (_numbers(text) - _numbers(example.query)))
    return len(value) > 2 and value in normal(text).replace(" ", "") and value not in normal(example.query).replace(" ", "")
