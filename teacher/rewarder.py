"""The bridge from TRL to the line: completions become instructions, instructions become episodes, episodes become rewards.

`Rewarder.score` is a bound `async def` method because TRL recognises async rewards by `iscoroutinefunction`; all student calls of a step
run concurrently. A failed call pays None, which TRL leaves out of the group (never 0).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, cast

from exchange.command import RunError
from exchange.protocols import Reward, SamplingParams, StudentClient
from exchange.records import Episode, Example
from rewards.baseline import RawOutcomes, charge_harm, help_and_harm
from rewards.episode import all_of, beside, correct, run_episode, worth
from rewards.shape import repetition
from teacher.policy import as_instruction
from teacher.processes import Processes

Asked = tuple[list[Episode], dict[str, float | None]]
"""A batch's episodes, and the raw grade of each of its questions where harm is charged."""

Batch = tuple[list[list[int]], list[str]]
"""Token ids of a process's completions, and the id of each one's question."""


def local_part(values: list[float | None], processes: Processes) -> list[float | None]:
    """Of the values of all processes' completions, which are equally many in each, this process's."""
    size = len(values) // processes.count
    return values[processes.rank * size : (processes.rank + 1) * size]


class Follower:
    """Stands for the rewarder in every process but the main one: hands completions over and takes their values."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._begun = 0

    def begin(self, _: asyncio.AbstractEventLoop, completion_ids: list[list[int]], example_id: list[str]) -> None:
        self.processes.gather((completion_ids, example_id))
        self._begun += 1

    async def score(self, *, completion_ids: list[list[int]], example_id: list[str], **_: Any) -> list[float | None]:
        if self._begun:
            self._begun -= 1
        else:
            self.processes.gather((completion_ids, example_id))
        values: list[float | None] = []
        return local_part(self.processes.share(values), self.processes)


class Rewarder:
    """Scores a step's instructions by asking the student, and charges harm where raw outcomes are given."""

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Any,
        ends: frozenset[int],
        *,
        student: StudentClient,
        params: SamplingParams,
        reward: Reward,
        raw: RawOutcomes | None = None,
        harm_penalty: float = 0.0,
        samples: int = 1,
        record: Callable[[int, list[Episode]], None],
        processes: Processes | None = None,
    ) -> None:
        """`samples`: answers that the student gives under each instruction; their mean is paid. `processes`: those whose instructions this
        one scores beside its own."""
        self.examples = {example.id: example for example in examples}
        self.tokenizer = tokenizer
        self.ends = ends
        self.student = student
        self.params = params
        self.reward = reward
        self.raw = raw
        self.harm_penalty = harm_penalty
        self.samples = samples
        self.record = record
        self.processes = processes or Processes()
        self._begun: deque[Future[Asked]] = deque()

    def begin(self, loop: asyncio.AbstractEventLoop, completion_ids: list[list[int]], example_id: list[str]) -> None:
        """Send a batch's calls off on `loop`. The next `score` that finds nothing begun before takes what they bring."""
        self._begun.append(asyncio.run_coroutine_threadsafe(self._ask(self.processes.gather((completion_ids, example_id))), loop))

    def settle(self) -> None:
        """Wait for what was begun and will not be learnt from, since learning ended early: it is paid for, and the cache keeps it."""
        while self._begun:
            with suppress(Exception):
                self._begun.popleft().result()

    def drop(self) -> None:
        """Give up what was begun and will not be learnt from."""
        while self._begun:
            self._begun.popleft().cancel()

    async def score(
        self, *, completion_ids: list[list[int]], example_id: list[str], trainer_state: Any, log_metric: Any, **_: Any
    ) -> list[float | None]:
        """TRL's reward function: one value a completion, None where the student failed or the answer could not be judged.

        Raises RunError, which ends the run at its last checkpoint, where every call of a step failed: going on would only burn calls.
        """
        if self._begun:
            asking: Awaitable[Asked] = asyncio.wrap_future(self._begun.popleft())
        else:
            asking = self._ask(self.processes.gather((completion_ids, example_id)))
        episodes, raw = await asking
        if all(episode.error for episode in episodes):
            raise RunError(f"every student call of step {trainer_state.global_step + 1} failed ({episodes[0].error}); go on with --resume")
        self.record(trainer_state.global_step + 1, episodes)
        for name, value in {**training_rates(episodes), **help_and_harm(episodes, raw), **problem_rates(episodes)}.items():
            log_metric(name, value)
        golds = [grade for episode in episodes if (grade := beside(episode, "correct")) is not None]
        if golds:
            log_metric("gold_rate", sum(golds) / len(golds))
        values = [worth(episode) for episode in episodes]
        return local_part(self.processes.share(values), self.processes)

    async def _ask(self, batches: list[Batch]) -> Asked:
        instructions = [as_instruction(list(ids), self.tokenizer, self.ends) for batch, _ in batches for ids in batch]
        asked = [self.examples[name] for _, names in batches for name in names]
        answers = all_of(
            run_episode(
                example, instruction, arm="train", student=self.student, params=self.params, reward=self.reward, samples=self.samples
            )
            for example, instruction in zip(asked, instructions, strict=True)
        )
        # Where the budget ends one of the two, what the other has in flight is let finish.
        done = await asyncio.gather(answers, self._raw_grades(asked), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome
        raw = cast("dict[str, float | None]", done[1])
        return charge_harm(cast("list[Episode]", done[0]), raw, self.harm_penalty), raw

    async def _raw_grades(self, asked: list[Example]) -> dict[str, float | None]:
        return await self.raw(asked) if self.raw is not None else {}


def training_rates(episodes: Sequence[Episode]) -> dict[str, float]:
    """Rates over a step's episodes: how often right, silent, ill-formed, failed, and how many instructions differ."""
    grades = [grade for episode in episodes if (grade := correct(episode)) is not None]
    total = len(episodes)
    return {
        "right_rate": sum(grades) / len(grades) if grades else 0.0,
        "silence_rate": sum(not episode.instruction.text for episode in episodes) / total,
        "ill_formed_rate": sum(any("ill_formed" in score.parts for score in episode.scores) for episode in episodes) / total,
        "repetition_rate": sum(repetition(episode.instruction) for episode in episodes) / total,
        "distinct_rate": len({episode.instruction.text for episode in episodes}) / total,
        "failed_rate": 1 - len(grades) / total,
    }


def problem_rates(episodes: Sequence[Episode]) -> dict[str, float]:
    """Rates over a step's episodes: how many answers gave nothing to grade, could not be parsed, or could not be judged."""
    problems = [score.problem for episode in episodes for score in episode.scores]
    undecided = sum(score.value is None and score.problem is not None for episode in episodes for score in episode.scores)
    total = len(problems) or 1
    return {
        "no_answer_rate": problems.count("no_answer") / total,
        "unparsed_rate": problems.count("unparsed") / total,
        "undecided_rate": undecided / total,
    }
