"""The rubric: named parts, weighted and added up. One place decides what a teacher is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from exchange.protocols import Reward, SamplingParams, StudentClient
from exchange.records import Completion, Example, Instruction, Score
from exchange.settings import SettingError, Settings
from rewards.consistency import EXTRACT, ConsistencyConfig, Consistent
from rewards.correctness import Grader, grade_answer
from rewards.format import well_formed
from rewards.guardrails import refused
from rewards.judge import Judge, JudgeConfig
from rewards.preference import Preference, PreferenceConfig, Preferred, RawAnswers, reward_model
from rewards.shape import leaks, length, repetition
from store import Store
from student_clients import BudgetConfig
from student_clients.ledger import CountingStudent
from tasks import answer_type_of

Kind = Literal["correctness", "preference", "judge", "consistency"]


class SecondConfig(Settings):
    """The judge that only watches; give exactly one."""

    preference: PreferenceConfig | None = None
    """A reward model: another seed, trained on other pairs than the one that pays."""
    judge: JudgeConfig | None = None
    """An LLM judge, of another family than the one that pays."""

    @model_validator(mode="after")
    def _one(self) -> SecondConfig:
        if (self.preference is None) == (self.judge is None):
            raise ValueError("give exactly one of preference and judge")
        return self


class RewardConfig(Settings):
    """What a teacher is paid for, and the weights of the parts, in units of one right answer."""

    kind: Kind = "correctness"
    """`correctness`: equal to the gold; `preference`: the reward model's win over the raw answer; `judge`: the same by an LLM judge;
    `consistency`: agreement with the student's own samples, for queries without golds."""
    preference: PreferenceConfig | None = None
    """The reward model that pays, `preference` only."""
    judge: JudgeConfig | None = None
    """The judge that pays, `judge` only."""
    consistency: ConsistencyConfig = ConsistencyConfig()
    """How agreement is measured, `consistency` only."""
    second: SecondConfig | None = None
    """A second judge, asked in validation and evaluation and never paid by: training stops where the two part. Required where a preference
    or a judge pays and there is no gold."""
    silence_bonus: float = Field(default=0.05, ge=0.0)
    """Added where the teacher kept silent and the answer is right: an instruction that is not needed costs tokens and risk."""
    harm_penalty: float = Field(default=0.5, ge=0.0)
    """Taken off where an instruction turns an answer wrong that is right without one; costs one raw call a question. 0 = not asked."""
    ill_formed_penalty: float = Field(default=0.2, ge=0.0)
    """The value of an ill-formed instruction is minus this, whatever the answer (the format gate)."""
    leakage_penalty: float | None = Field(default=None, ge=0.0)
    """The value of an instruction that hands the answer over is minus this, whatever the answer; 0 = leakage is not looked for. None = the
    preset's: hub 1 where the questions have a gold, since a real teacher can work out some answers itself; lab 0, since its figures were
    measured without it (a lab instruction can name a number by chance)."""
    length_penalty: float = Field(default=0.0, ge=0.0)
    """Taken off for every 100 tokens of instruction; 0 = length is free."""
    repetition_penalty: float = Field(default=0.0, ge=0.0)
    """Taken off in proportion to the share of three-word runs that repeat; 0 = not looked at (the format gate refuses whole sentences)."""

    @model_validator(mode="after")
    def _kind_has_its_judge(self) -> RewardConfig:
        for kind in ("preference", "judge"):
            if (self.kind == kind) != (getattr(self, kind) is not None):
                raise ValueError(f"kind={kind} and the section {kind} go together; give both or neither")
        if self.second is not None and _who(self.second) == _who(self):
            raise ValueError("second is the same as the one that pays; it would agree with every mistake")
        return self

    @property
    def watched(self) -> bool:
        """Whether a second judge stands beside a preference or a judge that pays."""
        return self.second is not None and self.kind in ("preference", "judge")


def _who(config: SecondConfig | RewardConfig) -> tuple[str, ...] | None:
    """Which model judges, whatever the settings of how it is asked."""
    if config.preference is not None:
        return ("preference", config.preference.model, config.preference.base_url or "")
    return ("judge", config.judge.client.model, config.judge.client.base_url or "", config.judge.template) if config.judge else None


def check_reward(config: RewardConfig, examples: list[Example]) -> None:
    """Raises SettingError where these questions cannot be paid for in this way."""
    golds = all(example.gold is not None and answer_type_of(example.task) is not None for example in examples)
    task = examples[0].task
    if config.kind == "correctness" and not golds:
        raise SettingError(
            f"task.name={task!r}: not all of its questions have a gold to be graded by; set reward.kind to preference or judge, "
            "or to consistency where answers can be compared"
        )
    if config.kind in ("preference", "judge") and config.second is None and not golds:
        raise SettingError(
            f"reward.second: required with reward.kind={config.kind} on task {task!r}, which has no gold; the model that trains is never "
            "the only judge"
        )
    if config.kind == "consistency" and (kinds := {answer_type_of(example.task) for example in examples}) - set(EXTRACT):
        unknown = next(iter(kinds - set(EXTRACT)))
        raise SettingError(f"reward.kind=consistency: answers of type {unknown} cannot be compared; known: {', '.join(EXTRACT)}")


