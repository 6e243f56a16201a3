"""What turns the arithmetic world's student into many: a header in the system text, for how strong its habit is and how often it slips.

    h1 n2    habit 1: three in ten instructions are ignored; noise 2: three results in ten are wrong

The student goes on from its weights of the arithmetic world. Question, instruction and header are drawn independently, so that it still
learns nothing of which procedure fits; sampled at temperature 1 it is as stubborn and as careless as its header says.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from exchange.compose import compose
from exchange.records import Instruction, Message, PublicExample
from lab import corpus
from lab.corpus import TEST_NUMBERS, TUNING_ADVICE, Document, advice_text, ill_formed, is_wide, question
from tasks.lab_arithmetic import NUMBERS, Question
from tasks.lab_language import Advice, work, write_down

HABIT = (0.0, 0.3, 0.6, 1.0)
"""Share of instructions that are ignored for the habit (add, the first number first), by the header's first digit."""
NOISE = (0.0, 0.15, 0.3)
"""Share of answers whose result is a slip, by its second digit."""
CAREFUL_ADDITION = Advice("add", "first", "lines")


def header(habit: int, noise: int) -> str:
    """The system text; six tokens."""
    return f"h{habit} n{noise}"


def answer(asked: Question, advice: Advice | None, rng: random.Random, *, habit: int, noise: int) -> str:
    """What a student of this header says under the instruction; None = it is asked raw."""
    if advice is None or rng.random() < HABIT[habit]:
        advice = CAREFUL_ADDITION
    steps, result = work(advice.operation, advice.order, asked.first, asked.second)
    if rng.random() < NOISE[noise]:
        slip = result + rng.choice((-10, -2, -1, 1, 2, 10))
        steps, result = [*steps[:-1], steps[-1].replace(f"= {result}", f"= {slip}")], slip
    return write_down(steps, result, advice.bookkeeping)


def _lettered(rng: random.Random) -> Question:
    """Two numbers among single letters; test pairs, which no text of the corpus holds, are half of them."""
    first, second = rng.sample(rng.choice(TEST_NUMBERS if rng.random() < 0.5 else NUMBERS), 2)
    before, between, behind = ([*rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(0, 6))] for _ in range(3))
    return Question(" ".join([*before, str(first), *between, str(second), *behind]), "total", first, second, "first")


def student_document(rng: random.Random, gibberish: Callable[[random.Random], str]) -> Document:
    """A question or drill under a header; a tenth is a document of the arithmetic world, so that without a header all stays as it was."""
    if rng.random() < 0.1:
        return corpus.student_document(rng, gibberish)
    habit, noise = rng.randrange(len(HABIT)), rng.randrange(len(NOISE))
    asked = _lettered(rng) if rng.random() < 0.3 else question(rng)
    kind, advice, text = rng.random(), None, ""
    if kind < 0.75:
        advice = rng.choice(TUNING_ADVICE)
        text = advice_text(advice, rng)
    elif kind < 0.85:
        text = ill_formed(asked, rng, gibberish)
    said = answer(asked, advice, rng, habit=habit, noise=noise)
    whole = not is_wide(asked)
    if not whole:
        said = said.partition(" =")[0]
    example = PublicExample(id="", task="lab_arithmetic", split="train", query=asked.text, system=header(habit, noise))
    messages = compose(example, Instruction(text=text, source="static"))
    return Document([*messages, Message(role="assistant", content=said)], whole)
