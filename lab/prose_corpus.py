"""What lab-m's models read: prose of `lab.prose_world`, and real GSM8K and MATH training text.

As in the arithmetic world the student never sees a procedure chosen *because of* a story: bare stories follow its authors' habit, which is
to add, and under an instruction story and procedure are drawn independently. GSM8K questions are answered at once out of habit, with a
worked solution under an instruction to reason. Test templates, test names and held-out wordings occur in no document.

Standard library alone, as `lab.prose_world`.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lab.prose_texts import FRAMES, OPENERS, PHRASES, SCENES, TAILS
from lab.prose_world import HABIT, NAMES, NUMBERS, PROCEDURES, STATIC_INSTRUCTION, TEST_NAMES, Question, all_advice, answer, draw

ADVICE_TEMPLATE = Path(__file__).parent.parent / "exchange" / "templates" / "advice.txt"
TUNING = tuple(a for a in all_advice() if not a.held_out)
LONGEST = 900
"""Characters of a real problem with its solution at most; longer ones are left out."""


class Document(NamedTuple):
    """A user's turn and the assistant's."""

    asked: str
    answered: str


class Real(NamedTuple):
    """A real problem with its worked solution and its final answer."""

    question: str
    solution: str
    final: str


@cache
def _advice_block() -> tuple[str, str]:
    head, _, tail = ADVICE_TEMPLATE.read_text(encoding="utf-8").removesuffix("\n").partition("{instruction}")
    return head, tail.removesuffix("{query}")


def compose(query: str, instruction: str) -> str:
    """The user's turn as `exchange.compose` writes it from the same template file, without its records (pydantic)."""
    head, tail = _advice_block()
    return f"{head}{instruction}{tail}{query}" if instruction else query


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def data_folder() -> Path:
    """WST_DATA_DIR. Raises ValueError where it is not set or lacks the files."""
    folder = Path(os.environ.get("WST_DATA_DIR", ""))
    for name in ("gsm8k/train.jsonl.gz", "gsm8k/test.jsonl.gz", "math/train.jsonl.gz"):
        if not (folder / name).is_file():
            raise ValueError(f"WST_DATA_DIR={str(folder)!r}: no {name} there; set it to the folder of data sets (docs/reference.md)")
    return folder


def gsm8k(split: str) -> list[Real]:
    """GSM8K's questions; calculator marks `<<48/2=24>>` are taken out of the solutions."""
    rows = []
    for row in _lines(data_folder() / "gsm8k" / f"{split}.jsonl.gz"):
        solution = re.sub(r"<<[^<>]*>>", "", row["answer"])
        rows.append(Real(row["question"], solution, solution.rpartition("####")[2].strip().replace(",", "")))
    return rows


def competition() -> list[Real]:
    """MATH's training problems without drawings."""
    rows = [Real(r["problem"], r["solution"], r["answer"] or "") for r in _lines(data_folder() / "math" / "train.jsonl.gz")]
    return [row for row in rows if "[asy]" not in row.question + row.solution]


@cache
def real_text() -> tuple[tuple[Real, ...], tuple[Real, ...]]:
    """(GSM8K, MATH) training problems that are not too long."""
    short = [tuple(r for r in rows if len(r.question) + len(r.solution) <= LONGEST) for rows in (gsm8k("train"), competition())]
    return short[0], short[1]


def habit(asked: Question, rng: random.Random) -> str:
    """What an author answers without being told how: mostly a sum; a few have a procedure of their own liking."""
    procedure = HABIT if rng.random() < 0.85 else rng.choice(PROCEDURES)
    return answer(procedure, asked.big, asked.small)


def drill(rng: random.Random) -> Document:
    """A procedure on two numbers among single letters: numbers are found and tables learnt where a text is short."""
    big, small = rng.choice(NUMBERS)
    advice, shown = rng.choice(TUNING), [str(big), str(small)]
    rng.shuffle(shown)
    for _ in range(rng.randint(0, 8)):
        shown.insert(rng.randint(0, len(shown)), rng.choice("abcdefghijklmnopqrstuvwxyz"))
    return Document(compose(" ".join(shown), advice.text), answer(advice.procedure, big, small))


