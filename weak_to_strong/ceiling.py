"""The ceiling: the strong student itself after reinforcement learning on right answers, run to its plateau.

The trainer is the prompt teacher's (`teacher.algorithms`): the same GRPO, checkpoints and resume. Here the policy writes the answer and not
an instruction, and an answer is worth 1 where it equals the gold. Training ends where `patience` validations in a row are no better than
the best before them by `least_gain`; a ceiling that ran into `max_steps` instead is no plateau, and the summary says so.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from evaluation.arms import EvalConfig
from exchange.compose import raw_messages
from exchange.records import Completion, Example
from exchange.settings import SettingError, Settings
from rewards.correctness import Grader, grade_answer
from teacher.algorithms import build_trainer, questions_a_batch, trl_config
from teacher.config import TeacherConfig, TrainConfig, WarmStartConfig, resolve
from teacher.policy import as_instruction, end_ids, load_model
from teacher.run_directory import RunDirectory, mark_complete
from weak_to_strong.cost import Cost
from weak_to_strong.fine_tuning import save_model, watch
from weak_to_strong.run import Config, Run, SisterConfig


class CeilingConfig(Settings):
    """Reinforcement learning of the strong student itself."""

    run: str | None = None
    """A run directory whose ceiling is taken; it must be of the same task and strong model. None = one is trained."""
    max_steps: int | None = Field(default=None, ge=1)
    """Updates at most. None = lab 300, hub 1000."""
    every: int = Field(default=10, ge=1)
    """Steps between validations; also between checkpoints."""
    patience: int = Field(default=4, ge=1)
    """Validations in a row without a gain, after which it has reached its plateau."""
    least_gain: float = Field(default=0.01, ge=0)
    """A validation that is better by less counts as no better."""
    watch: int = Field(default=200, ge=10)
    """Validation questions."""
    trl: dict[str, Any] = Field(default_factory=dict)
    """Any field of TRL's GRPOConfig, laid over the prompt teacher's preset."""


def train_config(config: SisterConfig, ceiling: CeilingConfig) -> TrainConfig:
    """The prompt teacher's settings under which the student learns as a policy of its own. Raises SettingError."""
    strong = config.strong
    lab = strong.model.startswith("lab:")
    settings = TrainConfig(
        task=config.task,
        teacher=TeacherConfig(
            model=strong.model, max_instruction_tokens=strong.max_tokens, lora=strong.lora, warm_start=WarmStartConfig(questions=0)
        ),
        max_steps=ceiling.max_steps or (300 if lab else 1000),
        seed=config.seed,
        trl=ceiling.trl,
        eval=EvalConfig(every=ceiling.every),
        budget=config.budget,
    )
    return resolve(settings)


def check_ceiling(config: SisterConfig, ceiling: CeilingConfig, questions: int) -> None:
    """Raises SettingError for what training would stumble over."""
    if ceiling.run is not None:
        return
    needed = questions_a_batch(trl_config(train_config(config, ceiling), Path("/dev/null")))
    if questions < needed:
        raise SettingError(
            f"ceiling: {questions} training questions are fewer than the {needed} of one step's batch; raise task.train_size"
        )


