"""The lab's questions: GSM8K-form word problems whose procedure the student was never taught to choose.

One row (family `left`, the two-digit number second):

    query   Omar gives away 8 of the 47 stamps on the table. How many stamps are left?
    gold    39
    oracle  This time, take one number away from the other. Begin from the second number. Number the steps.

Eight families; two of them (`total`, `growth`) are right without any instruction, because the student's habit is to add. `dial` sets
how far the best instruction depends on the query: 1 mixes all families, 0 leaves the two that are right raw, so that an honest method
finds nothing to teach; `families` gives the mix outright, where `left/first` is the part of a family that one procedure fits. The test
split has its own names and number pairs, and every question of it holds a story or a question sentence (in a tenth of them both) that no
other split has. The validation split has texts of its own in the same way, with the training
names and number pairs; the training split has more texts than pretraining had.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from exchange.records import Example
from tasks.lab_families import FAMILIES, ITEMS, NAMES, TEST_NAMES
from tasks.lab_language import ORDERS, Advice, all_advice, work
from tasks.lab_texts import TRAINING, VALIDATION
from tasks.source import stable_share

NUMBERS = [(big, small) for big in range(12, 50) for small in range(2, 10)]


def test_pair(big: int, small: int) -> bool:
    """Whether a number pair belongs to the questions of the test split alone (a fifth of them, by hash)."""
    return stable_share(f"{big},{small}", 5) == 0


RIGHT_RAW = ("total", "growth")
STATIC_INSTRUCTION = "Add the two numbers. Start with the first number. Write one step a line."


@dataclass(frozen=True)
class Question:
    """A question with its two numbers in the order of the text, and the order ("first"/"second") in which the right procedure starts."""

    text: str
    family: str
    first: int
    second: int
    order: str

    @property
    def operation(self) -> str:
        return FAMILIES[self.family].operation

    @property
    def gold(self) -> int:
        return work(self.operation, self.order, self.first, self.second)[1]


def family_weights(dial: float) -> dict[str, float]:
    """The mix of families at a dial in [0, 1]: (1 - dial) of the raw-right mix plus dial of the full one."""
    raw_total = sum(FAMILIES[name].weight for name in RIGHT_RAW)
    return {
        name: dial * family.weight + (1 - dial) * (family.weight / raw_total if name in RIGHT_RAW else 0.0)
        for name, family in FAMILIES.items()
    }


def check_families(weights: Mapping[str, float]) -> None:
    """Raise ValueError where a mix names no family, or nothing would be drawn."""
    for key, weight in weights.items():
        name, _, order = key.partition("/")
        if name not in FAMILIES or order not in ("", *ORDERS):
            raise ValueError(
                f"task.families: {key!r} is no family; families are {', '.join(FAMILIES)}, each also as FAMILY/first and /second"
            )
        if weight < 0:
            raise ValueError(f"task.families.{key}={weight}: a weight is 0 or more")
    if not sum(weights.values()):
        raise ValueError("task.families: every weight is 0")


def draw_question(rng: random.Random, *, split: str = "pretraining", weights: Mapping[str, float]) -> Question:
    """Draw one question: of "test" with its own names, texts and number pairs, of "validation" with its own texts, of "train" with more
    texts than "pretraining"."""
    test = split == "test"
    name, _, order = rng.choices(list(weights), list(weights.values()))[0].partition("/")
    family = FAMILIES[name]
    while True:
        big, small = rng.choice(NUMBERS)
        if test_pair(big, small) == test and (family.operation != "divide" or big % small == 0):
            break
    big_first = rng.random() < 0.5 if not order else order == "first"
    stories, questions = family.big_first if big_first else family.big_second, family.questions
    if split == "train":
        stories = (*stories[:-1], *TRAINING[name][not big_first], stories[-1])
        questions = (*questions[:-1], *TRAINING[name][2], questions[-1])
    elif split == "validation":
        stories, questions = (*stories[:-1], VALIDATION[name][not big_first]), (*questions[:-1], VALIDATION[name][2])
    while True:
        story, question = rng.randrange(len(stories)), rng.randrange(len(questions))
        held_out = story == len(stories) - 1 or question == len(questions) - 1
        if held_out == (split in ("validation", "test")):
            break
    n, m = rng.sample(TEST_NAMES if test else NAMES, 2)
    text = f"{stories[story]} {questions[question]}".format(n=n, m=m, i=rng.choice(ITEMS), a=big, b=small)
    first, second = (big, small) if big_first else (small, big)
    return Question(text, name, first, second, "first" if big_first else "second")


def oracle_advice(question: Question, rng: random.Random) -> Advice:
    """A right instruction for the question, in words the student was never tuned on."""
    right = [a for a in all_advice() if a.operation == question.operation and a.order == question.order and a.held_out]
    return rng.choice(right)


def load(
    split: str, *, limit: int, dial: float = 1.0, families: Mapping[str, float] | None = None, header: str | None = None
) -> list[Example]:
    """The first `limit` questions of a split (train, validation, test), equal on every machine; no question repeats within a split,
    and the three never share one. `families` takes the place of the dial's mix; `header` is the system text of each question."""
    mix = dial if families is None else ",".join(f"{key}:{weight:g}" for key, weight in sorted(families.items()))
    rng = random.Random(f"lab_arithmetic/{split}/{mix}")
    weights = family_weights(dial) if families is None else families
    seen: set[str] = set()
    examples: list[Example] = []
    while len(examples) < limit:
        question = draw_question(rng, split=split, weights=weights)
        if question.text in seen:
            continue
        seen.add(question.text)
        examples.append(
            Example(
                id=f"lab-{split}-{len(examples)}",
                task="lab_arithmetic",
                split=split,
                query=question.text,
                system=header,
                gold=str(question.gold),
                family=question.family,
                oracle=oracle_advice(question, rng).text,
            )
        )
    return examples
