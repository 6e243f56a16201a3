"""The run itself, phase by phase, each of which leaves something whole behind: warm start, GRPO, export, evaluation.

`teacher.train` is the command; this is what it calls once the settings stand.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.arms import print_table
from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Episode, Example
from exchange.settings import SettingError
from rewards.rubric import Rubric
from store import Store
from student_clients import CountingStudent, make_student, sampling
from student_clients.budget import ACCOUNT, NANO, BudgetExhausted
from student_clients.errors import StudentError
from tasks import TASKS
from teacher.config import TrainConfig
from teacher.evaluate import cannot_start, check_before, check_judges, evaluate, teacher_prompt
from teacher.grpo import build_trainer, grpo_config, lora_config, questions_a_batch
from teacher.ledger import Ledger
from teacher.policy import TransformersPolicy, end_ids, load_model, save_teacher
from teacher.prompt import TeacherPrompt
from teacher.rewarder import Rewarder
from teacher.run_directory import COMPLETE, RunDirectory, mark_complete, write_json
from teacher.validation import Validator
from teacher.warm_start import best_of_n, fine_tune, keep_best

if TYPE_CHECKING:
    from teacher.train import StopSignal

COUNTED_AS = {"correctness": "right", "preference": "win rate", "judge": "win rate", "consistency": "agreement"}
"""What a share of the counted grade is called, by the reward."""


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


@dataclass(frozen=True)
class Parts:
    """What every phase of a run works with."""

    config: TrainConfig
    run: RunDirectory
    train: list[Example]
    validation: list[Example]
    prompt: TeacherPrompt
    student: CountingStudent
    params: SamplingParams
    reward: Rubric
    ledger: Ledger
    progress: Progress
    stop: StopSignal

    def booked(self) -> dict[str, float]:
        """What the run's account says it cost; a process that was killed took its own count with it. Empty where nothing is booked."""
        if not (self.run.path / "budget.sqlite3").exists():
            return {}
        totals = asyncio.run(self.run.account().totals(ACCOUNT))
        held = totals.get("held", 0) / NANO
        limit = f" of {self.config.budget.usd:g}" if self.config.budget.usd is not None else ""
        self.progress.say(
            f"budget: {totals.get('spent', 0) / NANO:.4f}{limit} dollars spent, {held:.4f} held for requests of unknown outcome"
        )
        return {"cost_usd": totals.get("spent", 0) / NANO}

    def record(self, step: int, episodes: list[Episode]) -> None:
        """Log paid episodes and what they cost."""
        self.run.append("episodes.jsonl", *({"step": step, **episode.model_dump(mode="json")} for episode in episodes))
        self.ledger.save()


def warm_start(parts: Parts) -> Path:
    """The folder of the model that RL starts from; made once, reused on resume."""
    config, run = parts.config, parts.run
    folder = run.checkpoints / "warm_start"
    if (folder / COMPLETE).exists():
        return folder
    from transformers import set_seed

    run.drop_after(-1)  # what a killed warm start wrote is made again
    set_seed(config.seed)
    warm = config.teacher.warm_start
    model, tokenizer = load_model(config.teacher.model)
    if warm is not None and warm.questions:
        policy = TransformersPolicy(
            model, tokenizer, parts.prompt, max_instruction_tokens=config.teacher.max_instruction_tokens or 1, temperature=1.0
        )
        asked = parts.train[: warm.questions]
        episodes = asyncio.run(
            best_of_n(
                policy, asked, warm.samples, student=parts.student, params=parts.params, reward=parts.reward,
                record=lambda wave: parts.record(0, wave),
            )
        )  # fmt: skip
        kept = keep_best(episodes, random.Random(config.seed))
        by_id = {example.id: example for example in asked}
        rows = [
            {
                "prompt": [message.model_dump() for message in parts.prompt.messages(by_id[name].public())],
                "completion": [{"role": "assistant", "content": text}],
            }
            for name, text in kept
        ]
        solved = len({name for name, _ in kept})
        parts.progress.say(f"warm start: {len(episodes)} calls for {len(asked)} questions, {solved} solved, {len(rows)} instructions kept")
        if rows:
            work = run.path / "warm_start_work"
            model = fine_tune(model, tokenizer, rows, warm, seed=config.seed, work=work, peft_config=lora_config(config))
            shutil.rmtree(work, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mark_complete(folder)
    return folder


def learn(parts: Parts, start: Path) -> Validator:
    """GRPO from the warm start or the last whole checkpoint, to the last step or a stop signal."""
    from safetensors import SafetensorError

    config, run = parts.config, parts.run
    model, tokenizer = load_model(str(start))
    validator = Validator(
        run, parts.validation, tokenizer, parts.prompt, max_instruction_tokens=config.teacher.max_instruction_tokens or 1,
        student=parts.student, params=parts.params, reward=parts.reward.observed,
    )  # fmt: skip
    rewarder = Rewarder(
        parts.train, tokenizer, end_ids(model, tokenizer), student=parts.student, params=parts.params, reward=parts.reward,
        record=parts.record,
    )  # fmt: skip
    checkpoint = run.last_checkpoint()
    done = checkpoint[0] if checkpoint else 0
    run.drop_after(done)

    def on_step(step: int, logs: dict[str, float]) -> None:
        run.append("metrics.jsonl", {"step": step, **{k: v for k, v in logs.items() if isinstance(v, int | float)}})
        right, silent = logs.get("right_rate", 0.0), logs.get("silence_rate", 0.0)
        distinct, entropy = logs.get("distinct_rate", 0.0), logs.get("entropy", 0.0)
        parts.progress.step(
            step, f"{COUNTED_AS[config.reward.kind]} {right:.0%} silent {silent:.0%} distinct {distinct:.0%} entropy {entropy:.2f}"
        )

    def on_validate(step: int, trained: Any) -> None:
        right = validator(step, trained)
        line = run.lines("validation.jsonl")[-1]
        second = f", second judge {line['second']:.1%}" if "second" in line else ""
        parts.progress.say(f"step {step}: validation {right:.1%}{second}")
        if validator.parted:
            parts.progress.say("the judges part: the one that pays still gains, the second one loses; training stops here")
        parts.ledger.save()

    if not run.lines("validation.jsonl"):
        on_validate(0, model)
    if done >= (config.max_steps or 0) or validator.parted:
        return validator  # a Trainer that resumes at its last step would take one more
    rows = [
        {"prompt": [message.model_dump() for message in parts.prompt.messages(example.public())], "example_id": example.id}
        for example in parts.train
    ]
    trainer = build_trainer(
        config, run, model, tokenizer, rows=rows, reward=rewarder.score, on_step=on_step, on_validate=on_validate,
        on_saved=validator.prune, stop=lambda: bool(parts.stop.number) or validator.parted,
    )  # fmt: skip
    parts.stop.graceful = True
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint[1]) if checkpoint else None)
    except (ValueError, SafetensorError) as error:
        raise RunError(
            f"training stopped: {' '.join(str(error).split())}; the last checkpoint stands in {run.checkpoints}, "
            "delete it where it is damaged and go on from the one before"
        ) from None
    parts.stop.graceful = False
    return validator


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


