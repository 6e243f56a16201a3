"""`python -m benchmarks.calls_to_target [--sweep ours|plain|all]`: student calls until validation reaches 0.90 x oracle.

Two ways to the same target, on the same questions, teacher base, student and instruction length:

- `ours`: `python -m teacher.train` with the warm start and RL; everything it asks counts, warm start, raw baselines and validation too;
- `plain`: TRL's `GRPOTrainer` on the untrained base, paid by the plain grade; its validations are not counted.

A call is a request without a cache; `paid` is what a cache leaves of it. Each way has a sweep of 12 points on the
arithmetic world with seed 0; its best point then runs on all seeds and, unchanged, on the alignment world, whose own preset is not used.
Our preset's other values were chosen on the arithmetic world, as plain's batch of 256 and constant rate were. Every run stops where it
reaches the target, a plain one also at LIMIT times our calls, and is then a bound; within the sweep plain stops where another point has
reached the target with fewer. TRL's own defaults stand beside them. Resumable: a run that stands in
`benchmarks/results/calls_to_target.json` is not repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.results_file import load_runs, save
from teacher.run_directory import RunDirectory, git_commit

NAME = "calls_to_target"
TARGET = 0.90
LIMIT = 8
SEEDS = (0, 1, 2)
WORLDS = {"arithmetic": "lab_arithmetic_grpo", "alignment": "lab_alignment_grpo"}
VALIDATED = 200
"""Validation questions."""
EVERY = 5
"""Steps between validations."""

OURS = [
    {"questions": questions, "samples": samples, "learning_rate": rate}
    for questions, samples, rate in product((300, 600, 1000), (8, 24), (4e-4, 8e-4))
]
PLAIN = [
    {"learning_rate": rate, "num_generations": group, "beta": beta, "scale_rewards": scale}
    for rate, group, (beta, scale) in product((3e-4, 6e-4), (8, 16), ((0.0, "group"), (0.0, "none"), (0.02, "none")))
]
PLAIN_BATCH = 256
"""Completions a step: smaller ones collapse to one instruction here."""
DEFAULTS: dict[str, Any] = {"defaults": True}
"""TRL's own values: learning rate 1e-6, decayed to 0, groups and batches of 8."""


def oracle_of(world: str) -> float:
    """The oracle's mean on the validation questions."""
    from evaluation.arms import OraclePolicy, run_arm
    from rewards.episode import correct

    line = Line(world)
    episodes = asyncio.run(
        run_arm("oracle", OraclePolicy(line.validation), line.validation, student=line.student, params=line.params, reward=line.reward)
    )
    return statistics.fmean(grade for episode in episodes if (grade := correct(episode)) is not None)


class Line:
    """Questions, student and plain grade of a world, with nothing that shapes the reward."""

    def __init__(self, world: str) -> None:
        from rewards.rubric import Rubric
        from student_clients import make_student, sampling
        from tasks import TASKS
        from teacher.train import read_config

        config = self.config = read_config(WORLDS[world], [f"--task.validation_size={VALIDATED}"])
        task = TASKS[config.task.name]
        self.train = task.load(config.task, "train", config.task.train_size)
        self.validation = task.load(config.task, "validation", VALIDATED)
        account = RunDirectory(Path(os.environ["WST_CACHE_DIR"])).account
        self.student = make_student(config.student, config.budget, account)
        self.params = sampling(config.student)
        unshaped = config.reward.model_copy(update={"silence_bonus": 0.0, "harm_penalty": 0.0, "ill_formed_penalty": 0.0, "second": None})
        self.reward = Rubric(unshaped, self.student, self.params, budget=config.budget, account=account)


