"""Several evaluations beside each other: the same arm of different runs, paired where the questions are the same; one teacher over students
and tasks; one setting over seeds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evaluation.paired import Comparison, compare, newcombe
from evaluation.sequences import holm
from evaluation.table import EvalSummary
from exchange.records import Record
from exchange.settings import SettingError, read_yaml
from tasks.source import read_lines

SEEDS = 3
"""Runs that a statement over seeds needs."""


@dataclass(frozen=True)
class Measured:
    """One evaluated directory."""

    path: str
    task: str
    student: str
    """Its model, and its temperature where it samples."""
    teacher: str
    """First 8 digits of the teacher's sum; `-` without one."""
    seed: int
    settings: str
    """All that makes runs alike but for their seed."""
    summary: EvalSummary
    asked: str
    """The task with what makes it another one: its part, its dial, a user's own file."""
    scores: dict[str, dict[tuple[str, str], float | None]] = field(repr=False)
    """arm -> (question id, question) -> score."""


def read_run(path: Path) -> Measured:
    """Raises SettingError where the directory holds no evaluation."""
    for name in ("summary.json", "evaluation.jsonl", "config.yaml"):
        if not (path / name).is_file():
            raise SettingError(f"{path}: holds no {name}; measure it first with `python -m teacher.evaluate {path}`")
    try:
        held = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        summary = EvalSummary.model_validate(held["eval"])
    except (ValueError, ValidationError, KeyError, TypeError):
        raise SettingError(f"{path / 'summary.json'}: holds no evaluation that can be read; measure it anew") from None
    config = read_yaml(path / "config.yaml")
    scores: dict[str, dict[tuple[str, str], float | None]] = {}
    for _, row in read_lines(path / "evaluation.jsonl"):
        scores.setdefault(str(row["arm"]), {})[str(row["id"]), str(row["query"])] = row["score"]
    student = config.get("student") or {}
    alike = {key: config.get(key) for key in ("task", "student", "teacher", "reward", "algorithm", "max_steps", "trl")}
    return Measured(
        path=str(path),
        task=str(held.get("task")),
        student=f"{student.get('model')} at {student['temperature']:g}" if student.get("temperature") else str(student.get("model")),
        teacher=str(held.get("teacher_sha256") or "-")[:8],
        seed=int(config.get("seed") or 0),
        settings=json.dumps(alike, sort_keys=True, default=str),
        summary=summary,
        asked=_asked(str(held.get("task")), config.get("task") or {}),
        scores=scores,
    )


def _asked(name: str, task: dict[str, Any]) -> str:
    part = f"/{task['subset']}" if task.get("subset") else ""
    file = f" ({Path(task['path']).name})" if name == "own" and task.get("path") else ""
    return f"{name}{part}{file}" + (f" at dial {task['dial']:g}" if task.get("dial", 1.0) != 1.0 else "")


class Versus(Record):
    """A run's arm against the first run's."""

    run: str
    against: str
    paired: bool
    questions: int
    difference: float
    low: float
    high: float
    p_value: float | None
    """None where the questions differ: the interval alone speaks."""
    p_holm: float | None = None
    p_equivalent: float | None = None
    detectable: float | None = None


class Seeds(Record):
    """One setting over seeds: each question's score is the mean over seeds, so questions are the clusters."""

    task: str
    student: str
    seeds: list[int]
    arms: dict[str, list[float]]
    """Share right by seed."""
    vs_raw: dict[str, Comparison]


class Table(Record):
    """What `teacher.compare` says."""

    arm: str
    runs: list[dict[str, Any]]
    versus: list[Versus]
    seeds: list[Seeds]
    transfer: dict[str, dict[str, dict[str, str]]]
    """teacher -> student -> task -> what the arm gains over raw there."""


