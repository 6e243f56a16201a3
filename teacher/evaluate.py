"""`python -m teacher.evaluate [CONFIG.yaml | RUN_DIR] [--a.b=value ...]`: the arms on held-out questions, with intervals.

With a run directory it measures that run's teacher and replaces the `eval` block of its summary.json. Without an argument it measures
the teacher that the server would take, in its own run directory where it has one; else, and with a config, the summary goes into a new
directory. Arms: raw, static, untrained, trained, oracle (lab), blind where the run holds a control run `blind/`, and what `eval.arms` adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from evaluation.arms import RESERVED_ARMS, ArmConfig, EvalSummary, FixedPolicy, OraclePolicy, print_table, run_arm, summarise
from exchange.command import RunError, run_command
from exchange.protocols import InstructionPolicy, StudentClient
from exchange.records import Episode, Example
from exchange.settings import SettingError, find_config, load, only, parse_flags, parse_known, read_yaml
from rewards.rubric import Rubric, check_reward
from student_clients import make_student, sampling
from student_clients.errors import StudentAuthError, StudentBadRequest, StudentError, StudentUnknownModel
from tasks import TASKS
from teacher.config import TrainConfig, resolve
from teacher.locate import find_teacher
from teacher.policy import TransformersPolicy, load_model, load_teacher, read_manifest
from teacher.prompt import TeacherPrompt
from teacher.run_directory import MAY_CHANGE, RunDirectory, write_json


def teacher_prompt(config: TrainConfig) -> TeacherPrompt:
    """The prompt of a resolved config: the named template, else the preset's."""
    name = config.teacher.template or ("lab" if config.teacher.preset == "lab" else "default")
    return TeacherPrompt.named(name, blind=config.teacher.blind)


def untrained_policy(config: TrainConfig, model_name: str) -> TransformersPolicy:
    """A base model as it is, under the run's prompt."""
    model, tokenizer = load_model(model_name)
    return TransformersPolicy(model, tokenizer, teacher_prompt(config), max_instruction_tokens=config.teacher.max_instruction_tokens or 1)


def extra_arm(config: TrainConfig, name: str, arm: ArmConfig) -> InstructionPolicy:
    """The policy of a configured arm. Raises SettingError unless exactly one of its fields is set."""
    given = [field for field in ("text", "file", "run", "model") if getattr(arm, field) is not None]
    if len(given) != 1:
        raise SettingError(f"eval.arms.{name}: give exactly one of text, file, run, model (given: {', '.join(given) or 'none'})")
    if arm.file is not None:
        if not Path(arm.file).is_file():
            raise SettingError(f"eval.arms.{name}.file={arm.file!r}: no such file")
        try:
            return FixedPolicy(Path(arm.file).read_text(encoding="utf-8").strip())
        except UnicodeDecodeError as error:
            raise SettingError(f"eval.arms.{name}.file={arm.file!r}: not UTF-8 text ({error.reason})") from None
    if arm.run is not None:
        return load_teacher(find_teacher(arm.run)).policy
    if arm.model is not None:
        return untrained_policy(config, arm.model)
    return FixedPolicy(arm.text or "")


def policies(config: TrainConfig, teacher: Path | None, examples: list[Example]) -> dict[str, InstructionPolicy]:
    """Every arm that applies, in the order of the table."""
    arms: dict[str, InstructionPolicy] = {
        "raw": FixedPolicy(""),
        "static": FixedPolicy(TASKS[config.task.name].static_instruction),
        "untrained": untrained_policy(config, config.teacher.model),
    }
    for name, arm in config.eval.arms.items():
        arms[name] = extra_arm(config, name, arm)
    control = teacher.parent / "blind" / "teacher" if teacher is not None else None
    if control is not None and control.is_dir() and "blind" not in arms:
        arms["blind"] = load_teacher(control).policy
    if teacher is not None:
        arms["trained"] = load_teacher(teacher).policy
    if all(example.oracle is not None for example in examples):
        arms["oracle"] = OraclePolicy(examples)
    return arms


async def evaluate(
    config: TrainConfig, teacher: Path | None, student: StudentClient, rubric: Rubric
) -> tuple[EvalSummary, dict[str, list[Episode]]]:
    """Run every arm on the test questions. Raises RunError where an arm has not one scored answer: a table would show it as zero."""
    examples = TASKS[config.task.name].load(config.task, "test", config.eval.n)
    episodes: dict[str, list[Episode]] = {}
    for name, policy in policies(config, teacher, examples).items():
        episodes[name] = await run_arm(name, policy, examples, student=student, params=sampling(config.student), reward=rubric.observed)
    summary = summarise(episodes, split="test", alpha=config.eval.alpha, examples=examples)
    for name, arm in summary.arms.items():
        if arm.n == 0:
            reason = next((episode.error for episode in episodes[name] if episode.error), "no answer could be judged")
            raise RunError(f"evaluation: not one of {arm.failed} answers of arm {name} could be scored ({reason})")
    return summary, episodes