def ours(point: dict[str, Any], world: str, seed: int, target: float) -> dict[str, Any]:
    """Our run, until a validation in its log reaches `target` or its last step."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            WORLDS[world], f"--seed={seed}", f"--task.validation_size={VALIDATED}", f"--eval.every={EVERY}", "--eval.patience=null",
            "--max_steps=50", "--eval.n=2", "--eval.include=[]", f"--teacher.warm_start.questions={point['questions']}",
            f"--teacher.warm_start.samples={point['samples']}", f"--trl.learning_rate={point['learning_rate']}", "--trl.scale_rewards=none",
        ]  # fmt: skip
        environment = {**os.environ, "WST_RUNS_DIR": f"{folder}/runs", "WST_CACHE_DIR": f"{folder}/cache"}
        command = [sys.executable, "-m", "teacher.train", *flags]
        curve: list[dict[str, Any]] = []
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as running:
            try:
                while (ended := running.poll()) is None and _there(curve, target) is None:
                    time.sleep(1)
                    curve = _curve(Path(folder, "runs"))
            finally:
                running.kill()
        curve = _curve(Path(folder, "runs"))
        if ended:
            raise subprocess.CalledProcessError(ended, command)
        return {"curve": curve}


def _there(curve: list[dict[str, Any]], target: float) -> dict[str, Any] | None:
    """The first validation that reaches the target."""
    return next((line for line in curve if line["right"] >= target), None)


def _curve(runs: Path) -> list[dict[str, Any]]:
    """The validations so far of the one run in the folder."""
    lines = [line for run in runs.glob("*") for line in RunDirectory(run).lines("validation.jsonl")]
    return [{"step": v["step"], "right": v["right"], "calls": v["requests"], "paid": v["calls"]} for v in lines]


def plain(point: dict[str, Any], world: str, seed: int, target: float, limit: int) -> dict[str, Any]:
    """TRL's trainer alone, until its greedy instructions reach `target` on validation or it has asked `limit` times."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback, set_seed
    from trl import GRPOConfig, GRPOTrainer

    from evaluation.arms import run_arm
    from rewards.episode import all_of, correct, run_episode
    from teacher.arms import teacher_prompt
    from teacher.policy import TransformersPolicy, as_instruction, end_ids, load_model

    set_seed(seed)
    line = Line(world)
    prompt, tokens = teacher_prompt(line.config), line.config.teacher.max_instruction_tokens or 1
    model, tokenizer = load_model(line.config.teacher.model)
    ends, examples = end_ids(model, tokenizer), {example.id: example for example in line.train}
    curve: list[dict[str, Any]] = []
    asked = watched = 0

    async def score(*, completion_ids: list[list[int]], example_id: list[str], **_: Any) -> list[float | None]:
        nonlocal asked
        asked += len(completion_ids)
        return [
            correct(episode)
            for episode in await all_of(
                run_episode(
                    examples[name], as_instruction(list(ids), tokenizer, ends), arm="train", student=line.student, params=line.params,
                    reward=line.reward,
                )
                for ids, name in zip(completion_ids, example_id, strict=True)
            )
        ]  # fmt: skip

    class Validate(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            nonlocal watched
            if asked < (len(curve) + 1) * EVERY * PLAIN_BATCH:
                return
            policy = TransformersPolicy(model, tokenizer, prompt, max_instruction_tokens=tokens)
            paid = line.student.stats.calls - watched
            episodes = asyncio.run(
                run_arm("validation", policy, line.validation, student=line.student, params=line.params, reward=line.reward)
            )
            watched = line.student.stats.calls - paid
            right = statistics.fmean(grade for episode in episodes if (grade := correct(episode)) is not None)
            curve.append({"step": state.global_step, "right": right, "calls": asked, "paid": paid})
            print(f"plain {point} step {state.global_step}: {right:.1%} after {asked} calls", file=sys.stderr)
            control.should_training_stop = right >= target or asked >= limit

    set_by_sweep = {} if point == DEFAULTS else {**point, "per_device_train_batch_size": PLAIN_BATCH, "lr_scheduler_type": "constant"}
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            output_dir=folder, max_steps=limit // (8 if point == DEFAULTS else PLAIN_BATCH) + 1, max_completion_length=tokens, seed=seed,
            save_strategy="no", report_to="none", use_cpu=not torch.cuda.is_available(), bf16=torch.cuda.is_available(), disable_tqdm=True,
            logging_steps=100, remove_unused_columns=False, gradient_checkpointing=False, **set_by_sweep,
        )  # fmt: skip
        rows = [
            {"prompt": [message.model_dump() for message in prompt.messages(example.public())], "example_id": example.id}
            for example in line.train
        ]
        GRPOTrainer(
            model=model, reward_funcs=score, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            callbacks=[Validate()],
        ).train()  # fmt: skip
    return {"curve": curve}


def measured(way: str, point: dict[str, Any], world: str, seed: int, target: float, limit: int, commit: str | None) -> dict[str, Any]:
    """One run in a process of its own."""
    if way == "ours":
        found = ours(point, world, seed, target)
    else:
        with tempfile.TemporaryDirectory() as cache:
            task = json.dumps({"point": point, "world": world, "seed": seed, "target": target, "limit": limit})
            output = subprocess.run(
                [sys.executable, "-m", "benchmarks.calls_to_target", "--plain", task],
                env={**os.environ, "WST_CACHE_DIR": cache}, check=True, stdout=subprocess.PIPE, text=True,
            ).stdout  # fmt: skip
            found = json.loads(output.splitlines()[-1])
    there = _there(found["curve"], target)
    last = found["curve"][-1]
    return {
        "way": way,
        "point": point,
        "world": world,
        "seed": seed,
        "target": round(target, 4),
        "reached": there is not None,
        "calls": (there or last)["calls"],
        "paid": (there or last)["paid"],
        "best": max(line["right"] for line in found["curve"]),
        "curve": found["curve"],
        "commit": commit,
    }