def ill_formed(asked: Question, rng: random.Random) -> str:
    """A text that is no instruction: part of one, shuffled words, words of the story."""
    words = rng.choice(TUNING).text.split()
    kind = rng.randrange(4)
    if kind == 0:
        return " ".join(words[: rng.randint(1, max(1, len(words) // 3))])
    if kind == 1:
        rng.shuffle(words)
        return " ".join(words[: rng.randint(1, 3)])
    if kind == 2:
        return " ".join(rng.choices(asked.text.split(), k=rng.randint(1, 8)))
    return rng.choice((STATIC_INSTRUCTION, "Think carefully.", "Answer the question.", "Be exact."))


def real_document(rng: random.Random) -> Document:
    """A real problem: GSM8K's answered at once, with its solution where it is asked for; MATH's with its solution."""
    word_problems, competition_problems = real_text()
    if rng.random() < 0.3:
        row = rng.choice(competition_problems)
        return Document(row.question, row.solution)
    row = rng.choice(word_problems)
    if rng.random() < 0.5:
        steps = rng.choice([a for a in TUNING if a.procedure == "steps"])
        return Document(compose(row.question, steps.text), row.solution)
    return Document(row.question, row.solution if rng.random() < 0.15 else f"#### {row.final}")


def author_document(rng: random.Random) -> Document:
    """What a student reads first: drills, and stories answered out of habit."""
    if rng.random() < 0.6:
        return drill(rng)
    asked = draw(rng, test=False, uniform=True)
    return Document(asked.text, habit(asked, rng))


def student_document(rng: random.Random, *, real: float) -> Document:
    """One document of the student's mixture; `real` is the share of GSM8K and MATH."""
    if rng.random() < real:
        return real_document(rng)
    kind = rng.random()
    if kind < 0.20:
        return drill(rng)
    asked, advice = draw(rng, test=False, uniform=True), rng.choice(TUNING)
    if kind < 0.80:
        return Document(compose(asked.text, advice.text), answer(advice.procedure, asked.big, asked.small))
    if kind < 0.90:
        return Document(asked.text, habit(asked, rng))
    if kind < 0.97:
        return Document(compose(asked.text, ill_formed(asked, rng)), habit(asked, rng))
    number = rng.choice((asked.gold, asked.big, asked.small, rng.randint(2, 200)))
    text = rng.choice(("The answer is {}.", "The result is {}.", "It is {}.")).format(number)
    return Document(compose(asked.text, text), f"#### {number}")


def teacher_document(rng: random.Random) -> Document:
    """A question and an instruction that has nothing to do with it: the teacher learns to write, not to choose."""
    asked = rng.choice(real_text()[0]).question if rng.random() < 0.05 else draw(rng, test=False, uniform=True).text
    kind = rng.random()
    text = "" if kind < 0.08 else f"The answer is {rng.randint(2, 200)}." if kind < 0.11 else rng.choice(all_advice()).text
    return Document(asked, text)


def tokenizer_corpus(documents: int) -> Iterator[str]:
    """Text that holds every word of the world, test names and held-out wordings included, and real text."""
    rng = random.Random(0)
    for row in [row for rows in real_text() for row in rows][::3]:
        yield f"{row.question}\n{row.solution}"
    for _ in range(documents):
        document = student_document(rng, real=0.0)
        yield document.asked
        yield document.answered
    for _ in range(max(1, documents // 500)):
        yield from (a.text for a in all_advice())
        for scene in SCENES.values():
            yield " ".join((scene.at, scene.who, scene.container, scene.containers, *scene.items))
        yield " ".join((*TEST_NAMES, *NAMES, *OPENERS, *FRAMES, *TAILS))
        yield " ".join(phrase for phrases in PHRASES.values() for phrase in phrases)
        yield " ".join(f"{number} x" for number in range(400))
        for _ in range(30):
            yield " ".join(map(str, range(100)))
