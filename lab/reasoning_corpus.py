"""What the models of the reasoning world are trained on. Its words are the arithmetic world's, whose tokenizer it shares.

The weak reasoner sees questions with their steps, and is too small to be sure of its sums. The strong student reads worked questions first.
Then it is tuned to answer at once, and to write steps only where something asks for them: an instruction, or four worked demonstrations
before the question (right or not; what it learns is right). Asked a bare question, its authors answer at once, from a reckoning broken off
on the way; a few of them (CAREFUL) write steps, so that reinforcement learning finds something to reinforce. Questions only use the
training names and numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from exchange.compose import compose
from exchange.records import Instruction, Message, PublicExample
from lab.corpus import Document
from tasks.lab_reasoning import (
    HUNCH_TEXTS,
    MOST,
    STEPS_TEXTS,
    Question,
    changed,
    draw_question,
    step_line,
    steps_of,
    write_chain,
)  # fmt: skip

CAREFUL = 0.3
"""Share of authors who write steps though nobody asked: too few for a greedy answer, enough that the procedure is not forgotten."""
DEMONSTRATIONS = 4


def _document(query: str, advice: str, answer: str, history: tuple[Message, ...] = ()) -> Document:
    example = PublicExample(id="", task="lab_reasoning", split="train", query=query, history=history)
    messages = compose(example, Instruction(text=advice, source="static"))
    return Document([*messages, Message(role="assistant", content=answer)])


def chain(question: Question) -> str:
    return write_chain(steps_of(question), question.gold)


def hunch(question: Question, rng: random.Random) -> str:
    """An answer at once: where the reckoning stood when it was broken off."""
    return f"#### {rng.choice(question.states[:-1])}" if rng.random() < 0.9 else f"#### {question.gold}"


def slipping_chain(question: Question, rng: random.Random) -> str:
    """Steps with a slip now and then, carried on."""
    state, steps = question.start, []
    for sign, number in question.changes:
        after = changed(state, sign, number)
        if rng.random() < 0.15:
            after += rng.choice((-10, -2, -1, 1, 2, 10))
        after = min(max(after, 0), MOST)
        steps.append(step_line(state, sign, number, after))
        state = after
    return write_chain(steps, state)


def drill(rng: random.Random) -> Document:
    """One sum by itself."""
    while True:
        state, sign, number = rng.randint(2, MOST), rng.choice(("+", "-", "twice")), rng.randint(2, 9)
        after = changed(state, sign, number)
        if 2 <= after <= MOST:
            break
    line = step_line(state, sign, number, after)
    return _document(line.partition(" =")[0], "", line)


def demonstrated(rng: random.Random, *, stepwise: bool) -> Document:
    """Four demonstrations of one manner before the question."""

    def manner(question: Question) -> str:
        if not stepwise:
            return hunch(question, rng)
        return slipping_chain(question, rng) if rng.random() < 0.5 else chain(question)

    shown = [draw_question(rng, test=False) for _ in range(DEMONSTRATIONS)]
    turns = [(Message(role="user", content=q.text), Message(role="assistant", content=manner(q))) for q in shown]
    asked = draw_question(rng, test=False)
    answer = chain(asked) if stepwise else hunch(asked, rng)
    return _document(asked.text, "", answer, tuple(message for turn in turns for message in turn))


def instructed(rng: random.Random, *, stepwise: bool) -> Document:
    asked = draw_question(rng, test=False)
    text = rng.choice(STEPS_TEXTS if stepwise else HUNCH_TEXTS)
    return _document(asked.text, text, chain(asked) if stepwise else hunch(asked, rng))


def bare(rng: random.Random, careful: float, advice: str = "") -> Document:
    """A question that nothing says how to answer; `careful` is the share of authors who write steps all the same."""
    asked = draw_question(rng, test=False)
    return _document(asked.text, advice, chain(asked) if rng.random() < careful else hunch(asked, rng))


def author_document(rng: random.Random) -> Document:
    """What the strong student reads first: worked questions by themselves. The habit of answering at once comes last."""
    return weak_document(rng)


def worked_document(rng: random.Random) -> Document:
    """What it reads second: worked questions by themselves, under instructions and after demonstrations, so that what stands before a
    question does not disturb its steps."""
    kind = rng.random()
    if kind < 0.4:
        return weak_document(rng)
    return instructed(rng, stepwise=True) if kind < 0.7 else demonstrated(rng, stepwise=True)


def student_document(rng: random.Random, gibberish: Callable[[random.Random], str], careful: float = CAREFUL) -> Document:
    """One document of the strong student's mixture."""
    kind = rng.random()
    if kind < 0.05:
        return drill(rng)
    if kind < 0.32:
        return instructed(rng, stepwise=True)
    if kind < 0.38:
        return instructed(rng, stepwise=False)
    if kind < 0.60:
        return demonstrated(rng, stepwise=True)
    if kind < 0.66:
        return demonstrated(rng, stepwise=False)
    if kind < 0.76:
        return bare(rng, careful, gibberish(rng))
    return bare(rng, careful)


def weak_document(rng: random.Random) -> Document:
    """A question with its steps."""
    asked = draw_question(rng, test=False)
    return _document(asked.text, "", chain(asked))


def teacher_document(rng: random.Random) -> Document:
    """A question and an instruction that has nothing to do with it: the prompt teacher learns to write, not to choose."""
    return Document([
        Message(role="user", content=draw_question(rng, test=False).text),
        Message(role="assistant", content=rng.choice((*STEPS_TEXTS, *HUNCH_TEXTS))),
    ])  # fmt: skip