def against(run: Measured, first: Measured, arm: str, alpha: float, first_arm: str | None = None) -> Versus:
    """Paired on the questions both were asked; as independent samples where they share none. `first_arm`: where it is another one."""
    ours, theirs = run.scores[arm], first.scores[first_arm or arm]
    shared = [key for key in theirs if key in ours]
    pairs = [(ours[key], theirs[key]) for key in shared]
    if any(a is not None and b is not None for a, b in pairs):
        found = compare([a for a, _ in pairs], [b for _, b in pairs], alpha=alpha, margin=run.summary.margin)
        return Versus(
            run=run.path, against=first.path, paired=True, questions=found.n, difference=found.difference, low=found.low, high=found.high,
            p_value=found.p_value, p_equivalent=found.p_equivalent, detectable=found.detectable,
        )  # fmt: skip
    a, b = run.summary.arms[arm], first.summary.arms[first_arm or arm]
    low, high = newcombe((a.mean * a.n, a.n), (b.mean * b.n, b.n), alpha)
    return Versus(
        run=run.path, against=first.path, paired=False, questions=a.n + b.n, difference=a.mean - b.mean, low=low, high=high, p_value=None
    )


def over_seeds(runs: Sequence[Measured], alpha: float) -> list[Seeds]:
    """A row for every setting that was run with at least SEEDS seeds on the same questions."""
    found = []
    for settings in dict.fromkeys(run.settings for run in runs):
        alike = [run for run in runs if run.settings == settings]
        keys = list(alike[0].scores["raw"])
        if len({run.seed for run in alike}) < SEEDS or any(list(run.scores["raw"]) != keys for run in alike):
            continue
        arms = [name for name in alike[0].scores if all(name in run.scores for run in alike)]
        means = {name: [mean_known([run.scores[name][key] for run in alike]) for key in keys] for name in arms}
        found.append(
            Seeds(
                task=alike[0].task,
                student=alike[0].student,
                seeds=[run.seed for run in alike],
                arms={name: [run.summary.arms[name].mean for run in alike] for name in arms},
                vs_raw={
                    name: compare(means[name], means["raw"], alpha=alpha, margin=alike[0].summary.margin) for name in arms if name != "raw"
                },
            )
        )
    return found


def mean_known(values: Sequence[float | None]) -> float | None:
    """The mean; None where one is unknown, since seeds must not weigh differently from question to question."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def compare_runs(runs: Sequence[Measured], arm: str, alpha: float) -> Table:
    """Everything that can be said of these runs together. Raises SettingError where one has no such arm."""
    for run in runs:
        if arm not in run.scores or arm not in run.summary.arms:
            raise SettingError(f"{run.path}: has no arm {arm!r}; it has: {', '.join(run.scores)}")
    rows = [against(run, runs[0], arm, alpha) for run in runs[1:] if run.task == runs[0].task]
    tested = [row for row in rows if row.p_value is not None]
    values = iter(holm([row.p_value for row in tested if row.p_value is not None]))
    rows = [row.model_copy(update={"p_holm": next(values)}) if row.p_value is not None else row for row in rows]
    transfer: dict[str, dict[str, dict[str, str]]] = {}
    for run in runs:
        pair = run.summary.vs_raw.get(arm)
        words = f"{pair.difference:+.1%} ({pair.low:+.1%} .. {pair.high:+.1%})" if pair else f"{run.summary.arms[arm].mean:.1%}"
        cells = transfer.setdefault(run.teacher, {}).setdefault(run.student, {})
        # Cells may differ in what the table's heads do not say: another address, longer answers, another file of the same name.
        cells[run.asked if run.asked not in cells else f"{run.asked} [{Path(run.path).name}]"] = words
    listed = [
        {
            "run": run.path, "task": run.task, "student": run.student, "teacher": run.teacher, "seed": run.seed, "n": run.summary.n,
            "raw": run.summary.arms["raw"].model_dump(), arm: run.summary.arms[arm].model_dump(),
            "vs_raw": run.summary.vs_raw[arm].model_dump() if arm in run.summary.vs_raw else None, "verdict": run.summary.verdict,
        }
        for run in runs
    ]  # fmt: skip
    several = {teacher: by for teacher, by in transfer.items() if sum(len(tasks) for tasks in by.values()) > 1}
    return Table(arm=arm, runs=listed, versus=rows, seeds=over_seeds(runs, alpha), transfer=several)