def check_before(config: TrainConfig) -> None:
    """Raise SettingError for whatever an evaluation of this config would stumble over: arms, test questions."""
    examples = TASKS[config.task.name].load(config.task, "test", config.eval.n)
    check_reward(config.reward, examples)
    for name, arm in config.eval.arms.items():
        if name in RESERVED_ARMS:
            raise SettingError(f"eval.arms.{name}: this name is reserved; choose another, for example static:{name}")
        if arm.model is None:  # a model is loaded when its turn comes
            extra_arm(config, name, arm)
        elif arm.model.startswith(("/", ".", "~")) and not Path(arm.model).is_dir():
            raise SettingError(f"eval.arms.{name}.model={arm.model!r}: no such folder")


def calls(config: TrainConfig) -> int:
    """Student calls of an evaluation at most: four arms and the extra ones, and the oracle in the lab."""
    return (4 + config.task.name.startswith("lab_") + len(config.eval.arms)) * config.eval.n


def cannot_start(error: StudentError, who: str = "student") -> Exception:
    """What a failed check of the student, or of a judge, means to the user: a setting to mend, or a server to start."""
    mendable = isinstance(error, StudentUnknownModel | StudentAuthError | StudentBadRequest)
    return SettingError(f"{who}.model: {error}") if mendable else RunError(f"{who}: {error}")


async def check_judges(rubric: Rubric) -> None:
    """Raises SettingError or RunError where a judge of the rubric cannot judge."""
    for name, judge in rubric.judges.items():
        try:
            await judge.check()
        except StudentError as error:
            raise cannot_start(error, "the judge that pays" if name == "judge" else "reward.second") from None


def config_of(argument: str | None, flags: list[tuple[str, object]]) -> tuple[TrainConfig, Path | None, RunDirectory | None]:
    """(config, teacher folder, run directory) for the command's argument. With a config, a teacher of another task is left out."""
    if argument is not None and Path(argument).is_dir():
        run = RunDirectory(Path(argument))
        held = run.config()
        if not run.finished:
            raise SettingError(f"{argument}: this run is not finished; go on with `python -m teacher.train --resume={argument}`")
        return resolve(load(TrainConfig, held, only_evaluation(flags))), find_teacher(argument), run
    teacher = find_teacher()
    if argument is not None:
        config = resolve(load(TrainConfig, read_yaml(find_config(argument)), flags))
        return config, teacher if read_manifest(teacher)["task"] == config.task.name else None, None
    run = RunDirectory(teacher.parent)
    held = run.config() if run.finished else {}
    return resolve(load(TrainConfig, held, only_evaluation(flags) if held else flags)), teacher, run if run.finished else None


def only_evaluation(flags: Sequence[tuple[str, object]]) -> Sequence[tuple[str, object]]:
    """The flags, which a run's own directory takes the figures of. Raises SettingError for one that would measure something else."""
    reason = "a run is measured with its own settings; give a config to measure its teacher with others"
    return only(flags, ("eval", *MAY_CHANGE), reason=reason)


def body(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m teacher.evaluate", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("target", nargs="?", help="a config file or a run directory; none = the teacher the server would take")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the student calls, then stop")
    args, rest = parse_known(parser, argv)
    config, teacher, run = config_of(args.target, parse_flags(rest))
    check_before(config)
    if args.dry_run:
        from teacher.estimate import estimate

        found = estimate(config, {"evaluation": calls(config)}, trains=False)
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) + json.dumps(found, indent=1))
        return 0
    started = time.monotonic()

    def directory() -> RunDirectory:
        """The run's own directory, or a new one as soon as there is something to write."""
        nonlocal run
        run = run or RunDirectory.create(config)
        return run

    student = make_student(config.student, config.budget, lambda: directory().account())

    rubric = Rubric(config.reward, student, sampling(config.student), budget=config.budget, account=lambda: directory().account())

    async def measure() -> EvalSummary:
        try:
            await student.check()
        except StudentError as error:
            raise cannot_start(error) from None
        await check_judges(rubric)
        try:
            summary, _ = await evaluate(config, teacher, student, rubric)
        finally:
            await student.aclose()
            await rubric.aclose()
        return summary

    summary = asyncio.run(measure())
    print_table(summary, title=f"{config.task.name}: {summary.n} held-out questions")
    print(f"teacher: {teacher}")
    path = directory().path / "summary.json"
    head = {
        "task": config.task.name,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "steps": 0,
        "wall_s": round(time.monotonic() - started, 1),
        "student": student.stats.as_dict(),
        **({"judges": {name: client.stats.as_dict() for name, client in rubric.counted.items()}} if rubric.counted else {}),
        "teacher_sha256": read_manifest(teacher)["sha256"] if teacher is not None else None,
    }
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else head
    write_json(path, {**held, "eval": summary.model_dump(mode="json")})
    print(f"summary: {path}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("teacher.evaluate", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
