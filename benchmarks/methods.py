"""`python -m benchmarks.methods [--seeds 0 1 2]`: prompt teacher, W2SR, two-stage and direct GRPO beside each other.

The lab's reasoning world, one strong student, the same 200 test questions: a short run of the prompt teacher (`teacher.train`), the W2SR
run with its ceiling of `benchmarks.w2sr`, the first part of `benchmarks.two_stage`. What is said of them is what
`python -m weak_to_strong.compare` says. Resumable: a seed that stands in the results file is not repeated. Writes
`benchmarks/results/methods.json` and the table on the page of results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import two_stage, w2sr
from benchmarks.results_file import load_runs, save, write_docs
from teacher.run_directory import RunDirectory, git_commit, runs_dir
from weak_to_strong.compare import Row
from weak_to_strong.compare import table as compared

NAME = "methods"


def prompt_teacher(seed: int, folder: Path) -> Path:
    """A finished run of `teacher.train` on this world."""
    path = folder / f"s{seed}-teacher"
    flags = [
        *("--task.name=lab_reasoning", "--student.model=lab:reasoning/strong", "--student.max_tokens=64"),
        *(
            "--teacher.model=lab:reasoning/teacher",
            "--teacher.warm_start.questions=300",
            "--max_steps=25",
            f"--eval.n={w2sr.MEASURED}",
            "--eval.include=[]",
            f"--seed={seed}",
            f"--run.dir={path}",
        ),
    ]
    if not RunDirectory(path).finished:
        started = [f"--resume={path}"] if (path / "config.yaml").exists() else flags
        subprocess.run([sys.executable, "-m", "teacher.train", *started], check=True, stdout=subprocess.DEVNULL)
    return path


def shown(row: Row, seed: int) -> dict[str, Any]:
    """What stands in the results file for a method's run; no paths."""
    versus = row.versus.model_dump(include={"paired", "questions", "difference", "low", "high", "p_value"}) if row.versus else None
    right = {key: round(getattr(row.right, key), 4) for key in ("mean", "low", "high", "n")}
    return {"method": row.method, "seed": seed, "raw": row.raw, "right": right, "cost": row.cost.model_dump(), "versus": versus}


def rows(seed: int, folder: Path) -> list[dict[str, Any]]:
    """One seed's methods, the prompt teacher first."""
    teacher = prompt_teacher(seed, folder)
    w2sr.run_cell({"seed": seed, "ceiling": w2sr.CEILING}, folder / f"s{seed}-w2sr")
    two_stage.run_cell("main", seed, folder)
    return [shown(row, seed) for row in compared([teacher, folder / f"s{seed}-w2sr", folder / f"main-s{seed}"])]


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The table on the page of results."""
    head = [
        "method",
        "seed",
        "raw",
        "right (95 %)",
        "against the prompt teacher (95 %)",
        "calls",
        "tokens",
        "of them trained",
        "FLOPs",
        "seconds",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for run in sorted(runs, key=lambda run: run["seed"]):
        right, cost, versus = run["right"], run["cost"], run["versus"]
        tokens = cost["prompt_tokens"] + cost["completion_tokens"] + cost["trained_tokens"]
        cells = [
            run["method"], str(run["seed"]), f"{run['raw']:.1%}", f"{right['mean']:.1%} ({right['low']:.1%}–{right['high']:.1%})",
            f"{versus['difference']:+.1%} ({versus['low']:+.1%} .. {versus['high']:+.1%})" if versus else "", f"{cost['calls']:,}",
            f"{tokens:,}", f"{cost['trained_tokens']:,}", f"{cost['flops']:.2g}" if cost["flops"] else "–", f"{cost['wall_s']:.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def headline(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean share right by method, over the seeds measured."""
    methods = dict.fromkeys(run["method"] for run in runs)
    by_method = {name: [run["right"]["mean"] for run in runs if run["method"] == name] for name in methods}
    return {name: {"seeds": len(found), "right": round(sum(found) / len(found), 4)} for name, found in by_method.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument("--folder", type=Path, help="where the runs lie (default: benchmark-methods under the runs' folder)")
    args = parser.parse_args()
    folder = args.folder or runs_dir() / "benchmark-methods"
    folder.mkdir(parents=True, exist_ok=True)
    runs, commit = load_runs(NAME), git_commit()
    for seed in args.seeds:
        if any(run["seed"] == seed for run in runs):
            continue
        runs += [{**found, "commit": commit} for found in rows(seed, folder)]
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
        write_docs(NAME, table(runs))
        print(json.dumps(headline(runs)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
