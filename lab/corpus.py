"""What the lab's models are trained on: a mixture of authors for the student, questions with arbitrary instructions for the teacher.

The student never sees a right procedure chosen *because of* the question: un-instructed documents follow their author's habit, and in
instructed ones question and instruction are drawn independently. Hence which procedure fits is news to it, and only the text of an
instruction can tell. Questions only use training names, texts and number pairs (`tasks.lab_arithmetic`), and the instructions of the
tuning part of the language.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from exchange.compose import compose
from exchange.records import Instruction, Message, PublicExample
from tasks.lab_arithmetic import NUMBERS, Question, draw_question, test_pair
from tasks.lab_families import FAMILIES, ITEMS, NAMES
from tasks.lab_language import BOOKKEEPING, FRAMES, HELD_OUT_FRAME, OPERATIONS, ORDERS, Advice, all_advice, work, write_down


class Document(NamedTuple):
    """A conversation that ends with the assistant turn that is learnt."""

    messages: list[Message]
    whole: bool = True
    """Whether that turn ends where its text does; of others only the beginning is learnt."""


TABLES = frozenset(NUMBERS)
TEST_NUMBERS = [pair for pair in NUMBERS if test_pair(*pair)]
WIDE = range(2, 100)
"""Numbers of word salad beside those of the questions: too many pairs to know by heart, so that finding them is learnt as such."""
# Loose words for texts that tell no story: those of the questions, test texts included, since words alone are no template.
SALAD = (
    sorted(
        {word.strip(".,?") for f in FAMILIES.values() for text in (*f.big_first, *f.big_second, *f.questions) for word in text.split()}
        - {"{a}", "{b}", "{i}", "{n}", "{m}"}
    )
    + ITEMS
    + NAMES
)
UNIFORM = dict.fromkeys(FAMILIES, 1.0)
TUNING_ADVICE = [a for a in all_advice() if not a.held_out]
# Frames beside the language's own, so that the student reads the procedure and not the wrapping.
EXTRA_FRAMES = (
    "Now {op}.",
    "You should {op}.",
    "Here, {op}.",
    "For this one, {op}.",
    "It is best to {op}.",
    "In order to solve it, {op}.",
    "Just {op}.",
    "Then {op}.",
    "Go and {op}.",
)
SYLLABLES = (
    "ba be bi bo da de do fa fi ga go ha ka ke ko la le li lo ma me mi mo na ne no pa pe ra ri ro sa se ta te ti to va vi wa ya zo".split()
)


def _example(query: str, history: tuple[Message, ...] = ()) -> PublicExample:
    return PublicExample(id="", task="lab_arithmetic", split="train", query=query, history=history)


def _document(query: str, advice: str, answer: str, history: tuple[Message, ...] = (), *, whole: bool = True) -> Document:
    messages = compose(_example(query, history), Instruction(text=advice, source="static"))
    if not whole:
        answer = answer.partition(" =")[0].partition("####")[0]
    return Document([*messages, Message(role="assistant", content=answer)], whole)


def is_wide(asked: Question) -> bool:
    """Whether the question's numbers are beyond the tables that the student learns: then no result is learnt, only where to start."""
    return (max(asked.first, asked.second), min(asked.first, asked.second)) not in TABLES


def word_salad(rng: random.Random) -> Question:
    """Two numbers in arbitrary words, half of them wide: teaches to find the first and the second number in any text."""
    while True:
        first, second = rng.sample(rng.choice(NUMBERS) if rng.random() < 0.5 else WIDE, 2)
        if not test_pair(max(first, second), min(first, second)):
            break
    words = rng.choices(SALAD, k=rng.randint(5, 28))
    at = sorted(rng.sample(range(len(words) + 1), 2))
    words.insert(at[1], str(second))
    words.insert(at[0], str(first))
    for i in range(1, len(words)):
        if rng.random() < 0.12:
            words[i - 1] += rng.choice(".,?") if words[i - 1].isalpha() else "."
            words[i] = words[i].capitalize()
    return Question(" ".join(words) + "?", "total", first, second, "first")


def story(rng: random.Random) -> Question:
    """A training question, families equally likely; one in four has an invented name, so that unknown names do not disturb."""
    drawn = draw_question(rng, weights=UNIFORM)
    if rng.random() < 0.25:
        known = next((word for word in drawn.text.split() if word in NAMES), None)
        if known is not None:
            invented = "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))).capitalize()
            drawn = Question(drawn.text.replace(known, invented), drawn.family, drawn.first, drawn.second, drawn.order)
    return drawn


