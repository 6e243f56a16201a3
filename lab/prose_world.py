"""lab-m's questions: word problems in prose, thousands of templates, whose procedure the student was never taught to choose.

One row (family `share`, scene `bakery`):

    query   It is a busy Tuesday at the bakery. Nadia spreads 24 rolls evenly over 6 trays. How many rolls does each tray hold?
    gold    4
    oracle  This is a case where you share the larger amount out equally. Keep it short.

A template is a scene, a story and a question sentence; a fifth of them, and some names, belong to the test split alone. Every question has
two numbers, a two-digit and a one-digit one, in either order. Six procedures take them to six numbers; which one fits depends on the
question. The student's habit is to add, right for two families of ten.

Standard library alone, because `benchmarks.lab_m` also runs on machines that have nothing but torch and transformers.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache
from typing import NamedTuple

from lab.prose_texts import FAMILIES, FRAMES, OPENERS, PHRASES, SCENES, TAILS

NUMBERS = tuple((big, small) for big in range(10, 40) for small in range(2, 10))
NAMES = (
    "Anna Ben Carl Dora Emil Fay Gus Hana Ivan Jill Kofi Lena Mona Nils Olga Paul Rosa Sam Tara Uma Vera Will Yara Zoe "
    "Amir Bea Cleo Dan Ella Finn Greta Hugo Ines Jack Kim Leo Maya Noah Pia Ravi"
).split()
TEST_NAMES = "Omar Petra Quinn Ruth Sven Tomas Ursula Viktor Wanda Nadia".split()
PROCEDURES = tuple(PHRASES)
"""The last one, `steps`, takes no number anywhere: it asks for a worked solution of a GSM8K question; of a story it leaves the habit."""
HABIT = "add"
STATIC_INSTRUCTION = "Read the story carefully and compute what it asks for. End with #### and the number."
HELD_OUT_FRAME = FRAMES[-1]


def share_of(text: str, parts: int) -> int:
    """A number in [0, parts) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % parts


class Advice(NamedTuple):
    """An instruction of the language."""

    procedure: str
    phrase: int
    frame: int
    tail: int

    @property
    def text(self) -> str:
        phrase, frame = PHRASES[self.procedure][self.phrase], FRAMES[self.frame]
        sentence = frame.format(op=phrase[0].upper() + phrase[1:] if frame.startswith("{") else phrase)
        return f"{sentence} {TAILS[self.tail]}".strip()

    @property
    def held_out(self) -> bool:
        """Never in the student's tuning: one frame, and a quarter of the others (by hash)."""
        return FRAMES[self.frame] == HELD_OUT_FRAME or share_of(self.text, 4) == 0


@cache
def all_advice() -> tuple[Advice, ...]:
    """Every instruction of the language."""
    return tuple(
        Advice(procedure, phrase, frame, tail)
        for procedure, phrases in PHRASES.items()
        for phrase in range(len(phrases))
        for frame in range(len(FRAMES))
        for tail in range(len(TAILS))
    )


@cache
def held_out_advice(procedure: str) -> tuple[Advice, ...]:
    """A procedure's instructions in words that the student was never tuned on."""
    return tuple(a for a in all_advice() if a.procedure == procedure and a.held_out)


class Template(NamedTuple):
    """Where, what happens, what is asked; indices into the texts."""

    scene: str
    family: str
    story: int
    question: int

    @property
    def test(self) -> bool:
        """Whether only the test split has it (a fifth, by hash)."""
        return share_of(f"{self.scene}/{self.family}/{self.story}/{self.question}", 5) == 0

    @property
    def skeleton(self) -> str:
        """Its text with the scene's nouns, names and numbers left as slots."""
        family, scene = FAMILIES[self.family], SCENES[self.scene]
        return f"{family.stories[self.story]} {family.questions[self.question]}".format_map(_Kept(scene.slots(0)))


