"""Stage I of weak-to-strong reasoning (Yang, Ma, Liu, arXiv 2407.13647): learn from what two sources agree on.

The weak model answers every question (D_weak). The strong model answers the same ones with four of the weak model's answers before it,
right or wrong (D_icl). A question is kept where the two final answers agree; gold answers have no part in it (`without_gold`). Fine-tuning
takes the weak texts (weak), the strong model's (icl), or both (hybrid). Another round answers anew with the models of the last one.

Ours: the demonstrations are drawn for each question, never the question itself; an answer that was cut is no answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from exchange.command import RunError
from exchange.compose import compose, raw_messages
from exchange.protocols import SamplingParams, StudentClient
from exchange.records import Instruction, Message, PublicExample
from exchange.settings import Settings
from student_clients.errors import StudentError
from weak_to_strong.agreement import Answer, AnswerKey, Pool, without_gold

SetName = Literal["weak", "icl", "hybrid"]
SETS: tuple[SetName, ...] = ("weak", "icl", "hybrid")


class StageOneConfig(Settings):
    """Stage I."""

    demonstrations: int = Field(default=4, ge=1)
    """Weak answers shown to the strong model before each question. 4: every released prompt of the authors."""
    rounds: int = Field(default=1, ge=1)
    """Rounds at most; from the second on the last round's models answer (continual self-refinement). The authors: 2 on GSM8K, 1 on MATH."""
    least_growth: float = Field(default=0.01, ge=-1, lt=1)
    """Another round is trained only where the share of questions kept grew by at least this much. It takes no gold to say so. -1 = all
    rounds."""
    trained_on: SetName = "hybrid"
    """The set that the stage's model learns: weak texts, icl texts, or both rows of a question."""
    compare: bool = True
    """Also train on the other two sets in the last round, to be measured beside it. Rounds before the last train weak and icl anyway."""


@dataclass(frozen=True)
class Selected:
    """What two sources agree on: rows (question id, text) of each set."""

    kept: tuple[str, ...]
    """Ids of the questions, in order."""
    rows: dict[SetName, list[tuple[str, str]]]
    counts: dict[str, int]
    """Why questions were kept or not: agree, differ, weak_silent, icl_silent."""


async def ask(
    questions: Sequence[PublicExample],
    *,
    client: StudentClient,
    params: SamplingParams,
    instruction: str = "",
    samples: int = 1,
) -> list[Answer]:
    """`samples` answers to every question, in order; a failed call is an answer without text.

    Raises TypeError for a question with a gold.
    """

    async def one(question: PublicExample) -> list[Answer]:
        messages = compose(question, Instruction(text=instruction, source="static" if instruction else "silence"))
        try:
            found = await client.complete(messages, params.model_copy(update={"split": question.split}), n=samples)
        except StudentError:
            return [Answer(example_id=question.id, sample_index=i) for i in range(samples)]
        return [Answer(example_id=question.id, text=c.text, finish_reason=c.finish_reason, sample_index=i) for i, c in enumerate(found)]

    # One that raises (the budget is spent) lets the others end: they are paid for, and the cache keeps their answers.
    done = await asyncio.gather(*(one(question) for question in without_gold(questions)), return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
    return [answer for outcome in done if isinstance(outcome, list) for answer in outcome]


def demonstrated(
    questions: Sequence[PublicExample], answered: Sequence[PublicExample], weak: Pool, *, count: int, seed: int
) -> list[PublicExample]:
    """The questions with `count` of the weak model's answers to `answered` as earlier turns, drawn for each and never of itself.

    Raises RunError where the weak model left fewer usable answers than that.
    """
    by_id = {question.id: question for question in without_gold(answered)}
    usable = [(name, text) for name in by_id for text in [weak.whole(name)] if text is not None]
    if len(usable) <= count:
        raise RunError(f"{len(usable)} of {len(by_id)} weak answers are whole, and {count} demonstrations beside the question need more")
    found = []
    for question in without_gold(questions):
        drawn = random.Random(f"{seed}/{question.id}").sample(usable, count + 1)
        shown = [(name, text) for name, text in drawn if name != question.id][:count]
        turns: list[Message] = []
        for name, text in shown:
            turns += [raw_messages(by_id[name])[-1], Message(role="assistant", content=text)]
        found.append(question.model_copy(update={"history": (*turns, *question.history)}))
    return found


async def select_consistent(questions: Sequence[PublicExample], weak: Pool, icl: Pool, key: AnswerKey) -> Selected:
    """Keep the questions on which both sources come to the same final answer; neither may be without one."""
    counts = {"agree": 0, "differ": 0, "weak_silent": 0, "icl_silent": 0}
    kept: list[str] = []
    rows: dict[SetName, list[tuple[str, str]]] = {name: [] for name in SETS}
    labels = await asyncio.gather(*(key.labels(q, [weak.whole(q.id), icl.whole(q.id)]) for q in without_gold(questions)))
    for question, (first, second) in zip(questions, labels, strict=True):
        mine, theirs = weak.whole(question.id), icl.whole(question.id)
        if first is None or mine is None:
            counts["weak_silent"] += 1
        elif second is None or theirs is None:
            counts["icl_silent"] += 1
        elif first != second:
            counts["differ"] += 1
        else:
            counts["agree"] += 1
            kept.append(question.id)
            rows["weak"].append((question.id, mine))
            rows["icl"].append((question.id, theirs))
            rows["hybrid"] += [(question.id, mine), (question.id, theirs)]
    return Selected(tuple(kept), rows, counts)


def training_rows(questions: Sequence[PublicExample], rows: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """TRL's conversational prompt-completion rows of (question id, text); a question without a gold is all there is to it."""
    by_id = {question.id: question for question in without_gold(questions)}
    return [
        {
            "prompt": [message.model_dump() for message in raw_messages(by_id[name])],
            "completion": [{"role": "assistant", "content": text}],
        }
        for name, text in rows
    ]


def goes_on(shares: Sequence[float], config: StageOneConfig) -> str | None:
    """Why the rounds end here, by the share of questions kept in each so far; None = another one follows."""
    if len(shares) >= config.rounds:
        return f"round {len(shares)} of {config.rounds} is the last"
    if len(shares) > 1 and shares[-1] - shares[-2] < config.least_growth:
        return f"the share kept grew by {shares[-1] - shares[-2]:+.1%}, less than stage_one.least_growth={config.least_growth:g}"
    return None