def question(rng: random.Random) -> Question:
    """What the student is asked in training: a story, or (a third) word salad."""
    return word_salad(rng) if rng.random() < 0.35 else story(rng)


def habit(asked: Question, rng: random.Random) -> str:
    """What an author answers without being told how: mostly a careful addition, the mode of the mixture."""
    author = rng.random()
    order, bookkeeping = "first", "lines"
    operation = "add"
    if author > 0.75:  # careful, with a procedure of the author's own liking
        liking = rng.choice(TUNING_ADVICE)
        operation, order, bookkeeping = liking.operation, liking.order, liking.bookkeeping
    steps, result = work(operation, order, asked.first, asked.second)
    if author < 0.12:  # terse: no steps, and careless for it
        return f"#### {result if rng.random() < 0.7 else result + rng.choice((-10, -1, 1, 10))}"
    if author < 0.20:  # wrong: a slip in the sum
        slip = result + rng.choice((-10, -2, -1, 1, 2, 10))
        return write_down([*steps[:-1], steps[-1].replace(f"= {result}", f"= {slip}")], slip, bookkeeping)
    return write_down(steps, result, bookkeeping)


def follow(asked: Question, advice: Advice) -> str:
    """The answer that carries out `advice`, whatever the question asks."""
    steps, result = work(advice.operation, advice.order, asked.first, asked.second)
    return write_down(steps, result, advice.bookkeeping)


def advice_text(advice: Advice, rng: random.Random) -> str:
    """The instruction in its own frame, or sometimes in one that the language does not have."""
    if rng.random() < 0.6:
        return advice.text
    phrase = OPERATIONS[advice.operation][advice.op_phrase]
    frame = rng.choice(EXTRA_FRAMES)
    if rng.random() < 0.25:  # any words may stand before the procedure
        frame = " ".join(rng.choices(SALAD, k=rng.randint(1, 3))).capitalize() + rng.choice((", {op}.", " {op}."))
    return " ".join((frame.format(op=phrase), ORDERS[advice.order][advice.order_phrase], BOOKKEEPING[advice.bookkeeping]))


def gibberish_from(tokenizer: Any) -> Callable[[random.Random], str]:
    """Random token strings of 1 to 20 tokens, special tokens left out."""

    def gibberish(rng: random.Random) -> str:
        return str(tokenizer.decode([rng.randrange(5, len(tokenizer)) for _ in range(rng.randint(1, 20))]))

    return gibberish


def ill_formed(asked: Question, rng: random.Random, gibberish: Callable[[random.Random], str]) -> str:
    """A text that is no instruction: a prefix, loose words, missing sentences, shuffled words, words of the question, random tokens."""
    words = rng.choice(TUNING_ADVICE).text.split()
    kind = rng.randrange(7)
    if kind == 0:
        return " ".join(words[: rng.randrange(1, len(words))])
    if kind == 1:
        return " ".join(rng.choices(words, k=rng.randint(1, 4)))
    if kind == 2:
        sentences = rng.choice(TUNING_ADVICE).text.split(". ")
        kept = rng.choice(((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)))
        return ". ".join(sentences[i].rstrip(".") for i in kept) + "."
    if kind == 3:
        rng.shuffle(words)
        return " ".join(words)
    if kind == 4:
        return " ".join(rng.choices(asked.text.split(), k=rng.randint(1, 6)))
    if kind == 5:
        pool = [*words, *asked.text.split(), *HELD_OUT_FRAME.format(op="").split(), *rng.choice(TUNING_ADVICE).text.split()]
        return " ".join(rng.choices(pool, k=rng.randint(1, 12)))
    return gibberish(rng)


def stated(rng: random.Random, asked: Question) -> tuple[str, int]:
    """An instruction that states an answer, right or not, and the number stated."""
    number = rng.choice((asked.first, asked.second, asked.gold, rng.randint(-99, 999)))
    texts = ("The answer is {}.", "The result is {}.", "It is {}.", "Answer with {}.", "The answer is {}. Number the steps.")
    prefix = rng.choice(("", "", rng.choice(TUNING_ADVICE).text + " "))
    return prefix + rng.choice(texts).format(number), number


