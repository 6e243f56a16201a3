"""`python -m benchmarks.lab_runs [--jobs 2]`: the demo over seeds, students, dials and algorithms, as a table.

Three seeds of the default run, of the second student, of the dial-0 world and of each other algorithm, each a `python -m teacher.train`
of its own. Resumable: a run that stands in the results file is not repeated. Writes `benchmarks/results/lab_runs.json`
and the table between the markers of `docs/results.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.results_file import load_runs, save, train, write_docs
from evaluation.paired import wilson
from teacher.run_directory import git_commit

NAME = "lab_runs"
MANY = 3200
"""Test questions where harm is looked at, at dial 1: a third of them are right raw."""
CELLS = [
    {"algorithm": algorithm, "student": student, "dial": dial, "seed": seed}
    for algorithm, student, dial in (
        ("grpo", "student", 1.0),
        ("ppo", "student", 1.0),
        ("rloo", "student", 1.0),
        ("grpo", "student_b", 1.0),
        ("grpo", "student", 0.0),
    )
    for seed in (0, 1, 2)
]


def same(cell: dict[str, Any], run: dict[str, Any]) -> bool:
    return cell.items() <= run.items()


def stands(cell: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether a row of the results file is the cell's, with a bias towards silence and on as many questions as now."""
    return same(cell, run) and run.get("silence_bias") is not None and (cell["dial"] == 0.0 or run["n"] == MANY)


def run_cell(cell: dict[str, Any], commit: str | None) -> dict[str, Any]:
    """Train and evaluate one cell in a process of its own."""
    flags = [
        f"--algorithm={cell['algorithm']}",
        f"--student.model=lab:arithmetic/{cell['student']}",
        f"--task.dial={cell['dial']}",
        f"--seed={cell['seed']}",
        "--eval.include=[]",  # the seconds are those of training and its plain table
    ]
    if cell["dial"]:
        flags.append(f"--eval.n={MANY}")
    summary, cpu_s = train(flags)
    arms, pair = summary["eval"]["arms"], summary["eval"]["vs_raw"]["trained"]
    n, right_raw = summary["eval"]["n"], round(arms["raw"]["mean"] * summary["eval"]["n"])
    harmed = round(pair["harm_rate"] * n)
    return {
        **cell,
        **{name: arms[name]["mean"] for name in ("raw", "static", "untrained", "trained", "oracle")},
        "silence": arms["trained"]["silence_rate"],
        "n": n,
        "right_raw": right_raw,
        "harmed_of_them": [round(share, 4) for share in (harmed / right_raw, *wilson(harmed, right_raw))],
        "teacher_step": summary["teacher_step"],
        "silence_bias": summary["silence_bias"],
        "difference": [pair["difference"], pair["low"], pair["high"]],
        "verdict": summary["eval"]["verdict"],
        "calls": summary["student"]["calls"],
        "wall_s": summary["wall_s"],
        "cpu_s": cpu_s,
        "commit": commit,
    }


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    ratios = [run["trained"] / run["oracle"] for run in runs if run["dial"] == 1.0]
    zero = [run for run in runs if run["dial"] == 0.0]
    return {
        "lowest_trained_over_oracle": round(min(ratios), 4) if ratios else None,
        "dial_1_runs_with_gain": sum(run["verdict"] == "gain" for run in runs if run["dial"] == 1.0),
        "dial_0_runs_without_gain": sum(run["verdict"] == "no gain" for run in zero),
        "most_harmed_of_those_right_raw": max(run["harmed_of_them"][0] for run in runs if run["n"] == MANY) if ratios else None,
        "most_cpu_s": max(run["cpu_s"] for run in runs),
        "runs": len(runs),
    }


def table(runs: list[dict[str, Any]]) -> str:
    heads = "algorithm|student|dial|seed|raw|untrained|trained|oracle|trained / oracle|trained − raw (95 %)|verdict"
    columns = [*heads.split("|"), "harmed of those right raw (95 %)", "silent", "best step", "calls", "seconds", "CPU seconds", "commit"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for run in sorted(runs, key=lambda r: (r["algorithm"], -r["dial"], r["student"], r["seed"])):
        difference, low, high = run["difference"]
        cells = [
            run["algorithm"], run["student"], f"{run['dial']:g}", str(run["seed"]),
            *(f"{run[arm]:.1%}" for arm in ("raw", "untrained", "trained", "oracle")),
            f"{run['trained'] / run['oracle']:.3f}", f"{difference:+.1%} ({low:+.1%} .. {high:+.1%})", run["verdict"],
            "{:.1%} ({:.1%} .. {:.1%}) of {:,}".format(*run["harmed_of_them"], run["right_raw"]),
            f"{run['silence']:.0%}", str(run["teacher_step"]), f"{run['calls']:,}",
            f"{run['wall_s']:.0f}", f"{run['cpu_s']:.0f}", str(run["commit"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab_runs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (times are comparable at 1 only)")
    args = parser.parse_args()
    runs = load_runs(NAME)
    todo = [cell for cell in CELLS if not any(stands(cell, run) for run in runs)]
    with ThreadPoolExecutor(args.jobs) as pool:
        commit = git_commit()  # before the first result changes the tree
        for cell, run in zip(todo, pool.map(lambda cell: run_cell(cell, commit), todo), strict=True):
            runs = [*(old for old in runs if not same(cell, old)), run]
            save(NAME, headline=headline(runs), runs=runs, commit=commit)
            write_docs(NAME, table(runs))
            print(json.dumps(run), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