class Reinforced:
    """One process's part of the ceiling's training."""

    def __init__(self, run: Run[Config], ceiling: CeilingConfig, train: Sequence[Example], validation: Sequence[Example]) -> None:
        self.run, self.ceiling = run, ceiling
        self.config = train_config(run.config, ceiling)
        self.directory = RunDirectory(run.path / "ceiling")
        self.directory.checkpoints.mkdir(parents=True, exist_ok=True)
        self.examples = {example.id: example for example in train}
        self.validation = list(validation)[: ceiling.watch]
        self.model, self.tokenizer = load_model(run.config.strong.model, called="strong model")
        self.ends = end_ids(self.model, self.tokenizer)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.grader = Grader()
        self.count = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._prompt_tokens: dict[str, int] = {}

    def __call__(self) -> dict[str, Any]:
        """Train and save the best as the run's folder `ceiling/student`; what happened."""
        directory = self.directory
        checkpoint = directory.last_checkpoint()
        directory.drop_after(checkpoint[0] if checkpoint else 0)
        if not directory.lines("validation.jsonl"):
            self._validate(0, self.model)
        rows = [
            {"prompt": [message.model_dump() for message in raw_messages(example.public())], "example_id": example.id}
            for example in self.examples.values()
        ]
        trainer = build_trainer(
            self.config, directory, self.model, self.tokenizer, start=Path(self.run.config.strong.model), rows=rows, reward=self.score,
            on_step=self._on_step, on_validate=self._validate, on_saved=self._prune, stop=self._plateau,
        )  # fmt: skip
        if not self._plateau() and (checkpoint is None or checkpoint[0] < (self.config.max_steps or 0)):
            trainer.train(resume_from_checkpoint=str(checkpoint[1]) if checkpoint else None)
        lines = directory.lines("validation.jsonl")
        best = self._best(lines)
        model = type(self.model).from_pretrained(directory.checkpoints / f"best-{best['step']}", dtype=self.model.dtype)
        save_model(model, self.tokenizer, directory.path / "student", base=self.run.config.strong.model)
        metrics = directory.lines("metrics.jsonl")
        totals = {name: sum(line[name] for line in metrics) for name in self.count}
        tokens = totals["prompt_tokens"] + totals["completion_tokens"]
        iterations = int(self.config.trl.get("num_iterations", 1))
        cost = Cost(**totals, trained_tokens=tokens * iterations, flops=(2.0 + 6.0 * iterations) * self.parameters * tokens)
        return {
            "steps": lines[-1]["step"],
            "best_step": best["step"],
            "plateau": self._plateau(),
            "curve": [[line["step"], line["right"]] for line in lines],
            "cost": cost.model_dump(),
        }

    async def score(
        self, *, completion_ids: list[list[int]], example_id: list[str], trainer_state: Any, log_metric: Any, **_: Any
    ) -> list[float | None]:
        """TRL's reward function: 1 for a right answer, 0 for a wrong one, None where it could not be decided."""
        grades = []
        for ids, name in zip(completion_ids, example_id, strict=True):
            text = as_instruction(list(ids), self.tokenizer, self.ends).text
            grades.append((await grade_answer(self.grader, self.examples[name], Completion(text=text))).value)
            self.count["calls"] += 1
            self.count["prompt_tokens"] += self._prompt_length(name)
            self.count["completion_tokens"] += len(ids)
        known = [grade for grade in grades if grade is not None]
        log_metric("right_rate", sum(known) / len(known) if known else 0.0)
        return grades

    def _prompt_length(self, name: str) -> int:
        if name not in self._prompt_tokens:
            turns = [message.model_dump() for message in raw_messages(self.examples[name].public())]
            text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            self._prompt_tokens[name] = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._prompt_tokens[name]

    def _on_step(self, step: int, logs: dict[str, float]) -> None:
        self.directory.append("metrics.jsonl", {"step": step, "right_rate": logs.get("right_rate", 0.0), **self.count})
        self.count = dict.fromkeys(self.count, 0)

    def _validate(self, step: int, model: Any) -> None:
        found = watch(model, self.tokenizer, self.validation, self.run.config.strong.max_tokens)
        best = self._best(self.directory.lines("validation.jsonl"))
        if best is None or found["right"] > best["right"]:
            folder = self.directory.checkpoints / f"best-{step}"
            shutil.rmtree(folder, ignore_errors=True)
            self._whole(model).save_pretrained(folder)
            mark_complete(folder)
        self.directory.append("validation.jsonl", {"step": step, **found})
        print(f"ceiling, step {step}: right {found['right']:.1%}, stops {found['stop_rate']:.1%}", file=sys.stderr, flush=True)

    def _whole(self, model: Any) -> Any:
        """The model with its adapter merged into a copy of the weights."""
        if self.run.config.strong.lora is None:
            return model
        import copy

        return copy.deepcopy(model).merge_and_unload()

    def _prune(self, step: int) -> None:
        best = self._best(self.directory.lines("validation.jsonl"))
        for folder in self.directory.checkpoints.glob("best-*"):
            if best is None or folder.name != f"best-{best['step']}":
                shutil.rmtree(folder)

    @staticmethod
    def _best(lines: Sequence[dict[str, Any]]) -> Any:
        return max(lines, key=lambda line: (line["right"], -line["step"])) if lines else None

    def _plateau(self) -> bool:
        """Whether none of the last `patience` validations gained on what came before them."""
        values = [line["right"] for line in self.directory.lines("validation.jsonl")]
        before, last = values[: -self.ceiling.patience], values[-self.ceiling.patience :]
        return bool(before) and max(last) < max(before) + self.ceiling.least_gain
