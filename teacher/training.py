"""The run itself, phase by phase, each of which leaves something whole behind: warm start, GRPO, export, evaluation.

`teacher.train` is the command; this is what it calls once the settings stand.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.arms import print_table
from exchange.command import RunError
from exchange.records import Episode, Example
from rewards.rubric import Rubric
from student_clients import make_student, sampling
from student_clients.errors import StudentError
from tasks import TASKS
from teacher.config import TrainConfig
from teacher.evaluate import evaluate, teacher_prompt
from teacher.grpo import build_trainer
from teacher.policy import TransformersPolicy, load_model, save_teacher
from teacher.rewarder import Rewarder
from teacher.run_directory import COMPLETE, RunDirectory, mark_complete, write_json
from teacher.validation import Validator
from teacher.warm_start import best_of_n, fine_tune, keep_best

if TYPE_CHECKING:
    from teacher.train import StopSignal


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.total = total
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("training", total=total)

    def say(self, text: str) -> None:
        self.bar.console.print(text, highlight=False)

    def step(self, number: int, text: str) -> None:
        self.bar.update(self.task, completed=number, description=text)
        if not self.console.is_terminal and (number % 10 == 0 or number == self.total):
            self.say(f"step {number}/{self.total}: {text}")


class Ledger:
    """The student's counts over all processes of a run, kept on disk after every step."""

    def __init__(self, run: RunDirectory, student: Any) -> None:
        self.path = run.path / "ledger.json"
        self.student = student
        self.before: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def total(self) -> dict[str, Any]:
        now = self.student.stats.as_dict()
        return {key: self.before.get(key, 0) + value for key, value in now.items()}

    def save(self) -> None:
        write_json(self.path, self.total())


