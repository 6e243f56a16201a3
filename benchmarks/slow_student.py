"""`python -m benchmarks.slow_student [--delays 0.2,1,5]`: how much of a slow student's time `rollout_ahead` hides.

The lab student behind HTTP (`lab.serve`), each answer DELAY seconds late, 64 requests at a time, batches of 256. Seconds a step over the 30
steps after the first 5 of

- `synchronous`: `rollout_ahead: 0`, the plain trainer,
- `teacher`: the same run answered from that one's cache, so the teacher's work alone,
- `student`: the same batches fired through the same client one after another, with no learner,
- `ahead`: `rollout_ahead: 1`.

No arrangement can be faster than the slower of teacher and student: that limit over `ahead` is the share reached. Both trainers' teachers
are then asked the same test questions, each delay with a seed of its own: what being one batch behind costs. Resumable: a delay that stands
in `benchmarks/results/slow_student.json` is not repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results_file import cpu_seconds, load_runs, save
from evaluation.compare_runs import read_run
from evaluation.paired import compare
from exchange.records import Episode
from lab.serve import LabServer, lab_server
from rewards.baseline import RawOutcomes
from rewards.episode import all_of, run_episode
from rewards.rubric import Rubric
from student_clients import make_student, sampling
from tasks import TASKS
from teacher.run_directory import RunDirectory, git_commit
from teacher.train import read_config

NAME = "slow_student"
BEFORE, STEPS = 5, 30
CONCURRENCY = 64
TESTED = 500
"""Test questions."""
DELAYS = (0.2, 1, 5)


def flags(server: LabServer, *, steps: int = BEFORE + STEPS, ahead: int = 0, seed: int = 0, tested: int = 2) -> list[str]:
    return [
        f"--student.base_url={server.url}", "--student.model=student", "--student.timeout_s=30",
        f"--student.pacing.concurrency={CONCURRENCY}",
        f"--seed={seed}", f"--max_steps={steps}", f"--rollout_ahead={ahead}", f"--eval.every={BEFORE + STEPS}", f"--eval.n={tested}",
        "--eval.include=[]", "--task.validation_size=2", "--teacher.warm_start.questions=300", "--teacher.warm_start.samples=8",
    ]  # fmt: skip


def train(server: LabServer, folder: Path, cache: Path, **settings: int) -> RunDirectory:
    environment = {**os.environ, "WST_RUNS_DIR": str(folder), "WST_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    cpu_seconds([sys.executable, "-m", "teacher.train", *flags(server, **settings)], environment)
    return RunDirectory(next(folder.iterdir()))


def seconds_a_step(run: RunDirectory) -> float:
    return statistics.fmean(line["step_time"] for line in run.lines("metrics.jsonl")[BEFORE:])


async def fire(server: LabServer, run: RunDirectory, cache: Path) -> float:
    """Seconds a batch of the run's own questions and instructions, raw baselines included, through the run's client."""
    os.environ["WST_CACHE_DIR"] = str(cache)
    config = read_config(None, flags(server))
    account = RunDirectory(cache).account
    student = make_student(config.student, config.budget, account)
    params = sampling(config.student)
    rubric = Rubric(config.reward, student, params, budget=config.budget, account=account)
    raw = RawOutcomes(student=student, params=params, reward=rubric)
    examples = {example.id: example for example in TASKS[config.task.name].load(config.task, "train", config.task.train_size)}
    seconds: list[float] = []
    server.delay_s, delay_s = 0.0, server.delay_s
    for step in range(1, BEFORE + STEPS + 1):
        if step == BEFORE + 1:  # what the run had in its cache by then is in this one too
            server.delay_s = delay_s
            seconds.clear()
        lines = [line for line in run.lines("episodes.jsonl") if line["step"] == step]
        asked = [Episode.model_validate({key: value for key, value in line.items() if key != "step"}) for line in lines]
        started = time.perf_counter()
        await asyncio.gather(
            raw([examples[episode.example_id] for episode in asked]),
            all_of(
                run_episode(examples[e.example_id], e.instruction, arm="train", student=student, params=params, reward=rubric)
                for e in asked
            ),
        )
        seconds.append(time.perf_counter() - started)
    await student.aclose()
    return statistics.fmean(seconds)


def accuracy(synchronous: RunDirectory, ahead: RunDirectory) -> dict[str, Any]:
    """Of both teachers on the same test questions, and what `ahead` has more or less than `synchronous`, with its interval."""
    first, second = (read_run(run.path).scores["trained"] for run in (synchronous, ahead))
    pair = compare(list(second.values()), [first[question] for question in second])
    return {
        "synchronous_right": statistics.fmean(score for score in first.values() if score is not None),
        "ahead_right": statistics.fmean(score for score in second.values() if score is not None),
        "ahead_minus_synchronous": [round(value, 4) for value in (pair.difference, pair.low, pair.high)],
    }


def measure(delay_s: float, seed: int, commit: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, lab_server("arithmetic", "student", seed=0) as server:
        folder = Path(name)
        for cache in ("synchronous", "ahead"):  # the warm start is of no interest here: it is answered from these without delay
            train(server, folder / f"before-{cache}", folder / cache, steps=0, seed=seed)
        server.delay_s = delay_s
        run = train(server, folder / "runs-synchronous", folder / "synchronous", seed=seed, tested=TESTED)
        teacher = train(server, folder / "runs-teacher", folder / "synchronous", seed=seed)
        ahead = train(server, folder / "runs-ahead", folder / "ahead", ahead=1, seed=seed, tested=TESTED)
        seconds = {
            "synchronous": seconds_a_step(run),
            "teacher": seconds_a_step(teacher),
            "ahead": seconds_a_step(ahead),
            "student": asyncio.run(fire(server, run, folder / "fired")),
        }
        right = accuracy(run, ahead)
    limit = max(seconds["teacher"], seconds["student"])
    return {
        "delay_s": delay_s,
        "seed": seed,
        **{f"{name}_s": round(value, 3) for name, value in seconds.items()},
        "share_of_limit": round(limit / seconds["ahead"], 3),
        "synchronous_share_of_limit": round(limit / seconds["synchronous"], 3),
        **right,
        "load_average": round(os.getloadavg()[1], 2),
        "commit": commit,
    }


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    lost = [run["ahead_minus_synchronous"][0] for run in runs]
    return {
        "lowest_share_of_limit_from_1_s": min((run["share_of_limit"] for run in runs if run["delay_s"] >= 1), default=None),
        "ahead_minus_synchronous": {f"{run['delay_s']:g}": run["ahead_minus_synchronous"] for run in runs},
        "mean_of_them": round(statistics.fmean(lost), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_student", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--delays", default=",".join(map(str, DELAYS)), help="seconds added to each answer, comma separated")
    args = parser.parse_args()
    runs = [run for run in load_runs(NAME) if "seed" in run]  # rows of before accuracy was looked at are measured anew
    commit = git_commit()
    for delay_s in (float(delay) for delay in args.delays.split(",")):
        if any(run["delay_s"] == delay_s for run in runs):
            continue
        runs.append(measure(delay_s, DELAYS.index(delay_s) if delay_s in DELAYS else 0, commit))
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
        print(json.dumps(runs[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
