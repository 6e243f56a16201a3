"""`python -m teacher.evaluate [CONFIG.yaml | RUN_DIR] [--a.b=value ...]`: the arms on held-out questions, with intervals.

With a run directory it measures that run's teacher and replaces the `eval` block of its summary.json. Without an argument it measures
the teacher that the server would take, in its own run directory where it has one; else, and with a config, the summary goes into a new
directory. Beside summary.json stand report.html, report.md, report.json and evaluation.jsonl (every answer). Arms: raw, static, untrained,
trained, oracle (lab), sft after a warm start, blind where the run holds a control run `blind/`, what `eval.include` and `eval.arms` add.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from evaluation.arms import majority, run_arm
from evaluation.table import EvalSummary, print_table, summarise
from exchange.command import RunError, run_command
from exchange.records import Episode, Example
from exchange.settings import SettingError, find_config, load, only, parse_flags, parse_known, read_yaml
from rewards.rubric import Rubric, check_reward
from store import Store
from student_clients import CountingStudent, sampling
from student_clients.bulk import check_ray, in_bulk
from tasks import TASKS
from teacher.arms import StudentPolicy, calls, check_arms, planned
from teacher.config import TrainConfig, resolve
from teacher.drafts import drafted
from teacher.folder import read_manifest
from teacher.locate import find_teacher
from teacher.parts import Panel
from teacher.run_directory import MAY_CHANGE, RunDirectory, git_commit, write_json
from teacher.transfer import ARMS as TRANSFERRED
from teacher.transfer import moved, transfer, transfer_calls
from teacher.workshop import Workshop, latencies


@dataclass(frozen=True)
class Evaluation:
    """What the arms answered, and what may be said of it."""

    examples: list[Example]
    episodes: dict[str, list[Episode]]
    """By arm, in the order of the table."""
    summary: EvalSummary


async def evaluate(
    config: TrainConfig,
    teacher: Path | None,
    student: CountingStudent,
    rubric: Rubric,
    *,
    account: Callable[[], Store] | None = None,
    examples: list[Example] | None = None,
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Run every arm that applies, or the named ones, on the test questions, or the given ones.

    Raises RunError where an arm has not one scored answer: a table would show it as zero.
    """
    examples = examples or TASKS[config.task.name].load(config.task, "test", config.eval.n)
    if config.variant == "three_step":
        examples = await drafted(examples, student=student, params=sampling(config.student))
    shop = Workshop(config, teacher, examples, in_bulk(student, config.ray, config.student, config.budget, account), rubric, account)
    names = names or planned(config, teacher)
    about: dict[str, str] = {}
    instructing: dict[str, tuple[float, float]] = {}
    try:
        for name in sorted(names, key="majority".__eq__):  # last, for it takes what the trained arm took
            arm = await shop.make(name)
            episodes = await run_arm(
                name, arm.policy, examples, student=arm.student, params=arm.params, reward=partial(rubric.observed, own=arm.own),
                samples=arm.samples, sample_index=arm.sample_index,
            )  # fmt: skip
            shop.episodes[name] = [majority(episode) for episode in episodes] if arm.vote else episodes
            about[name] = arm.about
            if isinstance(arm.policy, StudentPolicy):
                prompt, completion = arm.policy.tokens
                instructing[name] = (prompt / len(examples), completion / len(examples))
            print(f"arm {name}: {len(episodes)} questions", file=sys.stderr)
    finally:
        await shop.aclose()
    summary = summarise(
        {name: shop.episodes[name] for name in names}, examples, alpha=config.eval.alpha, margin=config.eval.margin,
        samples=config.eval.samples, greedy=shop.params.temperature == 0, prices=shop.prices, votes=("majority",), about=about,
        instructing=instructing,
    )  # fmt: skip
    for name, result in summary.arms.items():
        if result.n == 0:
            reason = next((episode.error for episode in shop.episodes[name] if episode.error), "no answer could be judged")
            raise RunError(f"evaluation: not one of {result.failed} answers of arm {name} could be scored ({reason})")
    return Evaluation(examples, {name: shop.episodes[name] for name in names}, summary)


def publish(found: Evaluation, config: TrainConfig, teacher: Path | None, folder: Path, *, title: str | None = None) -> EvalSummary:
    """Print the table, and write answers and reports into `folder`. Raises RunError where that cannot be written."""
    from evaluation.report import Facts, write_report

    run = RunDirectory(teacher.parent) if teacher is not None else None
    manifest = read_manifest(teacher) if teacher is not None else {}
    facts = Facts(
        task=config.task.name,
        student=config.student.model,
        teacher=manifest.get("id"),
        teacher_sha256=manifest.get("sha256"),
        seed=config.seed,
        commit=git_commit(),
        **(run.curves() if run is not None else {}),
    )
    title = title or f"{config.task.name}: {found.summary.n} held-out questions"
    print_table(found.summary, title=title)
    try:
        write_report(folder, title, facts, found.summary, found.examples, found.episodes)
    except OSError as error:
        raise RunError(f"{folder}: the report cannot be written ({error.strerror})") from None
    print(f"report: {folder / 'report.html'}")
    return found.summary