def warm_start(config: TrainConfig, run: RunDirectory, train: list[Example], student: Any, reward: Rubric, say: Any) -> Path:
    """The folder of the model that RL starts from; made once, reused on resume."""
    folder = run.checkpoints / "warm_start"
    if (folder / COMPLETE).exists():
        return folder
    warm = config.teacher.warm_start
    model, tokenizer = load_model(config.teacher.model)
    prompt = teacher_prompt(config)
    if warm is not None and warm.questions:
        policy = TransformersPolicy(
            model, tokenizer, prompt, max_instruction_tokens=config.teacher.max_instruction_tokens or 1, temperature=1.0
        )
        asked = train[: warm.questions]
        episodes = asyncio.run(best_of_n(policy, asked, warm.samples, student=student, params=sampling(config.student), reward=reward))
        if all(episode.error for episode in episodes):
            raise RunError(f"warm start: every student call failed ({episodes[0].error}); go on with --resume={run.path}")
        run.append("episodes.jsonl", *({"step": 0, **episode.model_dump(mode="json")} for episode in episodes))
        kept = keep_best(episodes, random.Random(config.seed))
        by_id = {example.id: example for example in asked}
        rows = [
            {
                "prompt": [message.model_dump() for message in prompt.messages(by_id[name].public())],
                "completion": [{"role": "assistant", "content": text}],
            }
            for name, text in kept
        ]
        solved = len({name for name, _ in kept})
        say(f"warm start: {len(episodes)} calls for {len(asked)} questions, {solved} solved, {len(rows)} instructions kept")
        if rows:
            fine_tune(model, tokenizer, rows, warm, seed=config.seed, work=run.path / "warm_start_work")
            shutil.rmtree(run.path / "warm_start_work", ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mark_complete(folder)
    return folder


def learn(
    config: TrainConfig, run: RunDirectory, start: Path, train: list[Example], validator: Validator, rewarder: Rewarder,
    ledger: Ledger, progress: Progress, stop: StopSignal,
) -> None:  # fmt: skip
    """GRPO from the warm start or the last whole checkpoint, to the last step or a stop signal."""
    model, tokenizer = load_model(str(start))
    prompt = teacher_prompt(config)
    rows = [
        {"prompt": [message.model_dump() for message in prompt.messages(example.public())], "example_id": example.id} for example in train
    ]
    checkpoint = run.last_checkpoint()
    run.drop_after(checkpoint[0] if checkpoint else 0)

    def on_step(step: int, logs: dict[str, float]) -> None:
        ledger.save()
        run.append("metrics.jsonl", {"step": step, **{k: v for k, v in logs.items() if isinstance(v, int | float)}})
        right, silent = logs.get("right_rate", 0.0), logs.get("silence_rate", 0.0)
        progress.step(
            step,
            f"right {right:.0%} silent {silent:.0%} distinct {logs.get('distinct_rate', 0.0):.0%} entropy {logs.get('entropy', 0.0):.2f}",
        )

    def on_validate(step: int, trained: Any) -> None:
        right = validator(step, trained)
        progress.say(f"step {step}: validation {right:.1%}")

    if checkpoint is None and not run.lines("validation.jsonl"):
        on_validate(0, model)
    trainer = build_trainer(
        config, run, model, tokenizer, rows=rows, reward=rewarder.score, on_step=on_step, on_validate=on_validate,
        on_saved=validator.prune, stop=lambda: bool(stop.number),
    )  # fmt: skip
    stop.graceful = True
    trainer.train(resume_from_checkpoint=str(checkpoint[1]) if checkpoint else None)
    stop.graceful = False


def export(config: TrainConfig, run: RunDirectory, start: Path, validator: Validator, student_name: str) -> dict[str, Any]:
    """Write the best validated weights as the run's teacher."""
    best = validator.best()
    assert best is not None, "step 0 is always validated"
    _, step, folder = best
    model, tokenizer = load_model(str(start))
    if (folder / "adapter_config.json").exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    else:
        model = type(model).from_pretrained(folder, dtype=model.dtype)
    facts = {
        "id": f"{run.path.name}-step{step}",
        "task": config.task.name,
        "base_model": config.teacher.model,
        "student": student_name,
        "max_instruction_tokens": config.teacher.max_instruction_tokens,
        "step": step,
    }
    return save_teacher(run.teacher, model, tokenizer, teacher_prompt(config), facts)


def train(config: TrainConfig, run: RunDirectory | None, stop: StopSignal) -> dict[str, Any] | None:
    """Run all phases and return the summary; None where a signal stopped the run (it can be resumed)."""
    started = time.monotonic()
    # transformers reads and writes its own deprecated attribute whenever a Trainer saves.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    task = TASKS[config.task.name]
    train_set = task.load(config.task, "train", config.task.train_size)
    validation_set = task.load(config.task, "validation", config.task.validation_size)
    prompt = teacher_prompt(config)
    student = make_student(config.student)
    try:
        asyncio.run(student.check())
    except StudentError as error:
        raise RunError(f"student: {error}") from None
    run = run or RunDirectory.create(config)
    reward, params = Rubric(config.reward), sampling(config.student)
    ledger = Ledger(run, student)
    progress = Progress(config.max_steps or 0)
    progress.say(f"run {run.path}")

    def record(step: int, episodes: list[Episode]) -> None:
        run.append("episodes.jsonl", *({"step": step, **episode.model_dump(mode="json")} for episode in episodes))

    with progress.bar:
        start = warm_start(config, run, train_set, student, reward, progress.say)
        ledger.save()
        tokenizer = load_model(str(start))[1]
        validator = Validator(
            run, validation_set, tokenizer, prompt, max_instruction_tokens=config.teacher.max_instruction_tokens or 1,
            student=student, params=params, reward=reward,
        )  # fmt: skip
        rewarder = Rewarder(train_set, tokenizer, student=student, params=params, reward=reward, record=record)
        learn(config, run, start, train_set, validator, rewarder, ledger, progress, stop)
    ledger.save()
    if stop.number:
        print(f"stopped with a checkpoint; go on with: python -m teacher.train --resume={run.path}", file=sys.stderr)
        return None
    manifest = export(config, run, start, validator, student.name)
    summary, _ = asyncio.run(evaluate(config, run.teacher, student))
    asyncio.run(student.aclose())
    ledger.save()
    result = {
        "task": config.task.name,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "steps": config.max_steps,
        "wall_s": round(time.monotonic() - started, 1),
        "run_dir": str(run.path),
        "teacher_sha256": manifest["sha256"],
        "student": ledger.total(),
        "eval": summary.model_dump(mode="json"),
    }
    write_json(run.path / "summary.json", result)
    print_table(summary, title=f"{config.task.name}: {summary.n} held-out questions")
    print(f"teacher: {run.teacher}   student calls: {result['student']['calls']}   {result['wall_s']:.0f} s")
    return result
