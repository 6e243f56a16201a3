"""The run itself, phase by phase, each of which leaves something whole behind: warm start, RL, export, evaluation.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exchange.command import RunError
from exchange.records import Example
from exchange.settings import SettingError
from store import Store
from student_clients.budget import BudgetExhausted
from tasks import TASKS
from teacher.algorithms import lora_config, questions_a_batch, training_questions, trl_config
from teacher.arms import teacher_prompt
from teacher.config import TrainConfig
from teacher.drafts import drafted, settle
from teacher.evaluate import check_before, evaluate, publish
from teacher.folder import save_teacher
from teacher.hub import card, check_login, push, write_card
from teacher.learning import Learning
from teacher.ledger import Ledger
from teacher.parts import COUNTED_AS, Panel, Parts, Progress
from teacher.policy import TransformersPolicy, load_model, with_room
from teacher.processes import Processes
from teacher.run_directory import COMPLETE, RunDirectory, git_commit, mark_complete, write_json
from teacher.validation import Validator
from teacher.warm_start import best_of_n, fine_tune, keep_best, logged_rows

if TYPE_CHECKING:
    from teacher.train import StopSignal


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
    rows: list[dict[str, Any]] = []
    if warm is not None and warm.questions:
        policy = TransformersPolicy(
            model, tokenizer, parts.prompt, max_instruction_tokens=config.teacher.max_instruction_tokens or 1, temperature=1.0
        )
        asked = parts.train[: warm.questions]
        episodes = asyncio.run(
            best_of_n(
                policy, asked, warm.samples, student=parts.student, params=parts.params, reward=parts.reward,
                answers=config.student.samples, borrowed=warm.borrowed, seed=config.seed, record=lambda wave: parts.record(0, wave),
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
        answers = len(episodes) * config.student.samples
        parts.progress.say(f"warm start: {answers} answers for {len(asked)} questions, {solved} solved, {len(rows)} instructions kept")
    if warm is not None and warm.file is not None:
        given = logged_rows(warm.file, parts.prompt)
        rows += given
        parts.progress.say(f"warm start: {len(given)} instructions from {warm.file}")
    if warm is not None and rows:
        work = run.path / "warm_start_work"
        with parts.processes.alone():
            model = fine_tune(model, tokenizer, rows, warm, seed=config.seed, work=work, peft_config=lora_config(config))
        shutil.rmtree(work, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mark_complete(folder)
    return folder


def export(config: TrainConfig, run: RunDirectory, start: Path, validator: Validator, student: str, validated_on: str) -> dict[str, Any]:
    """Write the best validated weights as the run's teacher; `student` taught it, `validated_on` chose it."""
    best = validator.best()
    assert best is not None, "step 0 is always validated"
    _, step, folder = best
    model, tokenizer = load_model(str(start))
    if (folder / "adapter_config.json").exists():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    else:
        model = type(model).from_pretrained(folder, dtype=model.dtype).to(model.device)
    facts = {
        "id": f"{run.path.name}-step{step}",
        "task": config.task.name,
        "base_model": config.teacher.model,
        "student": student,
        **({"validated_on": validated_on} if validated_on != student else {}),
        "max_instruction_tokens": config.teacher.max_instruction_tokens,
        "step": step,
    }
    bias = config.teacher.silence_bias if config.teacher.silence_bias is not None else validator.silence_bias(model)
    return save_teacher(run.teacher, model, tokenizer, teacher_prompt(config), facts, silence_bias=bias)


def prepare(config: TrainConfig) -> tuple[list[Example], list[Example]]:
    """(training, validation) questions, after everything that can be wrong with the settings was looked at. Nothing is asked or written.

    Raises SettingError.
    """
    task = TASKS[config.task.name]
    train_set = task.load(config.task, "train", config.task.train_size)
    validation_set = task.load(config.task, "validation", config.task.validation_size)
    check_before(config.measured())
    check_login(config)
    if config.teacher.warm_start is not None and config.teacher.warm_start.file is not None:
        logged_rows(config.teacher.warm_start.file, teacher_prompt(config))
    needed = questions_a_batch(trl_config(config, Path(os.devnull)))
    if len(train_set) < needed:
        raise SettingError(f"task {config.task.name}: {len(train_set)} training questions are fewer than the {needed} of one step's batch")
    return train_set, validation_set


def all_that_fit(config: TrainConfig, examples: list[Example]) -> list[Example]:
    """The training questions that the teacher has room to be asked. Raises SettingError where they are no batch."""
    return with_room(
        examples, config.teacher.model, teacher_prompt(config), max_instruction_tokens=config.teacher.max_instruction_tokens or 1,
        needed=questions_a_batch(trl_config(config, Path(os.devnull))),
    )  # fmt: skip


