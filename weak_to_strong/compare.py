"""`python -m weak_to_strong.compare RUN RUN ... [--json]`: prompt teacher, W2SR, two-stage and direct GRPO beside each other on one task.

Runs of `teacher.train`, `weak_to_strong.w2sr`, `.two_stage` and `.direct`; a W2SR run with a ceiling is two rows, its student and direct
GRPO. What learning took is counted alike (`weak_to_strong.cost`): answers asked for and sampled, tokens read, written and trained on. What
measuring took is left out, but for the seconds, which are those of the whole run on the machine that it ran on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from evaluation.compare_runs import Measured, Versus, against, read_run
from evaluation.paired import ArmResult
from exchange.command import run_command
from exchange.records import Record
from exchange.settings import SettingError
from teacher.run_directory import RunDirectory
from weak_to_strong.cost import Cost


class Row(Record):
    """One method's run."""

    method: str
    run: str
    seed: int
    right: ArmResult
    """Of the method's arm."""
    raw: float
    """Share right of the untrained student in the same run."""
    cost: Cost
    """What learning took; `wall_s` is the whole run's, and of direct GRPO that of its training."""
    versus: Versus | None = None
    """Against the first row, paired by question."""


def cost_of_teacher(path: Path) -> Cost:
    """What a prompt teacher's training took: every logged episode is an instruction that was sampled, an answer that was asked for, and an
    instruction that was trained on. The teacher's prompts are not in the log and not counted, nor are FLOPs."""
    calls = prompt = completion = own = 0
    for line in RunDirectory(path).lines("episodes.jsonl"):
        for answer in line["completions"]:
            prompt += answer["prompt_tokens"]
            completion += answer["completion_tokens"]
        calls += len(line["completions"])
        own += line["instruction"]["num_tokens"] or 0
    return Cost(calls=calls, prompt_tokens=prompt, completion_tokens=completion + own, trained_tokens=own)


def rows_of(path: Path) -> list[tuple[Row, Measured, str]]:
    """(row, the run, its arm) of every method that a directory holds. Raises SettingError."""
    run = read_run(path)
    held: dict[str, Any] = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    algorithm = str(held.get("algorithm"))
    if "trained" not in run.summary.arms:
        raise SettingError(f"{path}: measured no trained arm, so it is no run of a method")
    sister = "phases" in held
    cost = Cost(**held["cost"]["training"]) if sister else cost_of_teacher(path)
    cost = cost.model_copy(update={"wall_s": held["wall_s"]})
    method = algorithm if sister else f"prompt teacher ({algorithm})"
    found = [(method, "trained", cost)]
    if sister and "ceiling" in run.summary.arms and "ceiling" in held["cost"]:
        found.append(("direct GRPO", "ceiling", Cost(**held["cost"]["ceiling"])))
    raw = run.summary.arms["raw"].mean
    return [
        (Row(method=name, run=str(path), seed=run.seed, raw=raw, cost=took,
             right=ArmResult(**{field: getattr(run.summary.arms[arm], field) for field in ArmResult.model_fields})), run, arm)
        for name, arm, took in found
    ]  # fmt: skip


def table(paths: list[Path], alpha: float = 0.05) -> list[Row]:
    """All rows, each but the first against the first. Raises SettingError where the runs are of different tasks."""
    found = [entry for path in paths for entry in rows_of(path)]
    tasks = {run.task for _, run, _ in found}
    if len(tasks) > 1:
        raise SettingError(f"the runs are of different tasks ({', '.join(sorted(tasks))}); one table is of one")
    _, first_run, first_arm = found[0]
    rows = [found[0][0]]
    for row, run, arm in found[1:]:
        rows.append(row.model_copy(update={"versus": against(run, first_run, arm, alpha, first_arm)}))
    return rows


def print_rows(rows: list[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Grid

    console = Console(width=None if Console().is_terminal else 170)
    grid = Grid(title="one task, several methods", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    head = "method|seed|n|raw|right|95 % interval|against the first|calls|tokens|of them trained|FLOPs|seconds".split("|")
    for column in head:
        grid.add_column(column, overflow="fold")
    for row in rows:
        versus = f"{row.versus.difference:+.1%} ({row.versus.low:+.1%} .. {row.versus.high:+.1%})" if row.versus else ""
        cost = row.cost
        grid.add_row(
            row.method, str(row.seed), str(row.right.n), f"{row.raw:.1%}", f"{row.right.mean:.1%}",
            f"{row.right.low:.1%} .. {row.right.high:.1%}", versus, f"{cost.calls:,}", f"{cost.tokens:,}", f"{cost.trained_tokens:,}",
            f"{cost.flops:.2g}" if cost.flops else "–", f"{cost.wall_s:.0f}",
        )  # fmt: skip
    console.print(grid)


def body(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m weak_to_strong.compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories of the methods, all on one task")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    rows = table(args.runs)
    if args.json:
        print(json.dumps([row.model_dump() for row in rows], indent=1))
    else:
        print_rows(rows)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("weak_to_strong.compare", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
