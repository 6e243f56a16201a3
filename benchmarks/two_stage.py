"""`python -m benchmarks.two_stage [--only PART] [--seeds 0 1 2]`: the gains of both stages on the lab's reasoning world.

Part `main`, for each seed: Stage I with up to three rounds, Stage II, gold fine-tuning on the same questions. Part `systematic`: the weak
model's answers are replaced by right chains in which every doubling is one too many, a habit and no accident: full weak fine-tuning takes
it up, and what agreement leaves of the weak texts (`stage_one_weak`) must not be a gain over that. Resumable: a cell that stands in the
results file is not repeated. Writes `benchmarks/results/two_stage.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results_file import load_runs, save
from exchange.records import Example
from exchange.settings import load
from tasks.lab_reasoning import load as questions
from teacher.run_directory import git_commit, runs_dir
from weak_to_strong.traces import Trace, save_traces

NAME = "two_stage"
QUESTIONS, MEASURED = 160, 200
PARTS = ("main", "systematic")


def habitual(example: Example) -> str:
    """The worked solution with every doubling one too many, and everything after it carried on from there."""
    written, shift = [], 0
    for line in (example.reference or "").split("\n")[:-1]:
        before, sign, number, _, after = line.split(" ")
        doubling = number == before
        state = int(before) + shift
        operand = state if doubling else int(number)
        result = state - operand if sign == "-" else state + operand + (1 if doubling else 0)
        written.append(f"{state} {sign} {operand} = {result}")
        shift = result - int(after)
    return "\n".join([*written, f"#### {written[-1].rpartition(' ')[2]}"])


def run_cell(part: str, seed: int, folder: Path) -> dict[str, Any]:
    """One two-stage run in this process; a finished one is read, an unfinished one gone on with."""
    from teacher.run_directory import RunDirectory
    from teacher.train import StopSignal
    from weak_to_strong.run import carry_out
    from weak_to_strong.two_stage_config import TwoStageConfig, resolve
    from weak_to_strong.two_stage_run import TwoStage

    path = folder / f"{part}-s{seed}"
    run = RunDirectory(path)
    if run.finished:
        return dict(json.loads((path / "summary.json").read_text(encoding="utf-8")))
    base: dict[str, Any] = {
        "run": {"dir": str(path)}, "seed": seed, "questions": QUESTIONS, "eval": {"n": MEASURED},
        "weak": {"batch_size": MEASURED}, "strong": {"batch_size": MEASURED},
        "task": {"name": "lab_reasoning", "train_size": QUESTIONS, "validation_size": 10},
        "stage_one": {"rounds": 3 if part == "main" else 1, "least_growth": -1}, "fine_tune": {"watch": 0},
    }  # fmt: skip
    if part == "systematic":
        file = folder / "systematic.jsonl"
        answered = questions("train", limit=QUESTIONS)
        save_traces(file, [Trace(example_id=e.id, sample_index=0, completion=habitual(e), finish_reason="stop") for e in answered])
        base["weak_file"] = str(file)
    config = resolve(load(TwoStageConfig, base))
    with StopSignal() as stop:
        return carry_out(config, run if (path / "config.yaml").exists() else None, lambda made: TwoStage(made)(), stop)


def row(part: str, seed: int, summary: dict[str, Any]) -> dict[str, Any]:
    """What stands in the results file for a run."""
    arms = summary["eval"]["arms"]
    return {
        "part": part,
        "seed": seed,
        "shares": {name: [round(arm[key], 4) for key in ("mean", "low", "high")] for name, arm in arms.items()},
        "gains": {
            name: {key: round(gain[key], 4) for key in ("difference", "low", "high", "p_value")} for name, gain in summary["gains"].items()
        },
        "rounds": [{key: line[key] for key in ("round", "kept", "share", "counts", "right", "kept_right")} for line in summary["rounds"]],
        "pairs": summary.get("pairs"),
    }


def headline(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean gains by part, over the seeds measured."""
    found: dict[str, Any] = {}
    for part in PARTS:
        mine = [run for run in runs if run["part"] == part]
        if mine:
            names = set.intersection(*(set(run["gains"]) for run in mine))
            gains = {name: round(sum(run["gains"][name]["difference"] for run in mine) / len(mine), 4) for name in sorted(names)}
            found[part] = {"seeds": len(mine), "gains": gains}
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_stage", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=PARTS, help="only this part")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument("--folder", type=Path, help="where the runs lie (default: benchmark-two_stage under the runs' folder)")
    args = parser.parse_args(argv)
    folder = args.folder or runs_dir() / "benchmark-two_stage"
    folder.mkdir(parents=True, exist_ok=True)
    runs, commit = load_runs(NAME), git_commit()
    for seed in args.seeds:
        for part in (args.only,) if args.only else PARTS:
            if any(run["part"] == part and run["seed"] == seed for run in runs):
                continue
            runs.append({**row(part, seed, run_cell(part, seed, folder)), "commit": commit})
            save(NAME, headline=headline(runs), runs=runs, commit=commit)
            print(json.dumps(runs[-1]["gains"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
