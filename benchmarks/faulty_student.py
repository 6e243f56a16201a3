"""`python -m benchmarks.faulty_student [--jobs 1]`: what faults of the student's server do to training.

The lab run over HTTP, clean and with 30 % of all requests failing (`lab.serve`), three seeds each, otherwise equal: the whole preset.
"Within noise" is TOST at ±5 points: the 90 % interval of the mean difference over the seeds lies inside. Resumable: a run that stands in
`benchmarks/results/faulty_student.json` is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scipy import stats

from benchmarks.results_file import load_runs, save, train
from lab.serve import lab_server
from teacher.run_directory import git_commit

NAME = "faulty_student"
MARGIN = 0.05
CELLS = [{"fault_rate": rate, "seed": seed} for seed in (0, 1, 2) for rate in (0.0, 0.3)]


def run_cell(cell: dict[str, Any], commit: str | None) -> dict[str, Any]:
    with lab_server("arithmetic", "student", fault_rate=cell["fault_rate"], seed=cell["seed"]) as server:
        flags = [
            f"--student.base_url={server.url}", "--student.model=student", f"--seed={cell['seed']}",
            "--student.timeout_s=5", "--eval.include=[]", "--student.pacing.backoff_s=0.1", "--student.pacing.concurrency=64",
        ]  # fmt: skip
        summary, cpu_s = train(flags)
        arms = summary["eval"]["arms"]
        return {
            **cell,
            "trained": arms["trained"]["mean"],
            "oracle": arms["oracle"]["mean"],
            "unscored": {name: arm["failed"] for name, arm in arms.items()},
            "student": summary["student"],
            "server": {"requests": server.requests, "answered": server.answered, "faults": server.faults},
            "wall_s": summary["wall_s"],
            "cpu_s": cpu_s,
            "commit": commit,
        }


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    by_cell = {(run["fault_rate"], run["seed"]): run for run in runs}
    differences = [
        by_cell[0.3, seed]["trained"] - by_cell[0.0, seed]["trained"] for seed in (0, 1, 2) if {(0.3, seed), (0.0, seed)} <= set(by_cell)
    ]
    found: dict[str, Any] = {
        "differences": [round(d, 4) for d in differences],
        "calls_equal_the_servers_count": all(run["student"]["calls"] == run["server"]["requests"] for run in runs),
    }
    if len(differences) > 1:
        mean, half = statistics.fmean(differences), _half_width(differences)
        found |= {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}
        found["within_noise"] = mean - half > -MARGIN and mean + half < MARGIN
    return found


def _half_width(values: list[float]) -> float:
    """Of the 90 % t interval of the mean: two one-sided tests at 5 %."""
    return float(stats.t.ppf(0.95, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faulty_student", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args()
    runs = load_runs(NAME)
    done = {(run["fault_rate"], run["seed"]) for run in runs}
    commit = git_commit()  # before the first result changes the tree
    with ThreadPoolExecutor(args.jobs) as pool:
        todo = [cell for cell in CELLS if (cell["fault_rate"], cell["seed"]) not in done]
        for run in pool.map(lambda cell: run_cell(cell, commit), todo):
            runs.append(run)
            save(NAME, headline=headline(runs), runs=runs, commit=commit)
            print(json.dumps(run), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
