"""Arms: who instructs, who answers, how often. All are run on the same held-out questions with the same grader.

An arm is an instruction policy under a name, with the run's student unless it names another. Raw is the policy that keeps silent. Failed
calls are excluded and counted. `evaluation.table` sums arms up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from exchange.protocols import InstructionPolicy, Reward, SamplingParams, StudentClient
from exchange.records import Episode, Example, Instruction, PublicExample
from exchange.settings import Settings
from rewards.episode import all_of, request, run_episode
from student_clients.bulk import BulkStudent

ExtraArm = Literal["raw_again", "cot", "best_static", "router", "majority", "self", "bigger", "all"]
"""Arms that an evaluation makes itself where it is asked to; each costs student calls."""

RESERVED_ARMS = (
    "raw", "raw_again", "static", "static:cot", "static:cot_format", "best_static", "router", "majority", "self", "bigger",
    "untrained", "sft", "trained", "oracle",
)  # fmt: skip
"""Names of arms that an evaluation makes itself; `eval.arms` cannot name one anew. `blind` is free: an arm of that name replaces the run's
own control run."""


class ArmConfig(Settings):
    """One extra arm: at most one of text, file, run and model, which say who instructs (none of them = nobody), and who answers."""

    text: str | None = None
    """A static instruction for every question."""
    file: str | None = None
    """A file that holds a static instruction: plain text, or a program that DSPy saved or a result of GEPA as .json."""
    run: str | None = None
    """A run directory whose trained teacher instructs."""
    model: str | None = None
    """A Hugging Face folder or Hub id that instructs untrained."""
    student: dict[str, Any] | None = None
    """Who answers in this arm: settings laid over the run's `student`; None = the run's. A stronger model with raw prompts
    ({model: NAME}), or a small model that was trained to answer by itself ({kind: embedded, model: FOLDER})."""


class TransferConfig(Settings):
    """Where a trained teacher is tried beside its own student and task; give one of the two or both."""

    student: dict[str, Any] | None = None
    """Who answers there: settings laid over the run's `student`; None = the run's."""
    task: dict[str, Any] | None = None
    """What is asked there: settings laid over the run's `task`, or of another task where they name one; None = the run's."""

    @model_validator(mode="after")
    def _moved(self) -> TransferConfig:
        if not self.student and not self.task:
            raise ValueError("give a student, a task or both; with neither it is the run itself")
        return self


class EvalConfig(Settings):
    """How a teacher is measured."""

    n: int = Field(default=500, ge=2)
    """Held-out questions; 500 give about +-4 points at 60 %."""
    samples: int = Field(default=1, ge=1)
    """Answers a question and arm. More than one only says more where the student samples (temperature above 0); a question's answers count
    as one cluster."""
    include: list[ExtraArm] | None = None
    """Optional arms: raw_again (the churn floor: raw prompts asked once more, where the student samples), cot (two texts that every user
    tries), best_static (the best of many texts on training questions), router (a classifier over texts), majority (raw, the vote over
    so many answers that they take at least the trained arm's tokens), self (the student instructs itself), bigger (a larger untrained
    model instructs; lab). None = in the lab world all that cost seconds, elsewhere raw_again alone; all = all."""
    search_calls: int | None = Field(default=4000, ge=1)
    """Training questions that best_static and the router may ask the student, each. None = as many as the teacher's own training asked."""
    vote_temperature: float = Field(default=0.7, gt=0)
    """Temperature of the majority arm where the student is greedy. 0.7: self-consistency (arXiv 2203.11171)."""
    arms: dict[str, ArmConfig] = Field(default_factory=dict)
    """Extra arms by name, beside raw, static, untrained, sft, trained and, in the lab, oracle."""
    transfer: dict[str, TransferConfig] = Field(default_factory=dict)
    """Students and tasks, by a name of your own, on which `teacher.evaluate` tries the teacher too: raw, static and trained on each, in a
    table of students x tasks."""
    every: int = Field(default=25, ge=1)
    """Training steps between validations; also between checkpoints."""
    patience: int | None = Field(default=4, ge=1)
    """Validations in a row without a better one, after which learning ends; null = it goes to its last step. 4 times 25 steps."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Error level of every interval."""
    margin: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Differences smaller than this count as none in the test of equivalence (TOST)."""

    @field_validator("include", mode="before")
    @classmethod
    def _one_is_a_list(cls, include: Any) -> Any:
        return [include] if isinstance(include, str) else include


class FixedPolicy:
    """The same text for every question; the empty text is silence (the raw arm)."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        return [Instruction(text=self.text, source="static" if self.text else "silence")] * len(examples)


class OraclePolicy:
    """The right instruction for each question, where a synthetic world knows it. Built from the examples, asked by id."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.texts = {example.id: example.oracle for example in examples}

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        return [Instruction(text=self.texts[example.id] or "", source="oracle") for example in examples]


@dataclass(frozen=True)
class Arm:
    """One column of the comparison, ready to run."""

    policy: InstructionPolicy
    student: StudentClient
    params: SamplingParams
    samples: int = 1
    """Answers a question."""
    sample_index: int = 0
    """Index of the first of them: answers of equal index to equal messages are one answer, paid for once."""
    own: bool = True
    """Whether its answer to raw messages is the raw arm's by construction: the same draw of the same student."""
    vote: bool = False
    """Whether the answers are one answer by majority."""
    about: str = ""
    """What a reader of the table should know of the arm."""


async def run_arm(
    name: str,
    policy: InstructionPolicy,
    examples: Sequence[Example],
    *,
    student: StudentClient,
    params: SamplingParams,
    reward: Reward,
    samples: int = 1,
    sample_index: int = 0,
) -> list[Episode]:
    """One episode a question, in order; the student is asked for all of them at once (its client bounds the concurrency, or spreads them
    over Ray's workers)."""
    instructions = await policy.instruct([example.public() for example in examples])
    if isinstance(student, BulkStudent):
        asked = [request(example, text, params) for example, text in zip(examples, instructions, strict=True)]
        student = await student.answered(asked, n=samples, sample_index=sample_index)
    return await all_of(
        run_episode(
            example, text, arm=name, student=student, params=params, reward=reward, samples=samples, sample_index=sample_index
        )
        for example, text in zip(examples, instructions, strict=True)
    )  # fmt: skip


def majority(episode: Episode) -> Episode:
    """The episode with one score, that of the most frequent extracted answer (self-consistency, Wang et al., arXiv 2203.11171); ties go to
    the one given first. Answers count as equal where their extracted texts are. All completions stay, since all were paid for."""
    judged = [score for score in episode.scores if score.value is not None]
    named = [score for score in judged if score.extracted is not None]
    if not named:
        return episode.model_copy(update={"scores": tuple(judged[:1])})
    counts = Counter(score.extracted for score in named)
    winner = max(named, key=lambda score: counts[score.extracted])  # max keeps the first of equals
    return episode.model_copy(update={"scores": (winner,)})