def _as_asked(reward: Reward, own: bool) -> Reward:
    """The reward as it reads an answer that with a silent teacher is the raw one (`own`), or that need not be."""
    return reward if own or not isinstance(reward, Preferred) else reward.judged


class Correct:
    """The plain grade as a reward: `parts["correct"]`."""

    def __init__(self, grader: Grader) -> None:
        self.grader = grader

    async def __call__(self, example: Example, instruction: Instruction, completion: Completion) -> Score:
        grade = await grade_answer(self.grader, example, completion)
        return grade if grade.value is None else grade.model_copy(update={"parts": {"correct": grade.value}})


class Rubric:
    """Pays what an answer is worth (a right one 1), silence a little more, and an ill-formed instruction less than a wrong answer."""

    def __init__(
        self,
        config: RewardConfig,
        student: StudentClient | None = None,
        params: SamplingParams | None = None,
        *,
        budget: BudgetConfig | None = None,
        account: Callable[[], Store] | None = None,
    ) -> None:
        """Student and params are needed by every kind but `correctness`: it gives the raw answers and the voters. Judges book in `account`.

        Raises SettingError.
        """
        self.config = config
        self.grader = Grader()
        self.judges: dict[str, Preference] = {}
        """By what they do: `judge` pays, `second` watches."""
        self._worth: Reward = Correct(self.grader)
        self._second: Reward | None = None
        if config.kind == "correctness" and config.second is None:
            return
        assert student is not None and params is not None, "only correctness is graded without the student"
        raw = RawAnswers(student, params)

        def judge(name: str, model: PreferenceConfig | None, llm: JudgeConfig | None) -> Reward:
            assert model is not None or llm is not None, "checked with the settings"
            self.judges[name] = reward_model(model, budget, account) if model is not None else Judge(llm, budget, account)  # type: ignore[arg-type]
            return Preferred(self.judges[name], raw)

        if config.kind == "consistency":
            self._worth = Consistent(config.consistency, self.grader, student, params)
        elif config.kind != "correctness":
            self._worth = judge("judge", config.preference, config.judge)
        if config.second is not None:
            self._second = judge("second", config.second.preference, config.second.judge)

    async def __call__(self, example: Example, instruction: Instruction, completion: Completion, *, own: bool = True) -> Score:
        """Score one answer. The part `correct`, `win` or `agreement` is what evaluation counts; `value` is what training pays.

        `own`: with a silent teacher the answer is the raw one by construction, which ties with itself.
        """
        worth = await _as_asked(self._worth, own)(example, instruction, completion)
        beside = await self._beside(example, completion)
        if worth.value is None:
            return worth.model_copy(update={"beside": beside})
        parts = {**worth.parts, **self._shape(example, instruction, worth.value)}
        return worth.model_copy(update={"value": sum(parts.values()), "parts": parts, "beside": beside})

    def _shape(self, example: Example, instruction: Instruction, worth: float) -> dict[str, float]:
        """The terms that look at the instruction alone."""
        parts: dict[str, float] = {}
        if not well_formed(instruction):
            # The gate takes back what the answer would have paid.
            parts["ill_formed"] = -worth - self.config.ill_formed_penalty
        elif self.config.leakage_penalty and leaks(instruction, example, answer_type_of(example.task)):
            parts["leakage"] = -worth - self.config.leakage_penalty
        elif not instruction.text and worth:
            parts["silence"] = self.config.silence_bonus
        if self.config.length_penalty and instruction.text:
            parts["length"] = -self.config.length_penalty * length(instruction) / 100
        if self.config.repetition_penalty and instruction.text:
            parts["repetition"] = -self.config.repetition_penalty * repetition(instruction)
        return parts

    async def _beside(self, example: Example, completion: Completion) -> dict[str, float]:
        """What is known for nothing: the grade against a gold that did not pay, and whether the answer refuses."""
        found: dict[str, float] = {}
        if self.config.kind != "correctness":
            grade = await grade_answer(self.grader, example, completion)
            if grade.value is not None:
                found["correct"] = grade.value
        if example.risk is not None and completion.text is not None:
            found["refused"] = float(refused(completion.text))
        return found

    async def observed(self, example: Example, instruction: Instruction, completion: Completion, *, own: bool = True) -> Score:
        """The same with the second judge's win in `beside`: for validation and evaluation, since its calls are paid for too."""
        if self._second is None:
            return await self(example, instruction, completion, own=own)
        watching = _as_asked(self._second, own)
        score, second = await asyncio.gather(self(example, instruction, completion, own=own), watching(example, instruction, completion))
        if second.value is None:
            return score.model_copy(update={"problem": score.problem or f"second_{second.problem}"})
        return score.model_copy(update={"beside": {**score.beside, "second": second.value}})

    @property
    def counted(self) -> dict[str, CountingStudent]:
        """The clients of judges whose calls are counted, by what they do."""
        return {name: judge.stats for name, judge in self.judges.items() if judge.stats is not None}

    async def aclose(self) -> None:
        for judge in self.judges.values():
            await judge.aclose()