def prepare(config: TrainConfig) -> tuple[list[Example], list[Example]]:
    """(training, validation) questions, after everything that can be wrong with the settings was looked at. Nothing is asked or written.

    Raises SettingError.
    """
    task = TASKS[config.task.name]
    train_set = task.load(config.task, "train", config.task.train_size)
    validation_set = task.load(config.task, "validation", config.task.validation_size)
    check_before(config)
    needed = questions_a_batch(grpo_config(config, Path(os.devnull)))
    if len(train_set) < needed:
        raise SettingError(f"task {config.task.name}: {len(train_set)} training questions are fewer than the {needed} of one step's batch")
    return train_set, validation_set


def phases(parts: Parts) -> dict[str, Any] | None:
    """All phases of a prepared run; the summary, or None where a signal stopped it."""
    config, run = parts.config, parts.run
    with parts.progress.bar:
        start = warm_start(parts)
        validator = learn(parts, start)
    if parts.stop.number:
        print(f"stopped with a checkpoint; go on with: python -m teacher.train --resume={run.path}", file=sys.stderr)
        return None
    manifest = export(config, run, start, validator, parts.student.name)
    summary, _ = asyncio.run(evaluate(config, run.teacher, parts.student, parts.reward))
    result = {
        "task": config.task.name,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "steps": config.max_steps,
        "teacher_step": manifest["step"],
        "wall_s": parts.ledger.wall_s(),
        "run_dir": str(run.path),
        "teacher_sha256": manifest["sha256"],
        **({"parted_at": run.lines("validation.jsonl")[-1]["step"]} if validator.parted else {}),
        "student": {**parts.ledger.counts(), **parts.booked()},
        **parts.ledger.judges_counts(),
        "eval": summary.model_dump(mode="json"),
    }
    write_json(run.path / "summary.json", result)
    print_table(summary, title=f"{config.task.name}: {summary.n} held-out questions")
    validated = {line["step"]: line["right"] for line in run.lines("validation.jsonl")}
    print(
        f"best teacher: step {manifest['step']} of {config.max_steps}; {COUNTED_AS[config.reward.kind]} on validation after the warm start "
        f"{validated[0]:.1%}, at the best step {validated[manifest['step']]:.1%}, at the last {validated[max(validated)]:.1%}"
    )
    print(f"teacher: {run.teacher}   student calls: {result['student']['calls']}   {result['wall_s']:.0f} s")
    return result


def train(config: TrainConfig, run: RunDirectory | None, stop: StopSignal) -> dict[str, Any] | None:
    """Run all phases and return the summary; None where a signal stopped the run (it can be resumed).

    Raises SettingError before anything was started, RunError after.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports every trainer it builds
    # transformers reads and writes its own deprecated attribute whenever a Trainer saves.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    train_set, validation_set = prepare(config)
    prompt = teacher_prompt(config)
    if run is None:
        RunDirectory.check_free(config)
        load_model(config.teacher.model)  # a model that cannot be loaded is found out before a run is made of it

    def account() -> Store:
        assert run is not None, "nothing is paid for before the run has its directory"
        return run.account()

    student = make_student(config.student, config.budget, account)
    rubric = Rubric(config.reward, student, sampling(config.student), budget=config.budget, account=account)
    with ExitStack() as stack:
        stack.callback(lambda: asyncio.run(student.aclose()))
        stack.callback(lambda: asyncio.run(rubric.aclose()))
        if run is not None:
            stack.enter_context(run.lock())
        try:
            asyncio.run(student.check())
        except StudentError as error:
            raise cannot_start(error) from None
        asyncio.run(check_judges(rubric))
        if run is None:
            run = RunDirectory.create(config)
            stack.enter_context(run.lock())
        run.write_config(config)  # a resumed run may have been given another budget
        ledger = Ledger(run, student, rubric.counted)
        stack.callback(ledger.save)
        progress = Progress(config.max_steps or 0)
        progress.say(f"run {run.path}")
        parts = Parts(config, run, train_set, validation_set, prompt, student, sampling(config.student), rubric, ledger, progress, stop)
        try:
            return phases(parts)
        except BudgetExhausted as error:
            raise RunError(f"{error}: --resume={run.path} --budget.usd=MORE") from None
        except OSError as error:
            raise RunError(f"{run.path}: {error.strerror or error}; mend that and go on with --resume={run.path}") from None
