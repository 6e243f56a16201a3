"""What the student makes of a question without any instruction: asked once a question, and what harm is measured against.

A constant a question cancels in a group-relative advantage, so raw outcomes are no baseline of the reward. Harm is another matter:
charged only to those instructions of a group that turn a right answer wrong, and with rewards that are not scaled by the group's
deviation, it keeps its weight (TRL `scale_rewards="none"`; Liu et al. 2025, arXiv 2503.20783).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from exchange.protocols import Reward, SamplingParams, StudentClient
from exchange.records import Episode, Example, Instruction
from rewards.episode import all_of, correct, run_episode


class RawOutcomes:
    """Mean grades in [0, 1] of the student's raw answers, by example id; None where it failed or could not be judged."""

    def __init__(self, *, student: StudentClient, params: SamplingParams, reward: Reward, samples: int = 1) -> None:
        """`samples`: answers a question."""
        self.samples = samples
        self.student = student
        self.params = params
        self.reward = reward
        self._grades: dict[tuple[str, str], float | None] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, examples: Iterable[Example]) -> dict[str, float | None]:
        """The grades of these questions; only those not known yet are asked. A failed one is asked again the next time."""
        wanted = {example.id: example for example in examples}
        async with self._lock:
            # Ids are a split's own: two files of a user's may both begin with row 1.
            asked = [example for example in wanted.values() if self._grades.get((example.split, example.id)) is None]
            silence = Instruction(text="", source="silence")
            episodes = await all_of(
                run_episode(example, silence, arm="raw", student=self.student, params=self.params, reward=self.reward, samples=self.samples)
                for example in asked
            )
            for example, episode in zip(asked, episodes, strict=True):
                self._grades[example.split, example.id] = correct(episode)
        return {name: self._grades[example.split, name] for name, example in wanted.items()}


def charge_harm(episodes: Sequence[Episode], raw: Mapping[str, float | None], penalty: float) -> list[Episode]:
    """The episodes with a part `harm` in each score: minus `penalty` times what the instruction lost against the raw answer, 0 where the
    raw grade is not known or nothing was lost. Means are compared, not single answers: an instruction that changes nothing would else pay
    for the student's own noise."""
    charged = []
    for episode in episodes:
        before, after = raw.get(episode.example_id), correct(episode)
        lost = 0.0 if before is None or after is None else max(0.0, before - after)
        scores = []  # what a gate refused has its price already, whatever the answer
        for score in episode.scores:
            if lost and score.value is not None and not {"ill_formed", "leakage"} & set(score.parts):
                part = -penalty * lost
                score = score.model_copy(update={"value": score.value + part, "parts": {**score.parts, "harm": part}})
            scores.append(score)
        charged.append(episode.model_copy(update={"scores": tuple(scores)}))
    return charged


def help_and_harm(episodes: Sequence[Episode], raw: Mapping[str, float | None]) -> dict[str, float]:
    """Joint shares of what was won and lost against raw over the episodes for which both grades are known; empty where there is none."""
    pairs = [
        (grade, before)
        for episode in episodes
        if (grade := correct(episode)) is not None and (before := raw.get(episode.example_id)) is not None
    ]
    if not pairs:
        return {}
    return {
        "help_rate": sum(max(0.0, grade - before) for grade, before in pairs) / len(pairs),
        "harm_rate": sum(max(0.0, before - grade) for grade, before in pairs) / len(pairs),
    }
