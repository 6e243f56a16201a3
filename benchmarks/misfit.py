"""Whether misfit tells the gain: `python -m benchmarks.misfit`, a few minutes on one thread. No model is trained beyond linear heads.

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
from benchmarks.results_file import RESULTS, save
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


def text_runs() -> tuple[list[dict[str, Any]], list[Point]]:
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
    return runs, points


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.misfit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--no-save", action="store_true", help="print alone")
    args = parser.parse_args(argv)
    commit = git_commit()
    runs, points = [], []
    for name in STUDIES:
        run, tasks = world_study(name)
        runs.append(run)
        print(
            f"{name}: slope {run['slope']}, correlation {run['correlation']}, {run['tasks_that_gain']} of {run['tasks']} gain", flush=True
        )
        if name in SHOWN:
            points += [Point(task.misfit, task.gain, name) for task in tasks]
    for seed in range(CHOICE_SEEDS):
        runs.append({"part": "choice", "study": "random worlds", "seed": seed, **ranks(teachers(seed))})
        print(
            f"choice, world {seed}: Spearman {runs[-1]['spearman_rule']} (rule), {runs[-1]['spearman_weak_error']} (weak error)", flush=True
        )
    more, text_points = text_runs()
    runs += more
    by_study = {run["study"]: run for run in runs[: len(STUDIES)]}
    gains = np.array([[p.misfit, p.gain] for p in text_points])

    def mean(part: str, key: str) -> float:
        return round(float(np.mean([run[key] for run in runs if run["part"] == part])), 4)

    headline = {
        "slope_realizable": by_study["realizable"]["slope"],
        "slope_nearly_realizable": by_study["nearly realizable"]["slope"],
        "slope_roles_swapped": by_study["roles swapped"]["slope"],
        "slope_text": round(float(gains[:, 1] @ gains[:, 0] / (gains[:, 0] @ gains[:, 0])), 4),
        "spearman_worlds": {"rule": mean("choice", "spearman_rule"), "weak_error": mean("choice", "spearman_weak_error")},
        "spearman_text": {"rule": mean("text", "spearman_rule"), "weak_error": mean("text", "spearman_weak_error")},
    }
    print(headline)
    if not args.no_save:
        plot("misfit_worlds", points, "Gain against misfit on random worlds")
        plot("misfit_text", text_points, "Gain against misfit on HH-RLHF pairs")
        save(NAME, headline=headline, runs=runs, commit=commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
