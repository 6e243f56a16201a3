"""The lab's questions of several steps: a number and two to four changes to it, one after another.

    query   Omar had 14 coins. Omar got 5 as a gift. Omar gave away 3. Then there are twice as many. How many coins are there now?
    gold    32
    chain   14 + 5 = 19
            19 - 3 = 16
            16 + 16 = 32
            #### 32

Who writes the steps down has only small sums to do; who answers at once has all of them to do at the same time. It is the world of the
methods in which a weak model teaches a strong one (`weak_to_strong`): its weak reasoner writes steps and slips, its strong student can do
the sums and answers at once. The test split has its own names and its own numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from exchange.records import Example
from tasks.lab_families import ITEMS, NAMES, TEST_NAMES
from tasks.source import questions_of_split, stable_share

MOST = 60
"""Largest number on the way: sums that a tiny model can know, and every number a single token of it."""
LENGTHS = (2, 3, 4)
STARTS = ("{n} had {a} {i}.", "There are {a} {i} on the table.", "{a} {i} were in the bag.")
CHANGES: dict[str, tuple[str, ...]] = {
    "+": ("{n} found {b} new ones.", "{n} got {b} as a gift.", "{n} put in {b} new ones.", "{b} new ones came."),
    "-": ("{n} gave away {b}.", "{n} lost {b} of them.", "{n} ate {b} of them.", "{b} of them broke."),
    "twice": ("Then there are twice as many.", "Now double the number.", "{n} has twice as many now."),
}
QUESTIONS = (
    "How many {i} are there now?",
    "What is the number of {i} now?",
    "How many {i} does {n} have now?",
)

STEPS_TEXTS = ("Write one step a line.", "Write all steps.", "Take one step and then the other.", "Find one number and then the other.")
"""Instructions under which the strong student writes steps; the first one is what a careful user would write for all questions."""
HUNCH_TEXTS = ("Answer now.", "Just answer.", "Go and find the number.", "It is one number.")
"""Instructions under which it answers at once."""
STATIC_INSTRUCTION = STEPS_TEXTS[0]


@dataclass(frozen=True)
class Question:
    """A question with its numbers: where it starts, and each change as (sign, number); a doubling is ("twice", 2)."""

    text: str
    start: int
    changes: tuple[tuple[str, int], ...]

    @property
    def states(self) -> list[int]:
        """The number at the start and after each change."""
        found = [self.start]
        for sign, number in self.changes:
            found.append(changed(found[-1], sign, number))
        return found

    @property
    def gold(self) -> int:
        return self.states[-1]


def changed(state: int, sign: str, number: int) -> int:
    """The number after one change."""
    return state + number if sign == "+" else state - number if sign == "-" else 2 * state


def step_line(before: int, sign: str, number: int, after: int) -> str:
    """One step as it is written down; a doubling is a number added to itself."""
    return f"{before} {'-' if sign == '-' else '+'} {before if sign == 'twice' else number} = {after}"


def steps_of(question: Question) -> list[str]:
    """The right steps, one a change."""
    states = question.states
    return [step_line(states[k], sign, number, states[k + 1]) for k, (sign, number) in enumerate(question.changes)]


def write_chain(steps: list[str], answer: int) -> str:
    """A worked answer in GSM8K's form."""
    return "\n".join([*steps, f"#### {answer}"])


def _numbers(rng: random.Random) -> tuple[int, tuple[tuple[str, int], ...]]:
    """A start and changes that stay between 2 and MOST."""
    start = state = rng.randint(12, 30)
    changes: list[tuple[str, int]] = []
    for _ in range(rng.choice(LENGTHS)):
        kinds = [kind for kind in ("+", "-", "twice") if kind != "twice" or state * 2 <= MOST]
        while True:
            sign = rng.choice(kinds)
            number = 2 if sign == "twice" else rng.randint(2, 9)
            if 2 <= changed(state, sign, number) <= MOST:
                break
        changes.append((sign, number))
        state = changed(state, sign, number)
    return start, tuple(changes)


def test_numbers(start: int, changes: tuple[tuple[str, int], ...]) -> bool:
    """Whether numbers belong to the questions of the test split alone (a fifth of them, by hash)."""
    return stable_share(f"{start},{changes}", 5) == 0


def draw_question(rng: random.Random, *, test: bool) -> Question:
    """Draw one question; `test` draws from the held-out names and numbers, and only from those."""
    while True:
        start, changes = _numbers(rng)
        if test_numbers(start, changes) == test:
            break
    name, item = rng.choice(TEST_NAMES if test else NAMES), rng.choice(ITEMS)
    texts = [rng.choice(pool) for pool in (STARTS, *(CHANGES[sign] for sign, _ in changes), QUESTIONS)]
    numbers = [start, *(number for _, number in changes), 0]
    text = " ".join(form.format(n=name, i=item, a=number, b=number) for form, number in zip(texts, numbers, strict=True))
    return Question(text, start, changes)


def load(split: str, *, limit: int) -> list[Example]:
    """The first `limit` questions of a split (train, validation, test), equal on every machine; no question repeats within a split,
    and the three never share one."""
    rng = random.Random(f"lab_reasoning/{split}")
    examples: list[Example] = []
    for question in questions_of_split(split, lambda: draw_question(rng, test=split == "test"), limit):
        examples.append(
            Example(
                id=f"lab-reasoning-{split}-{len(examples)}",
                task="lab_reasoning",
                split=split,
                query=question.text,
                gold=str(question.gold),
                reference=write_chain(steps_of(question), question.gold),
                level=f"{len(question.changes)} steps",
                oracle=rng.choice(STEPS_TEXTS),
            )
        )
    return examples
