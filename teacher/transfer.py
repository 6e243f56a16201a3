"""One teacher on other students and other tasks (`eval.transfer`): students x tasks, each cell paired with raw on the same questions.

What a teacher learnt from one student is worth something elsewhere only where it says so here. `teacher.evaluate` makes a cell after its
own table; each lies in a directory of its own, `transfer/NAME` of the evaluated one, with a report like any other evaluation's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from evaluation.compare_runs import compare_runs, read_run
from exchange.settings import SettingError, load
from student_clients.budget import price_of
from tasks import TaskConfig
from teacher.arms import calls, other_student
from teacher.compare import print_transfer
from teacher.config import TrainConfig
from teacher.run_directory import RunDirectory, write_json

ARMS = ("raw", "static", "trained")

Measure = Callable[[TrainConfig, RunDirectory, str], object]
"""Measures the arms of a config into a directory, under a title."""


def moved(config: TrainConfig) -> dict[str, TrainConfig]:
    """Name -> the settings of each cell but the run's own. Raises SettingError."""
    found = {}
    for name, cell in config.eval.transfer.items():
        setting = f"eval.transfer.{name}"
        if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
            raise SettingError(f"{setting}: it becomes a folder's name; use letters, digits, dots, dashes and underscores")
        student = other_student(config, f"{setting}.student", cell.student or {})
        given = cell.task or {}
        same = given.get("name", config.task.name) == config.task.name
        try:
            task = load(TaskConfig, {**(config.task.model_dump(mode="json", exclude_unset=True) if same else {}), **given})
        except SettingError as error:
            raise SettingError(f"{setting}.task.{error}") from None
        price_of(student, config.budget)
        measured = config.eval.model_copy(update={"transfer": {}, "arms": {}, "include": []})
        found[name] = config.model_copy(update={"student": student, "task": task, "eval": measured})
    return found


def transfer_calls(config: TrainConfig, teacher: Path | None) -> int:
    """Student calls of all cells at most."""
    return sum(calls(cell, teacher, ARMS) for cell in moved(config).values())


def transfer(config: TrainConfig, run: RunDirectory, measure: Measure) -> None:
    """Measure every cell, print the table with the run's own beside them, and note it in the run's summary.json."""
    folders = [run.path]
    for name, cell in moved(config).items():
        folder = run.path / "transfer" / name
        folder.mkdir(parents=True, exist_ok=True)
        there = RunDirectory(folder)
        there.write_config(cell)
        measure(cell, there, f"{name}: {{n}} held-out questions")
        folders.append(folder)
    table = compare_runs([read_run(folder) for folder in folders], "trained", config.eval.alpha)
    print_transfer(table)
    path = run.path / "summary.json"
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "transfer": next(iter(table.transfer.values()), {})})
