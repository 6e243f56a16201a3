"""`python -m benchmarks.resume [--kills 20] [--seconds S]`: kill -9 at random moments, resumed each time, against the unbroken run.

The same small lab run, over HTTP from a student that costs money, once unbroken and then again and again with kills at random moments of
its life (loading, warm start, steps, validation, checkpoints, export, evaluation), each run resumed until it ends. Compared are

- the weights: the exported teacher and every file of the last checkpoint's model and optimiser, byte by byte;
- metrics.jsonl, validation.jsonl and the `eval` block: equal but for time and counters;
- the account: what is booked as spent is what the server billed, each answer once, those of lost steps too. An answer that was under way at
  a kill may be booked or stay held, so the amount booked must be that of all others and of some set of those.

Resumable: finished runs stand in the results file; `--seconds` ends it after the run in which they are over. Writes
`benchmarks/results/resume.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results_file import load_runs, save
from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from lab.serve import lab_server
from student_clients.budget import ACCOUNT, Price
from student_clients.embedded import EmbeddedStudent
from teacher.run_directory import RunDirectory, git_commit

NAME = "resume"
PRICE = Price.model_validate({"input": 1, "output": 4, "as_of": "2026-11-20"})
FLAGS = [
    "--max_steps=8", "--eval.every=2", "--eval.n=24", "--eval.include=[]", "--eval.patience=null", "--task.train_size=120",
    "--task.validation_size=16", "--teacher.warm_start.questions=12", "--teacher.warm_start.samples=4", "--teacher.warm_start.epochs=1",
    "--trl.per_device_train_batch_size=24", "--trl.num_generations=4", "--student.kind=openai", "--student.model=student",
    "--budget.usd=100", "--budget.prices={student: {input: 1, output: 4, as_of: 2026-11-20}}",
]  # fmt: skip
LATE_S = 1.0
"""An answer that ended so long before a kill was booked before it: a commit takes milliseconds."""
COUNTERS = ("step_time",)


@dataclass
class Meter:
    """The student behind the server, and what each answer of it would be billed."""

    student: EmbeddedStudent
    billed: list[tuple[float, float, int]] = field(default_factory=list)
    """(begun, ended, nano-dollars) of every answer; ended is infinite while it is under way."""

    @property
    def name(self) -> str:
        return self.student.name

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1) -> list[Completion]:
        begun = time.monotonic()
        found = await self.student.complete(messages, params, n=n)
        nano = sum(PRICE.nano(completion.prompt_tokens, completion.completion_tokens) for completion in found)
        self.billed.append((begun, time.monotonic(), nano))
        return found


def account_holds(spent: int, billed: Sequence[tuple[float, float, int]], kills: Sequence[float]) -> bool:
    """Whether `spent` is the price of every answer that was not under way at a kill, and of some set of those that were."""
    unsure = [nano for begun, ended, nano in billed if any(begun <= kill and ended > kill - LATE_S for kill in kills)]
    left = spent - (sum(nano for _, _, nano in billed) - sum(unsure))
    sums = {0}
    for nano in unsure:
        sums |= {known + nano for known in sums if known + nano <= left}
    return left in sums


def digest(run: RunDirectory) -> dict[str, Any]:
    """What must be equal of two runs."""
    last = run.last_checkpoint()
    assert last is not None
    files = [run.teacher / "model.safetensors", last[1] / "model.safetensors", last[1] / "optimizer.pt"]
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    metrics = [{key: value for key, value in line.items() if key not in COUNTERS} for line in run.lines("metrics.jsonl")]
    validation = [{key: value for key, value in line.items() if key not in ("calls", "requests")} for line in run.lines("validation.jsonl")]
    return {
        "weights": {path.parent.name + "/" + path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "metrics": metrics,
        "validation": validation,
        "eval": {key: summary["eval"][key] for key in ("n", "arms", "vs_raw", "verdict")},
        "episodes": [(line["step"], line["example_id"], line["instruction"]["text"]) for line in run.lines("episodes.jsonl")],
    }


def carry_out(folder: Path, rng: random.Random, *, most_kills: int, lasts_s: float) -> dict[str, Any]:
    """One run in `folder`, killed at most so often, each time at a random moment of an unbroken run's life; its digest and its account."""
    environment = {**os.environ, "WST_RUNS_DIR": str(folder / "runs"), "WST_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    started, moments = time.monotonic(), []
    kills: list[float] = []
    with lab_server("arithmetic", "student") as server:
        meter = Meter(server.student)
        server.student = meter  # type: ignore[assignment]
        while True:
            begun = bool(list(folder.glob("runs/*/config.yaml")))
            command = [sys.executable, "-m", "teacher.train", *FLAGS, f"--student.base_url={server.url}"]
            if begun:
                command = [*command[:3], f"--resume={next(folder.glob('runs/*'))}"]
            with (folder / "log").open("a") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                code = process.wait(rng.uniform(0.15, 1.0) * lasts_s if len(kills) < most_kills else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills.append(time.monotonic())
                found = [RunDirectory(path) for path in folder.glob("runs/*")]
                moments.append(found[0].lines("metrics.jsonl")[-1]["step"] if found and found[0].lines("metrics.jsonl") else 0)
                if found and found[0].finished:  # killed when all was written: there is nothing left to go on with
                    code = 0
                    break
    if code:
        raise RuntimeError(f"exit {code}: {(folder / 'log').read_text()[-2000:]}")
    run = RunDirectory(next(folder.glob("runs/*")))
    totals = asyncio.run(run.account().totals(ACCOUNT))
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    return {
        "digest": digest(run),
        "kills": len(kills),
        "killed_after_steps": moments,
        "seconds": round(time.monotonic() - started, 1),
        "answers_billed": len(meter.billed),
        "answers_again": len(meter.billed) - len(server.different),
        "account": account_holds(totals["spent"], meter.billed, kills) and round(summary["student"]["cost_usd"] * 1e9) == totals["spent"],
        "spent_nano": totals["spent"],
        "held_nano": totals.get("held", 0),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="kills over all runs (default 20)")
    parser.add_argument("--kills-a-run", type=int, default=4, help="kills of one run at most (default 4)")
    parser.add_argument("--seconds", type=float, help="start no further run after so long; the rest another time")
    parser.add_argument("--no-save", action="store_true", help="only print")
    args = parser.parse_args()
    began, commit = time.monotonic(), git_commit()
    runs = [] if args.no_save else load_runs(NAME)
    with tempfile.TemporaryDirectory() as name:
        # The unbroken run is made again in every piece: weights are equal on one machine, and not on another one.
        (Path(name) / "whole").mkdir()
        whole = carry_out(Path(name) / "whole", random.Random(0), most_kills=0, lasts_s=0)
        assert whole["account"], "the account of a run that nobody killed is exact"
        while (done := sum(run["kills"] for run in runs)) < args.kills and (not args.seconds or time.monotonic() - began < args.seconds):
            folder = Path(name) / str(len(runs))
            folder.mkdir()
            rng = random.Random(f"resume/{len(runs)}")
            run = carry_out(folder, rng, most_kills=min(args.kills_a_run, args.kills - done), lasts_s=whole["seconds"])
            different = [key for key, value in run.pop("digest").items() if value != whole["digest"][key]]
            runs.append({**run, "different": different, "identical": not different and run["account"], "commit": commit})
            print(json.dumps(runs[-1]), flush=True)
            headline = {
                "kills": sum(run["kills"] for run in runs),
                "identical": sum(run["identical"] for run in runs),
                "runs": len(runs),
            }
            if not args.no_save:
                save(NAME, headline=headline, runs=runs, commit=commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
