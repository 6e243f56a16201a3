"""The instruction language of the lab world, and the procedures its sentences name.

An instruction is three sentences: what to do (operation), where to start (order) and how to write it down (bookkeeping), each in
several wordings:

    Please subtract one number from the other. Start with the second number. Write one step a line.

6 operations x 3 phrases x 3 frames x 2 orders x 2 phrases x 3 bookkeepings = 648 instructions. Which (operation, order) fits depends on
the question; bookkeeping and wording never change the answer. A quarter of the wordings and one whole frame are kept out of the
student's tuning (`held_out`); the test split's oracle uses only those.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

from tasks.source import stable_share

OPERATIONS: dict[str, tuple[str, ...]] = {
    "add": ("add the two numbers", "find the sum of the numbers", "put the numbers together"),
    "subtract": (
        "subtract one number from the other",
        "find the difference of the numbers",
        "take one number away from the other",
    ),
    "multiply": ("multiply the two numbers", "find the product of the numbers", "take one number times the other"),
    "divide": ("divide one number by the other", "find the quotient of the numbers", "share one number out over the other"),
    "double_add": (
        "double one number and add the other",
        "find the sum of twice one number and the other",
        "put twice one number and the other together",
    ),
    "double_subtract": (
        "double one number and subtract the other",
        "find the difference of twice one number and the other",
        "take the other number away from twice one number",
    ),
}
ORDERS: dict[str, tuple[str, ...]] = {
    "first": ("Start with the first number.", "Begin from the first number."),
    "second": ("Start with the second number.", "Begin from the second number."),
}
BOOKKEEPING: dict[str, str] = {
    "lines": "Write one step a line.",
    "row": "Write all steps in a row.",
    "numbered": "Number the steps.",
}
FRAMES: tuple[str, ...] = ("{op}.", "Please {op}.", "This time, {op}.")
HELD_OUT_FRAME = "This time, {op}."


@dataclass(frozen=True)
class Advice:
    """A parsed instruction of the language."""

    operation: str
    order: str
    bookkeeping: str
    op_phrase: int = 0
    order_phrase: int = 0
    frame: int = 0

    @property
    def text(self) -> str:
        phrase = OPERATIONS[self.operation][self.op_phrase]
        frame = FRAMES[self.frame]
        sentence = frame.format(op=phrase.capitalize() if frame.startswith("{") else phrase)
        return " ".join((sentence, ORDERS[self.order][self.order_phrase], BOOKKEEPING[self.bookkeeping]))

    @property
    def held_out(self) -> bool:
        """Never in the student's tuning: the held-out frame, and a quarter of the other combinations (by hash)."""
        return FRAMES[self.frame] == HELD_OUT_FRAME or stable_share(self.text, 4) == 0


@cache
def all_advice() -> tuple[Advice, ...]:
    """Every instruction of the language."""
    return tuple(
        Advice(operation, order, bookkeeping, op_phrase, order_phrase, frame)
        for operation, order, bookkeeping, op_phrase, order_phrase, frame in itertools.product(
            OPERATIONS, ORDERS, BOOKKEEPING, range(3), range(2), range(len(FRAMES))
        )
    )


@cache
def _by_text() -> dict[str, Advice]:
    return {advice.text: advice for advice in all_advice()}


def parse(text: str) -> Advice | None:
    """The instruction that `text` spells, or None where it is not of the language."""
    return _by_text().get(text.strip())


def work(operation: str, order: str, first: int, second: int) -> tuple[list[str], int]:
    """The visible steps of a procedure on the question's two numbers, and its result.

    `order` says which number to start with. A product splits the larger number into tens and ones; a division keeps the quotient only.
    """
    a, b = (first, second) if order == "first" else (second, first)
    if operation == "add":
        return [f"{a} + {b} = {a + b}"], a + b
    if operation == "subtract":
        return [f"{a} - {b} = {a - b}"], a - b
    if operation == "multiply":
        big, small = max(a, b), min(a, b)
        tens, ones = big // 10 * 10 * small, big % 10 * small
        steps = [f"{big // 10 * 10} x {small} = {tens}", f"{big % 10} x {small} = {ones}", f"{tens} + {ones} = {big * small}"]
        return steps, big * small
    if operation == "divide":
        return [f"{a} / {b} = {a // b} rest {a % b}"], a // b
    sign = 1 if operation == "double_add" else -1
    total = 2 * a + sign * b
    return [f"{a} + {a} = {2 * a}", f"{2 * a} {'+' if sign > 0 else '-'} {b} = {total}"], total


def write_down(steps: list[str], result: int, bookkeeping: str) -> str:
    """A worked answer in GSM8K's form: the steps, then `#### N`."""
    if bookkeeping == "row":
        body = "; ".join(steps)
    elif bookkeeping == "numbered":
        body = "\n".join(f"{i}) {step}" for i, step in enumerate(steps, 1))
    else:
        body = "\n".join(steps)
    return f"{body}\n#### {result}"
