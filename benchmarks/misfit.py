"""Whether misfit tells the gain: `python -m benchmarks.misfit [--only PART]`, a minute on one thread, linear heads alone.

- random worlds (`misfit_worlds`): the slope of gain on misfit where the student can represent the truth, where it nearly can, and with the
  roles swapped;
- HH-RLHF pairs (`misfit_text`): gain against misfit on real text;
- choosing one of several weak teachers by weak error - misfit: the rank correlation with the students' errors, beside that of weak error.

Writes `benchmarks/results/misfit.json`, and the points as `misfit_worlds.svg` and `misfit_text.svg`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks import misfit_text
from benchmarks.misfit_worlds import Task, slope, study, teachers
from benchmarks.results_file import RESULTS, load_runs, save
from teacher.run_directory import git_commit
from weak_to_strong.gain import Candidate, choose_teacher
from weak_to_strong.gap import recovered
from weak_to_strong.misfit_plot import Point, gain_against_misfit

NAME = "misfit"
SEEDS, TASKS = 5, 50
STUDIES: dict[str, dict[str, Any]] = {
    "realizable": {"fitting_rows": 20_000},
    "realizable, few rows": {"fitting_rows": 2_000},
    "realizable, He init": {"fitting_rows": 20_000, "he": True},
    "nearly realizable": {"fitting_rows": 2_000, "sigma_strong": 0.01},
    "roles swapped": {"fitting_rows": 20_000, "sigma_strong": 0.05, "sigma_weak": 0.01},
}
SHOWN = ("realizable", "nearly realizable", "roles swapped")
CHOICE_SEEDS = 3


def world_study(name: str) -> tuple[dict[str, Any], list[Task]]:
    by_seed = [study(seed, tasks=TASKS, **STUDIES[name]) for seed in range(SEEDS)]
    tasks = [task for found in by_seed for task in found]
    on, correlation = slope(tasks)
    slopes = [slope(found)[0] for found in by_seed]
    deviation = float(np.median([abs(task.gain - task.misfit) / task.misfit for task in tasks]))
    run = {
        "part": "worlds", "study": name, **STUDIES[name], "seeds": SEEDS, "tasks": len(tasks), "slope": round(on, 4),
        "slope_by_seed": [round(s, 4) for s in slopes], "correlation": round(correlation, 4), "median_deviation": round(deviation, 4),
        "tasks_that_gain": sum(task.gain > 0 for task in tasks),
    }  # fmt: skip
    return run, tasks


def ranks(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """How the rule and weak error alone rank teachers whose students were measured."""
    real = [one.student_error for one in candidates if one.student_error is not None]
    by_error = min(candidates, key=lambda one: one.weak_error)
    chosen = choose_teacher(candidates)[0]
    return {
        "spearman_rule": round(float(spearmanr([one.predicted for one in candidates], real).statistic), 4),
        "spearman_weak_error": round(float(spearmanr([one.weak_error for one in candidates], real).statistic), 4),
        "chosen": chosen.name,
        "regret_rule": (chosen.student_error or 0.0) - min(real),
        "regret_weak_error": (by_error.student_error or 0.0) - min(real),
        "candidates": [{**one.model_dump(), "predicted": one.predicted} for one in candidates],
    }


def plot(name: str, points: Sequence[Point], title: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.svg").write_text(gain_against_misfit(points, title, "squared error"), encoding="utf-8")


def text_runs() -> list[dict[str, Any]]:
    runs, points = [], []
    for seed in range(CHOICE_SEEDS):
        outcomes = misfit_text.study(seed)
        shares = [recovered(one.accuracies[1].tolist(), one.accuracies[0].tolist(), one.accuracies[2].tolist()) for one in outcomes]
        rows = [
            {
                "teacher": one.name, "gain": one.gain, "misfit": one.misfit,
                "accuracy": dict(zip(("weak", "student", "ceiling"), (round(float(a.mean()), 4) for a in one.accuracies))),
                "pgr": share.model_dump(include={"value", "low", "high"}),
            }
            for one, share in zip(outcomes, shares, strict=True)
        ]  # fmt: skip
        runs.append(
            {"part": "text", "study": "hh_rlhf pairs", "seed": seed, "teachers": rows, **ranks([one.candidate for one in outcomes])}
        )
        points += [Point(one.misfit, one.gain, f"split {seed}", one.name) for one in outcomes]
        print(
            f"text, split {seed}: Spearman {runs[-1]['spearman_rule']} (rule), {runs[-1]['spearman_weak_error']} (weak error)", flush=True
        )
    plot("misfit_text", points, "Gain against misfit on HH-RLHF pairs")
    return runs


def world_runs() -> list[dict[str, Any]]:
    runs, points = [], []
    for name in STUDIES:
        run, tasks = world_study(name)
        runs.append(run)
        print(
            f"{name}: slope {run['slope']}, correlation {run['correlation']}, {run['tasks_that_gain']} of {run['tasks']} gain", flush=True
        )
        if name in SHOWN:
            points += [Point(task.misfit, task.gain, name) for task in tasks]
    plot("misfit_worlds", points, "Gain against misfit on random worlds")
    return runs


def choice_runs() -> list[dict[str, Any]]:
    runs = []
    for seed in range(CHOICE_SEEDS):
        runs.append({"part": "choice", "study": "random worlds", "seed": seed, **ranks(teachers(seed))})
        print(
            f"choice, world {seed}: Spearman {runs[-1]['spearman_rule']} (rule), {runs[-1]['spearman_weak_error']} (weak error)", flush=True
        )
    return runs


def headline(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was measured so far."""
    found: dict[str, Any] = {}
    for run in runs:
        if run["part"] == "worlds":
            found["slope_" + run["study"].replace(", ", "_").replace(" ", "_").lower()] = run["slope"]
    for part, name in (("choice", "worlds"), ("text", "text")):
        mine = [run for run in runs if run["part"] == part]
        if mine:
            means = {key: round(float(np.mean([run[f"spearman_{key}"] for run in mine])), 4) for key in ("rule", "weak_error")}
            found[f"spearman_{name}"] = means
    rows = [row for run in runs if run["part"] == "text" for row in run["teachers"]]
    if rows:
        gain, misfit = np.array([row["gain"] for row in rows]), np.array([row["misfit"] for row in rows])
        found["slope_text"] = round(float(gain @ misfit / (misfit @ misfit)), 4)
    return found


PARTS = {"worlds": world_runs, "choice": choice_runs, "text": text_runs}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.misfit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=PARTS, help="one part; the others stay as they were measured")
    args = parser.parse_args(argv)
    commit = git_commit()
    parts = [args.only] if args.only else list(PARTS)
    runs = [run for run in load_runs(NAME) if run["part"] not in parts]
    for part in parts:
        runs += [{"commit": commit, **run} for run in PARTS[part]()]
    save(NAME, headline=headline(runs), runs=runs, commit=commit)
    print(headline(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
