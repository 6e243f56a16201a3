"""What the models of the alignment world are trained on, and the pairs that its preference models learn from.

The student's habit is one curt step, whatever is asked; under an instruction it carries that out, and question and instruction are drawn
independently, so that nothing in its weights says which query is harmful. Preference pairs are two answers in any two manners, labelled by
the odds of `tasks.lab_alignment.preference` (Bradley-Terry), so that some labels are wrong, as people's are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from exchange.compose import compose
from exchange.records import Instruction, Message, PublicExample
from lab.corpus import EXTRA_FRAMES, Document
from tasks.hh_rlhf import Pair
from tasks.lab_alignment import (
    PEOPLE,
    TEST_PEOPLE,
    TEST_THINGS,
    THINGS,
    Question,
    draw_question,
    preference,
)
from tasks.lab_alignment_language import LENGTHS, MANNERS, STANCES, TONES, Advice, Manner, all_advice, write_answer

TUNING_ADVICE = [advice for advice in all_advice() if not advice.held_out]
ODD_WORDS = "can one if so how please explain what then is there would somebody say the way to now well".split()
HABIT = Manner("answer", "plain", "short")


def _document(query: str, advice: str, answer: str) -> Document:
    asked = PublicExample(id="", task="lab_alignment", split="train", query=query)
    return Document([*compose(asked, Instruction(text=advice, source="static")), Message(role="assistant", content=answer)])


def question(rng: random.Random) -> Question:
    """A training query; in one of ten the person and the thing are other known words, so that no fixed set of them is learnt."""
    drawn = draw_question(rng, test=False)
    if rng.random() < 0.1:
        words = [rng.choice(THINGS) if word in PEOPLE else rng.choice(PEOPLE) if word in THINGS else word for word in drawn.text.split()]
        drawn = Question(" ".join(words), drawn.family, drawn.action)
    return drawn


def worded(rng: random.Random) -> Question:
    """What the student is asked in training: a query, or (a third) its words in a form that no split has, so that it looks for the action
    and not for the form."""
    asked = question(rng)
    if rng.random() >= 0.35:
        return asked
    start = asked.text.index(f" {asked.action} ") + 1
    clause = asked.text[start:].partition("?")[0].partition(".")[0]
    loose = [*ODD_WORDS, *PEOPLE, *THINGS]
    before, behind = (" ".join(rng.choices(loose, k=rng.randint(0, 4))) for _ in range(2))
    text = f"{before.capitalize()} {clause}{rng.choice(('?', '.', ','))} {behind}{rng.choice(('?', '.'))}".strip()
    return Question(text, asked.family, asked.action)


def advice_text(advice: Advice, rng: random.Random) -> str:
    """The instruction in its own frame, or sometimes in one that the language does not have, so that the frame is not what is read."""
    if rng.random() < 0.5:
        return advice.text
    frame = rng.choice(EXTRA_FRAMES)
    if rng.random() < 0.3:  # any words may stand before the stance
        frame = " ".join(rng.choices((*PEOPLE, *THINGS), k=rng.randint(1, 3))).capitalize() + rng.choice((", {op}.", " {op}."))
    manner = advice.manner
    sentences = (TONES[manner.tone][advice.tone_phrase], LENGTHS[manner.length][advice.length_phrase])
    return " ".join((frame.format(op=STANCES[manner.stance][advice.stance_phrase]), *sentences))


def habit(asked: Question, rng: random.Random) -> str:
    """What an author answers without being told how: mostly one plain step."""
    return write_answer(HABIT if rng.random() < 0.8 else rng.choice(MANNERS), asked.steps)


def author_document(rng: random.Random) -> Document:
    """A query answered out of habit."""
    asked = worded(rng)
    return _document(asked.text, "", habit(asked, rng))


def student_document(rng: random.Random, gibberish: Callable[[random.Random], str]) -> Document:
    """One document of the student's tuning mixture: an instruction carried out, habit alone, or habit under a text that is none."""
    kind, asked = rng.random(), worded(rng)
    advice = rng.choice(TUNING_ADVICE)
    if kind < 0.7:
        return _document(asked.text, advice_text(advice, rng), write_answer(advice.manner, asked.steps))
    if kind < 0.85:
        return _document(asked.text, "", habit(asked, rng))
    words = [*advice.text.split(), *asked.text.split()]
    text = gibberish(rng) if rng.random() < 0.3 else " ".join(rng.choices(words, k=rng.randint(1, 10)))
    return _document(asked.text, text, habit(asked, rng))


def teacher_document(rng: random.Random) -> Document:
    """A query and an instruction that has nothing to do with it: the teacher learns to write, not to choose."""
    text = "" if rng.random() < 0.08 else rng.choice(all_advice()).text
    return Document([Message(role="user", content=question(rng).text), Message(role="assistant", content=text)])


def preference_pair(rng: random.Random, number: int, *, test: bool) -> Pair:
    """Two answers in different manners to one query, the first of them preferred."""
    asked = draw_question(rng, test=test)
    first, second = rng.sample(MANNERS, 2)
    odds = preference(asked.family, first) - preference(asked.family, second)
    if rng.random() >= 1 / (1 + math.exp(-odds)):
        first, second = second, first
    messages = (Message(role="user", content=asked.text),)
    return Pair(f"lab-{number}", messages, write_answer(first, asked.steps), write_answer(second, asked.steps), asked.family)


def tokenizer_corpus(rng: random.Random, size: int) -> Iterator[str]:
    """Text that holds every word of the world, test words included, so that none falls apart into bytes."""
    for _ in range(size):
        for test in (False, True):
            yield draw_question(rng, test=test).text
        yield rng.choice(all_advice()).text
        yield rng.choice(EXTRA_FRAMES).format(op="do it")
        yield " ".join(rng.choices(ODD_WORDS, k=4))
        for message in author_document(rng).messages:
            yield message.content
        yield write_answer(rng.choice(MANNERS), question(rng).steps)
        yield " ".join(rng.choice((PEOPLE, THINGS, TEST_PEOPLE, TEST_THINGS)))
        yield compose(PublicExample(id="", task="", split="", query="q"), Instruction(text="i", source="static"))[0].content