class Measurement:
    """What is measured already, and what is next."""

    def __init__(self) -> None:
        self.runs = load_runs(NAME)
        self.commit = git_commit()
        self.targets: dict[str, float] = {}

    def of(self, way: str, point: dict[str, Any], world: str, seed: int, limit: int) -> dict[str, Any]:
        wanted = {"way": way, "point": point, "world": world, "seed": seed}
        for run in self.runs:
            if wanted.items() <= run.items():
                return run
        if world not in self.targets:
            with tempfile.TemporaryDirectory() as cache:
                os.environ["WST_CACHE_DIR"] = cache
                self.targets[world] = TARGET * oracle_of(world)
        run = measured(way, point, world, seed, self.targets[world], limit, self.commit)
        self.runs.append(run)
        save(NAME, headline=headline(self.runs), runs=self.runs, commit=self.commit)
        print(json.dumps({key: value for key, value in run.items() if key != "curve"}), flush=True)
        return run

    def best(self, way: str, points: list[dict[str, Any]], limit: int) -> dict[str, Any]:
        """The sweep's winner: the fewest calls to the target, else the best accuracy. A plain run ends where it can win no more."""
        runs: list[dict[str, Any]] = []
        for point in points:
            least = min((run["calls"] for run in runs if run["reached"]), default=limit)
            runs.append(self.of(way, point, "arithmetic", 0, min(limit, least)))
        winner = min(runs, key=lambda run: (not run["reached"], run["calls"] if run["reached"] else -run["best"]))
        return dict(winner["point"])


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By world: the median over the seeds of our calls over plain TRL's, each at its best point; a bound where plain got nowhere."""
    found: dict[str, Any] = {}
    for world in WORLDS:
        pairs = list(_pairs(runs, world))
        there = all(o["reached"] for o, _ in pairs)
        if len(pairs) == len(SEEDS):
            found[world] = {
                # Where ours did not get there, there is no ratio to speak of.
                "ratio": round(statistics.median(o["calls"] / p["calls"] for o, p in pairs), 4) if there else None,
                "ratio_with_cache": round(statistics.median(o["paid"] / p["paid"] for o, p in pairs), 4) if there else None,
                "ours_reached": sum(o["reached"] for o, _ in pairs),
                "plain_reached": sum(p["reached"] for _, p in pairs),
            }
    return found


def _pairs(runs: list[dict[str, Any]], world: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(ours, plain) of each seed at the points that ran on every seed."""

    def run_on_all(way: str) -> list[dict[str, Any]]:
        here = [run for run in runs if run["way"] == way and run["world"] == world and run["point"] != DEFAULTS]
        for point in [run["point"] for run in here]:
            of_point = [run for run in here if run["point"] == point]
            if {run["seed"] for run in of_point} == set(SEEDS):
                return sorted(of_point, key=lambda run: int(run["seed"]))
        return []

    yield from zip(run_on_all("ours"), run_on_all("plain"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls_to_target", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sweep", choices=("ours", "plain", "all"), default="all", help="which part to run now")
    parser.add_argument("--plain", metavar="JSON", help="one run of plain TRL, its result as JSON on the last line (used by this script)")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.plain is not None:
        print(json.dumps(plain(**json.loads(args.plain))))
        return 0
    measurement = Measurement()
    our_point = measurement.best("ours", OURS, 0)
    for world, seed in product(WORLDS, SEEDS):
        measurement.of("ours", our_point, world, seed, 0)
    if args.sweep == "ours":
        return 0
    our_calls = {
        world: max(run["calls"] for run in measurement.runs if run["way"] == "ours" and run["world"] == world and run["point"] == our_point)
        for world in WORLDS
    }
    limits = {world: LIMIT * calls for world, calls in our_calls.items()}
    plain_point = measurement.best("plain", PLAIN, limits["arithmetic"])
    for world, seed in product(WORLDS, SEEDS):
        measurement.of("plain", plain_point, world, seed, limits[world])
    measurement.of("plain", DEFAULTS, "arithmetic", 0, limits["arithmetic"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
