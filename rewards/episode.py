"""`run_episode`: one pass along the line, guard -> composer -> student -> reward. Training and evaluation both call it.

A failed student call is data: the episode carries the error and no score. It never becomes a zero.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from exchange.compose import compose
from exchange.guard import guard
from exchange.protocols import Reward, SamplingParams, StudentClient
from exchange.records import Episode, Example, Instruction, Message, Score
from student_clients.errors import StudentError

Result = TypeVar("Result")


def request(example: Example, instruction: Instruction, params: SamplingParams) -> tuple[tuple[Message, ...], SamplingParams]:
    """What the student is asked about a question under an instruction; one that the guard refuses is silence, as in production."""
    messages = compose(example.public(), guard(instruction, example).instruction)
    return messages, params.model_copy(update={"split": example.split})


async def run_episode(
    example: Example,
    instruction: Instruction,
    *,
    arm: str,
    student: StudentClient,
    params: SamplingParams,
    reward: Reward,
    samples: int = 1,
    sample_index: int = 0,
) -> Episode:
    """Answer one question under one instruction, `samples` times from the given index on, and score the answers.

    An instruction that the guard refuses reaches the student as silence, as it would in production; the reward still sees what the
    teacher wrote, so that it can charge for it.
    """
    messages, params = request(example, instruction, params)
    try:
        completions = await student.complete(messages, params, n=samples, sample_index=sample_index)
    except StudentError as error:
        return Episode(example_id=example.id, arm=arm, instruction=instruction, messages=messages, error=f"{type(error).__name__}: {error}")
    scores = [await reward(example, instruction, completion) for completion in completions]
    return Episode(
        example_id=example.id,
        arm=arm,
        instruction=instruction,
        messages=messages,
        completions=tuple(completions),
        scores=tuple(scores),
    )


async def all_of(running: Iterable[Awaitable[Result]]) -> list[Result]:
    """Run episodes, or what asks them, concurrently. Where one raises (the budget is spent, say), the requests in flight are let finish
    before that goes on: they are paid for, and the cache keeps their answers."""
    done = await asyncio.gather(*running, return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in done if not isinstance(outcome, BaseException)]


COUNTED = {"correct": 1.0, "win": 0.75, "agreement": 0.75}
"""The part that evaluation counts, by what the reward is, and from which grade on an answer is worth imitating: right; preferred three to
one; agreed with by three samples of four."""


def counted(score: Score) -> str:
    """Which of COUNTED a scored answer has."""
    return next(name for name in COUNTED if name in score.parts)


def correct(episode: Episode) -> float | None:
    """The mean counted grade of an episode's answers in [0, 1]; None where none could be judged."""
    grades = [score.parts[counted(score)] for score in episode.scores if score.value is not None]
    return sum(grades) / len(grades) if grades else None


def worth(episode: Episode) -> float | None:
    """What an instruction is paid: the mean value of its answers; None where none could be judged."""
    values = [score.value for score in episode.scores if score.value is not None]
    return sum(values) / len(values) if values else None


def beside(episode: Episode, name: str) -> float | None:
    """The mean of what was measured beside under that name; None where it was not."""
    found = [score.beside[name] for score in episode.scores if name in score.beside]
    return sum(found) / len(found) if found else None
