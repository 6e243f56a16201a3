"""`python -m benchmarks.offline [--only PART ...] [--n N]`: two checks of offline evaluation, on the shipped lab teacher.

`transfer`: the teacher over students x tasks, trained - raw in each cell. `churn`: a student that samples at T = 0.7, raw against raw asked
again, whose help and harm net of the floor should hold 0 in their intervals. A `python -m teacher.evaluate` each, with a cache of its own.
Resumable: a part that stands in the results file is not repeated. Writes `benchmarks/results/offline.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results_file import cpu_seconds, load_runs, save
from teacher.run_directory import git_commit

NAME = "offline"
CELLS = {
    "student_b": {"student": {"model": "lab:arithmetic/student_b"}},
    "half": {"task": {"dial": 0.5}},
    "student_b-half": {"student": {"model": "lab:arithmetic/student_b"}, "task": {"dial": 0.5}},
}
PARTS = {
    "transfer": ["--eval.include=[]", f"--eval.transfer={json.dumps(CELLS)}"],
    "churn": ["--eval.include=[raw_again]", "--student.temperature=0.7"],
}
"""Name -> flags of `teacher.evaluate`."""
QUESTIONS = {"transfer": 300, "churn": 500}


def _cell(folder: Path) -> dict[str, Any]:
    """What one evaluated directory says of the trained arm and raw."""
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["eval"]
    pair = found["vs_raw"]["trained"]
    arm = found["arms"]["trained"]
    difference = [pair["difference"], pair["low"], pair["high"]]
    return {
        "raw": found["arms"]["raw"]["mean"],
        "trained": arm["mean"],
        "silent": arm["silence_rate"],
        "difference": difference,
        "n": pair["n"],
    }


def run_part(name: str, n: int, commit: str | None) -> dict[str, Any]:
    """One evaluation in a process of its own, its directory read and dropped."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "WST_RUNS_DIR": f"{folder}/runs", "WST_CACHE_DIR": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        environment.pop("WST_TEACHER", None)  # the shipped one
        cpu_s = cpu_seconds([sys.executable, "-m", "teacher.evaluate", f"--eval.n={n}", *PARTS[name]], environment)
        run = next(Path(folder).glob("runs/*/summary.json")).parent
        row: dict[str, Any] = {"name": name, "cpu_s": cpu_s, "commit": commit}
        if name == "transfer":
            cells = {"student": _cell(run)} | {cell: _cell(run / "transfer" / cell) for cell in CELLS}
            return {**row, "cells": cells}
        pair = json.loads((run / "summary.json").read_text(encoding="utf-8"))["eval"]["vs_raw"]["raw_again"]
        return {**row, "raw_again": pair, "trained": _cell(run)}


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for run in runs:
        if run["name"] == "transfer":
            found["lowest_low_of_transfer"] = round(min(cell["difference"][1] for cell in run["cells"].values()), 4)
        else:
            pair = run["raw_again"]
            found["net_help"] = [round(pair[f"net_help_{end}"], 4) for end in ("rate", "low", "high")]
            found["net_harm"] = [round(pair[f"net_harm_{end}"], 4) for end in ("rate", "low", "high")]
            found["zero_within_both"] = all(low <= 0 <= high for _, low, high in (found["net_help"], found["net_harm"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="only these parts")
    parser.add_argument("--n", type=int, help="questions a cell (default: 300 for transfer, 500 for churn)")
    args = parser.parse_args()
    runs = load_runs(NAME)
    commit = git_commit()  # before the first result changes the tree
    for name in args.only:
        if any(run["name"] == name for run in runs):
            continue
        runs.append(run_part(name, args.n or QUESTIONS[name], commit))
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
        print(json.dumps(runs[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