Found = TypeVar("Found")


class Asking:
    """A student and its judges at the work of one command, and the run directory, made as soon as there is something to write into it.

    The student is the one that measures: `validation.student` where the run has one. `account` is where the spending is booked, if not in
    that directory.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory | None = None, account: Callable[[str], Store] | None = None) -> None:
        self.config = config
        self._run = run
        measured = config.measured()
        self.panel = Panel.of(measured, account or self._account, section="" if measured is config else "validation.")

    @property
    def directory(self) -> RunDirectory:
        """The run's own directory, or a new one."""
        self._run = self._run or RunDirectory.create(self.config, resumable=False)
        return self._run

    def _account(self, section: str) -> Store:
        return self.directory.account(section)

    def __call__(self, work: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
        """Do the work once student and judges answer, and close them. Raises SettingError or RunError where they cannot start."""

        async def checked() -> Found:
            try:
                await self.panel.check()
                return await work()
            finally:
                await self.panel.aclose()

        return asyncio.run(checked())


def check_before(config: TrainConfig) -> None:
    """Raise SettingError for whatever an evaluation of this config would stumble over: arms, test questions."""
    examples = TASKS[config.task.name].load(config.task, "test", config.eval.n)
    check_reward(config.reward, examples)
    check_ray(config.ray, config.student)
    planned(config, None)
    check_arms(config)


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
    here = config.measured()
    check_before(here)
    for cell in moved(here).values():
        if teacher is None:
            raise SettingError("eval.transfer: there is no teacher of this task to try elsewhere; train one, or name its run directory")
        check_before(cell)
    if args.dry_run:
        from teacher.estimate import estimate

        asked = {"evaluation": calls(here, teacher), **({"transfer": transfer_calls(here, teacher)} if here.eval.transfer else {})}
        cost = estimate(here, asked, trains=False)
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) + json.dumps(cost, indent=1))
        return 0
    measured = carry_out(config, teacher, run, title=f"{config.task.name}: {{n}} held-out questions")
    if config.eval.transfer:
        transfer(
            here, measured,
            lambda cell, there, title: carry_out(cell, teacher, there, title=title, names=TRANSFERRED, account=measured.account),
        )  # fmt: skip
    return 0


def carry_out(
    config: TrainConfig,
    teacher: Path | None,
    run: RunDirectory | None,
    *,
    title: str,
    examples: list[Example] | None = None,
    names: Sequence[str] | None = None,
    account: Callable[[str], Store] | None = None,
) -> RunDirectory:
    """Ask the student (the one that validates, where the run has one), print the table, write reports and summary.json: into the run's
    directory, else a new one, which is returned. `title` may hold {n}; `account` is where the spending is booked, if not there."""
    started = time.monotonic()
    measured = config.measured()
    ask = Asking(config, run, account)
    found = ask(
        lambda: evaluate(measured, teacher, ask.panel.student, ask.panel.reward, account=ask.panel.account, examples=examples, names=names)
    )
    summary = publish(found, measured, teacher, ask.directory.path, title=title.replace("{n}", str(found.summary.n)))
    print(f"teacher: {teacher}")
    path = ask.directory.path / "summary.json"
    head: dict[str, Any] = {
        "task": config.task.name,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "steps": 0,
        "wall_s": round(time.monotonic() - started, 1),
        "student": ask.panel.student.stats.as_dict(),
        **(
            {"judges": {name: client.stats.as_dict() for name, client in ask.panel.reward.counted.items()}}
            if ask.panel.reward.counted
            else {}
        ),
        "teacher_sha256": read_manifest(teacher)["sha256"] if teacher is not None else None,
    }
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else head
    fresh = latencies(found.episodes)
    timed: dict[str, Any] = {"latency_s": {**held.get("latency_s", {}), **fresh}} if fresh or "latency_s" in held else {}
    held.pop("transfer", None)  # of the evaluation before; made anew where it is asked for
    write_json(path, {**held, **timed, "eval": summary.model_dump(mode="json")})
    for name, seconds in fresh.items():
        print(f"latency of {name}: median {seconds['p50']:g} s, 95th percentile {seconds['p95']:g} s ({seconds['calls']} fresh calls)")
    print(f"summary: {path}")
    return ask.directory


def main(argv: list[str] | None = None) -> int:
    return run_command("teacher.evaluate", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
