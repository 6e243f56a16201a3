"""Makes the arms of an evaluation, one after another, and keeps what they share.

Some can be made only when their turn comes, because they ask the student themselves: best_static and the router search training questions,
majority takes as many answers as cost what the trained arm costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.arms import Arm, ArmConfig, FixedPolicy, OraclePolicy
from evaluation.prompt_file import read_prompt
from evaluation.router import fit_router
from evaluation.static_search import Outcomes, best_text, routed_texts
from evaluation.table import use_of
from exchange.protocols import InstructionPolicy, Reward, SamplingParams
from exchange.records import Episode, Example, Instruction
from exchange.settings import SettingError
from rewards.episode import all_of, correct, run_episode
from store import Store
from student_clients import CountingStudent, make_student, sampling
from student_clients.budget import Price, price_of
from student_clients.bulk import in_bulk
from student_clients.errors import StudentError
from tasks import TASKS, answer_type_of
from tasks.static_texts import chain_of_thought, lab_sentences
from teacher.arms import (
    VOTES,
    StudentPolicy,
    arm_student,
    extra_policy,
    folder_of,
    search_calls,
    teacher_prompt,
    training_calls,
    untrained_policy,
    warm_start_of,
)  # fmt: skip
from teacher.config import TrainConfig
from teacher.drafts import drafted
from teacher.folder import load_teacher

BIGGER = "lab:arithmetic/student_b"
"""The lab's larger untrained model: a student, three times the teacher's size, which tends to state answers."""
UNTRAINED_TEXTS = 8
"""Instructions of the untrained teacher that stand for all questions among the candidates of best_static, outside the lab."""


@dataclass
class Workshop:
    """Makes arms for one set of questions and keeps what they share."""

    config: TrainConfig
    teacher: Path | None
    examples: Sequence[Example]
    student: CountingStudent
    reward: Reward
    account: Callable[[], Store] | None = None
    episodes: dict[str, list[Episode]] = field(default_factory=dict)
    """What the arms so far have answered."""
    prices: dict[str, Price | None] = field(default_factory=dict)
    others: list[CountingStudent] = field(default_factory=list)
    """Students of single arms, to be closed."""
    _searched: dict[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> SamplingParams:
        return sampling(self.config.student)

    async def make(self, name: str) -> Arm:
        """The arm of that name. Raises SettingError."""
        config, samples = self.config, self.config.eval.samples
        self.prices[name] = price_of(config.student, config.budget)
        if name in config.eval.arms:
            return await self._extra(name, config.eval.arms[name])
        if name == "majority":
            return self._majority()
        about, index = "", 0
        policy: InstructionPolicy
        if name in ("raw", "raw_again"):
            policy, index = FixedPolicy(""), samples if name == "raw_again" else 0
        elif name == "static":
            policy = FixedPolicy(TASKS[config.task.name].static_instruction)
        elif name.startswith("static:cot"):
            policy = FixedPolicy(chain_of_thought(answer_type_of(self.examples[0].task)).get(name, ""))
        elif name in ("best_static", "router"):
            policy, about = await (self._best_static() if name == "best_static" else self._router())
        elif name == "untrained":
            policy = untrained_policy(config, config.teacher.model)
        elif name == "self":
            limit = config.teacher.max_instruction_tokens or 1
            policy = StudentPolicy(self.student, teacher_prompt(config), self.params.model_copy(update={"max_tokens": limit}))
            about = "the student writes its own instruction; its tokens for that count as prompt and answer"
        elif name == "bigger":
            policy, about = untrained_policy(config, BIGGER), f"{BIGGER} instructs untrained"
        elif name == "oracle":
            policy = OraclePolicy(self.examples)
        else:
            policy = self._taught(name)
        return Arm(policy, self.student, self.params, samples=samples, sample_index=index, own=name != "raw_again", about=about)

    def _taught(self, name: str) -> InstructionPolicy:
        """The trained teacher, or a control run's."""
        assert self.teacher is not None
        folder = self.teacher if name == "trained" else folder_of(self.teacher, name)
        if folder is not None:
            return load_teacher(folder).policy
        warm_start = warm_start_of(self.config, self.teacher)
        assert warm_start is not None, name
        return untrained_policy(self.config, str(warm_start))

    async def _extra(self, name: str, arm: ArmConfig) -> Arm:
        policy = extra_policy(self.config, name, arm)
        if arm.student is None:
            return Arm(policy, self.student, self.params, samples=self.config.eval.samples)
        settings = arm_student(self.config, name, arm)
        student = make_student(settings, self.config.budget, self.account)
        student = in_bulk(student, self.config.ray, settings, self.config.budget, self.account)
        self.others.append(student)
        self.prices[name] = price_of(settings, self.config.budget)
        try:
            await student.check()
        except StudentError as error:
            raise SettingError(f"eval.arms.{name}.student: {error}") from None
        about = f"answered by {settings.model}"
        return Arm(policy, student, sampling(settings), samples=self.config.eval.samples, own=False, about=about)

    def _majority(self) -> Arm:
        """Raw, by the vote of so many answers that they take at least the tokens, and dollars, of the trained arm's."""
        price = self.prices["majority"]
        raw = use_of(self.episodes["raw"], self.examples, price)
        rival = use_of(self.episodes.get("trained", self.episodes["raw"]), self.examples, price)
        ratio = (rival.tokens + rival.instruction_tokens) / max(1.0, raw.tokens)
        if raw.usd_per_1000 and rival.usd_per_1000:
            ratio = max(ratio, rival.usd_per_1000 / raw.usd_per_1000)
        votes = min(max(math.ceil(ratio), VOTES[0]), VOTES[1])
        params = self.params
        if params.temperature == 0:
            params = params.model_copy(update={"temperature": self.config.eval.vote_temperature})
        if self.config.student.kind == "embedded" and params.seed is None:
            params = params.model_copy(update={"seed": self.config.seed})
        matched = f"the trained arm takes {ratio:.2f} times raw's tokens" if "trained" in self.episodes else "no trained arm to match"
        about = f"raw, vote over {votes} answers at temperature {params.temperature}; {matched}"
        return Arm(FixedPolicy(""), self.student, params, samples=votes, own=False, vote=True, about=about)

    async def _candidates(self) -> list[str]:
        """Texts for all questions that best_static and the router choose among."""
        if "candidates" not in self._searched:
            config = self.config
            configured = [arm for arm in config.eval.arms.values() if arm.student is None and (arm.text or arm.file)]
            texts = [TASKS[config.task.name].static_instruction]
            texts += [arm.text or read_prompt(Path(arm.file or ""), "eval.arms") for arm in configured]
            if config.task.name == "lab_arithmetic":
                texts += lab_sentences(every_wording="all" in (config.eval.include or ()))
            else:
                texts += chain_of_thought(answer_type_of(self.examples[0].task)).values()
                import torch

                policy = untrained_policy(config, config.teacher.model, temperature=1.0)
                with torch.random.fork_rng():
                    torch.manual_seed(config.seed)
                    written = await policy.instruct([example.public() for example in self._train()[:UNTRAINED_TEXTS]])
                texts += [text.text for text in written if text.text and not text.truncated]
            self._searched["candidates"] = list(dict.fromkeys(texts))
        return list(self._searched["candidates"])

    def _train(self) -> list[Example]:
        if "train" not in self._searched:
            self._searched["train"] = TASKS[self.config.task.name].load(self.config.task, "train", self.config.task.train_size)
        return list(self._searched["train"])

    def _calls(self) -> int:
        return search_calls(self.config, self.teacher)

    async def _ask(self, texts: Sequence[str], examples: Sequence[Example]) -> Outcomes:
        """(texts, examples) grades on training questions; all are asked at once, the client bounds the concurrency."""
        if self.config.variant == "three_step":
            examples = await drafted(examples, student=self.student, params=self.params)
        episodes = await all_of(
            run_episode(example, Instruction(text=text, source="static" if text else "silence"), arm="search", student=self.student,
                        params=self.params, reward=self.reward)
            for text in texts
            for example in examples
        )  # fmt: skip
        grades = [grade if (grade := correct(episode)) is not None else np.nan for episode in episodes]
        return np.array(grades, dtype=float).reshape(len(texts), len(examples))

    def _spent(self, taken: int) -> str:
        own = training_calls(self.teacher)
        return f"{taken:,} training calls" + (f" (the teacher's training: {own:,})" if own else "")

    async def _best_static(self) -> tuple[InstructionPolicy, str]:
        candidates = await self._candidates()
        text, taken = await best_text(candidates, self._train(), self._ask, self._calls())
        return FixedPolicy(text), f"{text!r}, the best of {len(candidates)} texts by {self._spent(taken)}"

    async def _router(self) -> tuple[InstructionPolicy, str]:
        texts, outcomes, taken = await routed_texts(await self._candidates(), self._train(), self._ask, self._calls())
        return fit_router(texts, self._train(), outcomes), f"chooses among {len(texts)} texts, fitted on {self._spent(taken)}"

    async def aclose(self) -> None:
        """Close the students of single arms; what they asked counts with the run's."""
        for student in self.others:
            self.student.ledger.add(**student.stats.as_dict())
            await student.aclose()


def latencies(episodes: Mapping[str, Sequence[Episode]]) -> dict[str, dict[str, float]]:
    """Seconds a fresh student call took by arm (median, 95th percentile, calls); arms answered from the cache are left out."""
    found = {}
    for name, run in episodes.items():
        seconds = [c.latency_s for episode in run for c in episode.completions if not c.cached and c.latency_s]
        if seconds:
            p50, p95 = np.quantile(seconds, [0.5, 0.95])
            found[name] = {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "calls": len(seconds)}
    return found