class _Kept(dict[str, str]):
    """Slots that are not given stay slots."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


@cache
def templates(family: str, *, test: bool) -> tuple[Template, ...]:
    """A family's templates of one side."""
    texts = FAMILIES[family]
    made = (
        Template(scene, family, story, question)
        for scene in SCENES
        for story in range(len(texts.stories))
        for question in range(len(texts.questions))
    )
    return tuple(template for template in made if template.test == test)


class Question(NamedTuple):
    """A question with its two numbers."""

    text: str
    family: str
    big: int
    small: int

    @property
    def procedure(self) -> str:
        return FAMILIES[self.family].procedure

    @property
    def gold(self) -> int:
        return work(self.procedure, self.big, self.small)[1]


def work(procedure: str, big: int, small: int) -> tuple[list[str], int]:
    """The visible steps of a procedure on the two numbers, and its result; quotients and halves keep the whole part."""
    total = big + small
    if procedure in ("add", "steps"):
        return [f"{big} + {small} = {total}"], total
    if procedure == "subtract":
        return [f"{big} - {small} = {big - small}"], big - small
    if procedure == "multiply":
        return [f"{big} x {small} = {big * small}"], big * small
    if procedure == "divide":
        return [f"{big} / {small} = {big // small}"], big // small
    if procedure == "average":
        return [f"{big} + {small} = {total}", f"{total} / 2 = {total // 2}"], total // 2
    assert procedure == "double", procedure
    return [f"{big} + {small} = {total}", f"{total} x 2 = {2 * total}"], 2 * total


def answer(procedure: str, big: int, small: int) -> str:
    """The answer that carries out the procedure, in GSM8K's form: the steps, then `#### N`."""
    steps, result = work(procedure, big, small)
    return "\n".join([*steps, f"#### {result}"])


def fits(procedure: str, big: int, small: int) -> bool:
    """Whether the procedure's result is a whole number."""
    return {"divide": big % small == 0, "average": (big + small) % 2 == 0}.get(procedure, True)


def draw(rng: random.Random, *, test: bool, uniform: bool = False) -> Question:
    """One question of a split; `uniform`: every family equally likely, as the models read them, instead of by its weight."""
    family = rng.choices(list(FAMILIES), None if uniform else [f.weight for f in FAMILIES.values()])[0]
    template = rng.choice(templates(family, test=test))
    texts, scene = FAMILIES[family], SCENES[template.scene]
    while True:
        big, small = rng.choice(NUMBERS)
        if fits(texts.procedure, big, small):
            break
    n, m = rng.sample(TEST_NAMES if test else NAMES, 2)
    a, b = (big, small) if texts.big_first(template.story) else (small, big)
    slots = {**scene.slots(rng.randrange(len(scene.items))), "n": n, "m": m, "a": str(a), "b": str(b)}
    sentences = [texts.stories[template.story], texts.questions[template.question]]
    if rng.random() < 0.3:
        sentences.insert(0, rng.choice(OPENERS))
    filled = [sentence.format_map(slots) for sentence in sentences]
    return Question(" ".join(text[0].upper() + text[1:] for text in filled), family, big, small)


class Row(NamedTuple):
    """A question as it is asked: id, text, gold, family, and the right instruction in words that the student was never tuned on."""

    id: str
    query: str
    gold: str
    family: str
    oracle: str


def load(split: str, limit: int) -> list[Row]:
    """The first `limit` questions of a split (train, validation, test), equal on every machine; no question repeats, within or between."""
    rng = random.Random(f"lab_prose/{split}")
    rows: dict[str, Row] = {}
    while len(rows) < limit:
        asked = draw(rng, test=split == "test")
        if asked.text in rows or (split != "test" and (share_of(asked.text, 10) == 0) != (split == "validation")):
            continue
        oracle = rng.choice(held_out_advice(asked.procedure)).text
        rows[asked.text] = Row(f"lab-m-{split}-{len(rows)}", asked.text, str(asked.gold), asked.family, oracle)
    return list(rows.values())