def draft_all(
    config: TrainConfig, run: RunDirectory, panel: Panel, measuring: Panel, train_set: list[Example], validation_set: list[Example]
) -> tuple[list[Example], list[Example]]:
    """The questions with the drafts of the students that will revise them. Of the training questions only as many as the run can use; what
    has no draft is left out of them. Raises RunError where too few are left."""

    async def ask() -> tuple[list[Example], list[Example]]:
        wanted = train_set[: training_questions(config)]
        return (
            await drafted(wanted, student=panel.student, params=panel.params, run=run),
            await drafted(validation_set, student=measuring.student, params=measuring.params, run=run, section=measuring.section),
        )

    train, validation = asyncio.run(ask())
    kept = [example for example in train if example.draft is not None]
    if len(kept) < questions_a_batch(trl_config(config, Path(os.devnull))):
        raise RunError(f"{len(train) - len(kept)} of {len(train)} drafts failed, so no step has a batch; go on with --resume={run.path}")
    settle(train, run)
    settle(validation, run, measuring.section)
    return kept, validation


def phases(parts: Parts) -> dict[str, Any] | None:
    """All phases of a prepared run; the summary, or None where a signal stopped it."""
    config, run = parts.config, parts.run
    with parts.progress.bar:
        start = warm_start(parts)
        validator = Learning(parts, start)()
    if parts.stop.number:
        print(f"stopped with a checkpoint; go on with: python -m teacher.train --resume={run.path}", file=sys.stderr)
        return None
    manifest = export(config, run, start, validator, parts.student.name, parts.measuring.student.name)
    seen = parts.measuring
    found = asyncio.run(evaluate(seen.config, run.teacher, seen.student, seen.reward, account=seen.account))
    summary = publish(found, seen.config, run.teacher, run.path)
    result = {
        "task": config.task.name,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "steps": config.max_steps,
        "teacher_step": manifest["step"],
        "silence_bias": manifest["silence_bias"],
        "ended": run.ended,
        "alarms": run.lines("alarms.jsonl"),
        "filter": run.filtered,
        "wall_s": parts.ledger.wall_s(),
        "run_dir": str(run.path),
        "teacher_sha256": manifest["sha256"],
        **({"parted_at": run.lines("validation.jsonl")[-1]["step"]} if validator.parted else {}),
        "student": {**parts.ledger.counts(), **parts.booked()},
        **{name: {**counts, **parts.booked("validation.")} for name, counts in parts.ledger.validation_counts().items()},
        **parts.ledger.judges_counts(),
        "eval": summary.model_dump(mode="json"),
    }
    write_card(run.teacher, card(seen.config, manifest, summary, git_commit()))
    write_json(run.path / "summary.json", result)
    validated = {line["step"]: line["right"] for line in run.lines("validation.jsonl")}
    print(
        f"best teacher: step {manifest['step']} of {config.max_steps}; {COUNTED_AS[config.reward.kind]} on validation after the warm start "
        f"{validated[0]:.1%}, at the best step {validated[manifest['step']]:.1%}, at the last {validated[max(validated)]:.1%}; "
        f"silence bias {manifest['silence_bias']:g}"
    )
    if (address := push(run.teacher, config, manifest)) is not None:
        print(f"pushed: {address}")
    print(f"teacher: {run.teacher}   student calls: {result['student']['calls']}   {result['wall_s']:.0f} s")
    return result


def train(config: TrainConfig, run: RunDirectory | None, stop: StopSignal, processes: Processes) -> dict[str, Any] | None:
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
    fit = all_that_fit(config, train_set)

    stack = ExitStack()

    def directory() -> RunDirectory:
        """The run's, or a new one as soon as there is something to write: the check of a judge may cost money already."""
        nonlocal run
        if run is None:
            run = RunDirectory.create(config)
            stack.enter_context(run.lock())
        return run

    def close(panel: Panel) -> None:
        asyncio.run(panel.aclose())

    def account(section: str) -> Store:
        return directory().account(section)

    panel = measuring = Panel.of(config, account)
    if config.validation.student is not None:
        measuring = Panel.of(config.measured(), account, section="validation.")
    panels = (panel,) if measuring is panel else (panel, measuring)
    with stack:
        for one in panels:
            stack.callback(close, one)
        if run is not None:
            stack.enter_context(run.lock())
        for one in panels:
            asyncio.run(one.check())
        run = directory()
        run.write_config(config)  # a resumed run may have been given another budget
        ledger = Ledger(run, panel.student, panel.reward.counted, validation=measuring.student if measuring is not panel else None)
        stack.callback(ledger.save_if_possible)
        progress = Progress(config.max_steps or 0)
        progress.say(f"run {run.path}")
        if len(fit) < len(train_set):
            progress.say(f"{len(train_set) - len(fit)} of {len(train_set)} training questions are too long for the teacher, and left out")
            train_set = fit
        try:
            if config.variant == "three_step":
                train_set, validation_set = draft_all(config, run, panel, measuring, train_set, validation_set)
                train_set = all_that_fit(config, train_set)
            parts = Parts(
                config, run, train_set, validation_set, prompt, panel.student, panel.params, panel.reward, ledger, progress, stop,
                measuring, processes,
            )  # fmt: skip
            return phases(parts)
        except BudgetExhausted as error:
            raise RunError(f"{error}; go on with --resume={run.path}") from None
        except OSError as error:
            raise RunError(f"{run.path}: {error.strerror or error}; mend that and go on with --resume={run.path}") from None
