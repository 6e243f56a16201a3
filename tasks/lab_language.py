"""The instruction language of the lab world, and the procedures its sentences name.

An instruction is three sentences: what to do (operation), where to start (order) and how to write it down (bookkeeping), each in
several wordings:

    Please subtract one number from the other. Start with the second number. Write one step a line.

6 operations x 3 phrases x 3 frames x 2 orders x 2 phrases x 3 bookkeepings = 648 instructions. Which (operation, order) fits depends on
the question; bookkeeping and wording never change the answer. A quarter of the combinations and one whole frame are kept out of the
student's tuning (`held_out`); the test split's oracle uses only those.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import cache

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
        return FRAMES[self.frame] == HELD_OUT_FRAME or stable_hash(self.text) % 4 == 0


def stable_hash(text: str) -> int:
    """A hash that is equal on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


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

    `order` says which number to start with. Sums and differences go by ones and tens, products split the two-digit number, a division
    goes digit by digit and keeps the quotient only. Numbers are written out before they are taken apart, and every step is a small fact
    that other number pairs share, so that pairs the student never met are within its reach.
    """
    a, b = (first, second) if order == "first" else (second, first)
    if operation == "add":
        return _sum(a, b), a + b
    if operation == "subtract":
        return _sum(a, -b), a - b
    if operation == "multiply":
        big, small = max(a, b), min(a, b)
        tens, ones = big // 10 * 10, big % 10
        steps, total = [f"{big} x {small}", f"{tens} x {small} = {tens * small}", f"{ones} x {small} = {ones * small}"], tens * small
        for part in (ones * small // 10 * 10, ones * small % 10):
            if part:
                steps.append(f"{total} + {part} = {total + part}")
                total += part
        return steps, total
    if operation == "divide":
        return _quotient(a, b), a // b
    sign = 1 if operation == "double_add" else -1
    return [f"{a} + {a} = {2 * a}", *_sum(2 * a, sign * b)], 2 * a + sign * b


def _sum(a: int, b: int) -> list[str]:
    """Steps of a + b, where b may be negative: the sum itself, its ones, the tens where both have some, then both together."""

    def step(left: int, right: int) -> str:
        return f"{plain(left, right)} = {left + right}"

    def plain(left: int, right: int) -> str:
        return f"{left} {'-' if right < 0 else '+'} {abs(right)}"

    tens_a, ones_a = a // 10 * 10, a % 10
    tens_b, ones_b = (b // 10 * 10, b % 10) if b >= 0 else (-(-b // 10 * 10), -(-b % 10))
    steps, ones, tens = [plain(a, b), step(ones_a, ones_b)], ones_a + ones_b, tens_a + tens_b
    if tens_a and tens_b:
        steps.append(step(tens_a, tens_b))
    if tens_a or tens_b:
        steps.append(step(tens, ones) if tens >= 0 else step(ones, tens))
    return steps


def _quotient(a: int, b: int) -> list[str]:
    """Steps of a long division: the quotient itself, then digit by digit; one step where the divisor has two digits."""
    if b >= 10:
        return [f"{a} / {b} = {a // b} rest {a % b}"]
    steps, rest = [f"{a} / {b}"], 0
    for digit in str(a):
        part = rest * 10 + int(digit)
        rest = part % b
        steps.append(f"{part} / {b} = {part // b} rest {rest}")
    return steps


def write_down(steps: list[str], result: int, bookkeeping: str) -> str:
    """A worked answer in GSM8K's form: the steps, then `#### N`."""
    if bookkeeping == "row":
        body = "; ".join(steps)
    elif bookkeeping == "numbered":
        body = "\n".join(f"{i}) {step}" for i, step in enumerate(steps, 1))
    else:
        body = "\n".join(steps)
    return f"{body}\n#### {result}"