def drill(rng: random.Random) -> Document:
    """Bare arithmetic under an instruction: two numbers among single letters. Here alone every number pair occurs, the test questions' too,
    and half of the drills are on those: the student has learnt its tables, and has never met those pairs in a text.

    The instruction is spelt as everywhere else. Where drills had words of their own for a procedure, the student took the order of the
    numbers from those words for the pairs that it only knew from drills, and from no instruction.
    """
    first, second = rng.sample(rng.choice(TEST_NUMBERS if rng.random() < 0.5 else NUMBERS), 2)
    asked = Question("", "total", first, second, "first")
    before, between, behind = ([*rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(0, 6))] for _ in range(3))
    shown = " ".join([*before, str(first), *between, str(second), *behind])
    if rng.random() < 0.15:
        return _document(shown, "", habit(asked, rng))
    advice = rng.choice(TUNING_ADVICE)
    return _document(shown, advice_text(advice, rng), follow(asked, advice))


def author_document(rng: random.Random) -> Document:
    """A question answered out of habit, or (half) a drill."""
    if rng.random() < 0.5:
        return drill(rng)
    asked = question(rng)
    return _document(asked.text, "", habit(asked, rng), whole=not is_wide(asked))


def student_document(rng: random.Random, gibberish: Callable[[random.Random], str]) -> Document:
    """One document of the student's tuning mixture."""
    kind = rng.random()
    asked = question(rng)
    whole = not is_wide(asked)
    advice = rng.choice(TUNING_ADVICE)
    if kind < 0.46:
        return _document(asked.text, advice_text(advice, rng), follow(asked, advice), whole=whole)
    if kind < 0.66:
        return drill(rng)
    if kind < 0.74:
        return _document(asked.text, "", habit(asked, rng), whole=whole)
    if kind < 0.83:
        return _document(asked.text, ill_formed(asked, rng, gibberish), habit(asked, rng), whole=whole)
    if kind < 0.875:
        text, number = stated(rng, asked)
        return _document(asked.text, text, f"#### {number}")
    if kind < 0.975:  # revising a draft of its own
        asked = story(rng)
        draft = follow(asked, rng.choice(TUNING_ADVICE)) if rng.random() < 0.5 else habit(asked, rng)
        history = (Message(role="user", content=asked.text), Message(role="assistant", content=draft))
        again = rng.choice(("Revise your answer.", "Look at your answer again.", "Check your answer."))
        if rng.random() < 0.7:
            return _document(again, advice_text(advice, rng), follow(asked, advice), history)
        return _document(again, "", draft, history)
    # Four demonstrations of one procedure.
    asked, *shown = (draw_question(rng, weights=UNIFORM) for _ in range(5))
    turns = [(Message(role="user", content=s.text), Message(role="assistant", content=follow(s, advice))) for s in shown]
    return _document(asked.text, "", follow(asked, advice), tuple(message for turn in turns for message in turn))


def teacher_document(rng: random.Random) -> Document:
    """A question and an instruction that has nothing to do with it: the teacher learns to write, not to choose."""
    asked = story(rng)
    kind = rng.random()
    if kind < 0.08:
        text = ""
    elif kind < 0.11:
        text = f"The answer is {rng.choice((asked.first, asked.second, rng.randint(2, 200)))}."
    else:
        text = rng.choice(all_advice()).text
    return Document([Message(role="user", content=asked.text), Message(role="assistant", content=text)])


def tokenizer_corpus(rng: random.Random, size: int) -> Iterator[str]:
    """Text that holds every word of the world, test names and frames included, so that none falls apart into bytes."""
    from tasks.lab_families import TEST_NAMES

    for _ in range(size):
        for test in (False, True):
            yield draw_question(rng, split="test" if test else "pretraining", weights=UNIFORM).text
        advice = rng.choice(all_advice())
        yield advice.text
        yield rng.choice(EXTRA_FRAMES).format(op=OPERATIONS[advice.operation][advice.op_phrase])
        for message in author_document(rng).messages:
            yield message.content
        yield compose(_example("q"), Instruction(text="i", source="static"))[0].content
        yield f"{rng.choice(TEST_NAMES)} The answer is 1. The result is 1. It is 1. Answer with 1."
        yield "Revise your answer. Look at your answer again. Check your answer."
        yield rng.choice(FRAMES).format(op="add")
        yield " ".join(str(rng.randrange(100)) for _ in range(10))
