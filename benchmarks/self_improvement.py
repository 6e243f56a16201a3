"""`python -m benchmarks.self_improvement [--seeds 0 1 2] [--rounds N]`: a teacher that learns from its own service, round after round.

A real server (keys, a log on disk) serves the lab's test questions to simulated users, by public commands and HTTP alone:

1. `teacher.train --stage=sft` makes a first, weak teacher: a warm start on few questions of the training split.
2. An experiment serves it. An arm beside it draws its instructions at temperature 1, since a greedy teacher's log holds only what it says
   first. The lab student answers, users report to `/outcomes` whether it was right, and the key's owner agreed that texts are kept.
3. `evaluation.export --texts` and `teacher.collect` make the log's instructions that worked into rows; the first command again with
   `--teacher.warm_start.file` makes the next teacher. No right answer is in the log, so there is no RL: outcomes are known of what was
   said, and only of that.
4. `PUT /teachers/NAME` has it serve beside the others without a restart; it enters the next experiment against its predecessor, on
   questions that nobody asked before, and the experiment's own report says whether it is better. From there on, 3 again.

Outside of the experiments every teacher then answers the same fresh questions: what the reports should have found. A seed takes about ten
minutes of one core. Resumable: a round that stands in the results is not repeated; one that was broken off is served anew under another
experiment's name, beside the texts that its users left. Writes `benchmarks/results/self_improvement.json` and a table of docs/evidence.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.results_file import EVIDENCE, cpu_seconds, load_runs, save, write_docs
from benchmarks.service_overhead import free_port
from benchmarks.service_process import ServiceProcess, persistent
from evaluation.sequences import half_width, tuning
from exchange.protocols import SamplingParams
from exchange.records import Example, Message
from lab.weights_folder import model_dir
from rewards.correctness import Grader, grade_answer
from student_clients.embedded import EmbeddedStudent
from tasks import lab_arithmetic
from teacher.run_directory import git_commit, runs_dir

NAME = "self_improvement"
FIRST = 150
"""Questions of the first teacher's warm start; the shipped one had 1,000."""
TEACHERS = ("first", "second", "third")
USERS = (500, 700, 1000)
"""Of each experiment, one question each. The last teachers lie closest together."""
TRUTH = 150
"""Fresh questions that every teacher answers outside of the experiments."""
TENANT, METRIC, ALPHA, CONCURRENCY = "lab", "right", 0.05, 16
EXPLORE = 1.0


def arms_of(number: int) -> dict[str, float]:
    """The arms of a round's experiment with their weights, the control first. A name with `-drawn` samples."""
    if number == 0:
        return {"raw": 0.25, "first": 0.25, "first-drawn": 0.5}
    before, now = TEACHERS[number - 1], TEACHERS[number]
    return {before: 0.4, now: 0.4, f"{now}-drawn": 0.2}


def kind_of(question: Example) -> str:
    """Family and procedure: what a teacher has to tell apart."""
    oracle = question.oracle or ""
    return f"{question.family}/{'second' if 'second' in oracle else 'first'}"


@dataclass
class Loop:
    """One seed's loop: its folder, and what its users share."""

    folder: Path
    seed: int
    questions: Sequence[Example]
    student: EmbeddedStudent
    grader: Grader

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ, "WST_RUNS_DIR": str(self.folder / "runs"), "WST_CACHE_DIR": str(self.folder / "cache"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def command(self, *words: str) -> str:
        """A public command's output. Raises CalledProcessError."""
        done = subprocess.run([sys.executable, "-m", *words], env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout

    async def right(self, question: Example, messages: Sequence[dict[str, Any]]) -> float:
        (completion,) = await self.student.complete([Message(**message) for message in messages], SamplingParams(max_tokens=96))
        score = await grade_answer(self.grader, question, completion)
        assert score.value is not None
        return score.value


def train(loop: Loop, name: str, rows: Path | None) -> dict[str, Any]:
    """Make a teacher as run directory `name`, unless it stands there; what its run says of it."""
    run = loop.folder / "runs" / name
    if not (run / "summary.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        flags = ["--stage=sft", f"--teacher.warm_start.questions={FIRST}", f"--seed={loop.seed}", f"--run.dir={run}"]
        flags += ["--task.validation_size=60", "--eval.n=60", "--eval.include=[]"]
        flags += [] if rows is None else [f"--teacher.warm_start.file={rows}"]
        cpu_s = cpu_seconds([sys.executable, "-m", "teacher.train", *flags], loop.environment)
        (run / "cpu_s.json").write_text(json.dumps(cpu_s), encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    cpu_s = json.loads((run / "cpu_s.json").read_text(encoding="utf-8"))
    return {"teacher": name, "sha256": summary["teacher_sha256"], "step": summary["teacher_step"], "cpu_s": cpu_s}


def collect(loop: Loop, number: int) -> tuple[Path, dict[str, int]]:
    """(instructions.jsonl, counts) of what the service has logged so far."""
    texts, out = loop.folder / f"texts-{number}.jsonl", loop.folder / f"collected-{number}"
    if not (out / "held_out.jsonl").exists():  # else what a broken-off round left would come into what its teacher is said to have learnt
        exported = loop.command("evaluation.export", str(loop.folder / "events.db"), "--texts", "--tenant", TENANT)
        texts.write_text(exported, encoding="utf-8")
        loop.command("teacher.collect", str(texts), "--out", str(out), "--metric", METRIC)
    rows = [json.loads(line) for line in (out / "instructions.jsonl").read_text(encoding="utf-8").splitlines()]
    held_out = (out / "held_out.jsonl").read_text(encoding="utf-8").count("\n")
    requests = sum("query" in json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines())
    silent = sum(not row["instruction"] for row in rows)
    return out / "instructions.jsonl", {"requests": requests, "kept": len(rows), "of_them_silence": silent, "held_out": held_out}


@contextmanager
def service(loop: Loop) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """(address, the app's headers, the operator's) of a running server with the first teacher."""
    keys = loop.folder / "keys.json"
    keys.unlink(missing_ok=True)
    create = ("server.keys", "--keys", str(keys), "create", "--tenant", TENANT)
    app = loop.command(*create, "--scopes", "instruct,outcomes", "--capture-text").strip()
    operator = loop.command(*create, "--scopes", "experiments,admin").strip()
    settings = {
        **loop.environment,
        "WST_EVENT_LOG": str(loop.folder / "events.db"),
        "WST_KEYS": str(keys),
        "WST_TEACHER": str(loop.folder / "runs" / TEACHERS[0]),
        "WST_DEADLINE_MS": "20000",  # the machine may be busy; how soon a teacher answers is measured elsewhere
    }
    process = ServiceProcess(free_port(), settings)
    process.start()
    try:
        yield process.url, {"Authorization": f"Bearer {app}"}, {"Authorization": f"Bearer {operator}"}
    finally:
        process.kill()


async def enlist(client: httpx2.AsyncClient, operator: dict[str, str], arms: Sequence[str]) -> dict[str, str]:
    """Have every teacher that the arms name serve beside the others; the arms' sums."""
    sums = {}
    for arm in arms:
        if arm != "raw":
            run, drawn = arm.removesuffix("-drawn"), arm.endswith("-drawn")
            body = {"run": run, "temperature": EXPLORE if drawn else 0.0}
            got = await client.put(f"/teachers/{arm}", json=body, headers=operator)
            sums[arm] = got.raise_for_status().json()["sha256"]
    return sums


async def serve_round(loop: Loop, number: int, asked: Sequence[Example]) -> dict[str, Any]:
    """One experiment: every question is one user's. What its report says, and what the teachers' words hit by kind of question."""
    weights = arms_of(number)
    hits: dict[str, Counter[str]] = {arm: Counter() for arm in weights}
    seen: dict[str, Counter[str]] = {arm: Counter() for arm in weights}
    with service(loop) as (url, app, operator):
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            sums = await enlist(client, operator, list(weights))
            known = (await client.get("/experiments", headers=operator)).raise_for_status().json()["experiments"]
            name = f"round-{number}-{len(known)}"
            arms = [
                {"name": arm, "weight": weight, **({"raw": True} if arm == "raw" else {"teacher": sums[arm]})}
                for arm, weight in weights.items()
            ]
            made = {
                "id": name, "arms": arms, "control": next(iter(weights)), "metric": {"name": METRIC, "kind": "binary"}, "alpha": ALPHA,
                "planned_n": round(len(asked) * sum(list(weights.values())[:2])),
            }  # fmt: skip
            (await client.post("/experiments", json=made, headers=operator)).raise_for_status()
            waiting = list(enumerate(asked))[::-1]

            async def users() -> None:
                while waiting:
                    user, question = waiting.pop()
                    body = {"query": question.query, "unit": f"user-{user}", "experiment": name}
                    reply = (await persistent(client, "POST", "/instruct", json=body, headers=app)).raise_for_status().json()
                    value = await loop.right(question, reply["messages"])
                    told = {"request_id": reply["request_id"], "metric": METRIC, "value": value}
                    answer = await persistent(client, "POST", "/outcomes", json=told, headers=app)
                    if reply["experiment"] is None:  # its exposure came to the disk later, and counts, or never: 404
                        continue
                    answer.raise_for_status()
                    arm = reply["experiment"]["arm"]
                    seen[arm][kind_of(question)] += 1
                    hits[arm][kind_of(question)] += bool(value)

            await asyncio.gather(*(users() for _ in range(CONCURRENCY)))
            report = (await client.get(f"/experiments/{name}/report", headers=operator)).raise_for_status().json()
            (await client.post(f"/experiments/{name}/stop", headers=operator)).raise_for_status()
    by_kind = {arm: {kind: [hits[arm][kind], seen[arm][kind]] for kind in sorted(seen[arm])} for arm in weights}
    return {**said(report, weights), "experiment": name, "by_kind": by_kind}


def said(report: dict[str, Any], weights: dict[str, float]) -> dict[str, Any]:
    """What an experiment's report says; each arm's mean with the confidence sequence of one arm, tuned to its planned share."""
    metric = report["metrics"][METRIC]
    arms = {}
    for arm, weight in weights.items():
        n, mean = metric["arms"][arm]["n"], metric["arms"][arm]["mean"]
        rho = tuning(ALPHA, max(2.0, weight * sum(found["n"] for found in metric["arms"].values())))
        half = half_width(math.sqrt(max(mean * (1 - mean), 1 / n)), n, alpha=ALPHA, rho=rho)
        arms[arm] = {"n": n, "mean": round(mean, 4), "low": round(max(0.0, mean - half), 4), "high": round(min(1.0, mean + half), 4)}
    compared = {}
    for arm, found in metric["vs_control"].items():
        decided = next((look["units"] for look in report["paths"][arm] if look["low"] is not None and look["low"] > 0), None)
        figures = {part: round(found[part], 4) for part in ("difference", "low", "high")}
        compared[arm] = {**figures, "p_holm": found["p_holm"], "verdict": found["verdict"], "interval_above_0_at_units": decided}
    return {
        "arms": arms, "control": report["control"], "vs_control": compared, "sample_ratio_p": report["srm"]["p_value"],
        "sentence": report["verdict"],
    }  # fmt: skip


async def truth(loop: Loop, asked: Sequence[Example]) -> dict[str, Any]:
    """Shares right of raw and of every teacher, greedy, on the same fresh questions outside of any experiment."""
    found: dict[str, Any] = {"n": len(asked)}
    with service(loop) as (url, app, operator):
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            await enlist(client, operator, TEACHERS)

            async def one(question: Example, teacher: str) -> float:
                if teacher == "raw":
                    return await loop.right(question, [{"role": "user", "content": question.query}])
                headers = {**app, "WST-Teacher": teacher}
                reply = await persistent(client, "POST", "/instruct", json={"query": question.query}, headers=headers)
                return await loop.right(question, reply.raise_for_status().json()["messages"])

            for teacher in ("raw", *TEACHERS):
                values: list[float] = []
                for start in range(0, len(asked), CONCURRENCY):
                    values += await asyncio.gather(*(one(question, teacher) for question in asked[start : start + CONCURRENCY]))
                found[teacher] = round(sum(values) / len(values), 4)
    return found


def run_seed(loop: Loop, runs: list[dict[str, Any]], commit: str | None) -> Iterator[dict[str, Any]]:
    """The rows of a seed that `runs` does not hold, as they are measured."""
    done = {run["round"] for run in runs if run["seed"] == loop.seed}
    starts = [sum(USERS[:number]) for number in range(len(USERS) + 1)]
    rows: Path | None = None
    for number, name in enumerate(TEACHERS):
        collected: dict[str, int] = {}
        if number:
            rows, collected = collect(loop, number)
        began = time.monotonic()
        made = train(loop, name, rows)
        if number not in done:
            found = asyncio.run(serve_round(loop, number, loop.questions[starts[number] : starts[number + 1]]))
            about = {"seed": loop.seed, "round": number, "commit": commit, "trained": made, "collected": collected}
            yield {**about, **found, "wall_s": round(time.monotonic() - began, 1)}
    if "truth" not in done:
        yield {"seed": loop.seed, "round": "truth", "commit": commit, "shares": asyncio.run(truth(loop, loop.questions[starts[-1] :]))}


def headline(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Verdicts of each next teacher against its predecessor, by seed."""
    verdicts = {}
    for number in range(1, len(TEACHERS)):
        rounds = [run for run in runs if run["round"] == number]
        verdicts[f"{TEACHERS[number]}_against_{TEACHERS[number - 1]}"] = [run["vs_control"][TEACHERS[number]]["verdict"] for run in rounds]
    return {**verdicts, "seeds": len({run["seed"] for run in runs}), "rounds": sum(run["round"] != "truth" for run in runs)}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """A line an arm of each round, then what the teachers are worth outside of the experiments, and what was never hit."""
    heads = "seed|round|arm|users|right (95 %)|against control (95 %)|verdict|above 0 from|learnt from|commit"
    lines = ["| " + " | ".join(heads.split("|")) + " |", "|" + "---|" * 10]
    below = []
    for run in sorted(runs, key=lambda run: (run["seed"], str(run["round"]))):
        if run["round"] == "truth":
            shares = ", ".join(f"{name} {run['shares'][name]:.1%}" for name in ("raw", *TEACHERS))
            below.append(f"Seed {run['seed']}, the same {run['shares']['n']} fresh questions outside of any experiment: {shares}.")
            continue
        for arm, found in run["arms"].items():
            versus, own = run["vs_control"].get(arm), run["trained"]["teacher"]
            counts = run["collected"]
            learnt = f"{counts['kept']:,} of {counts['requests']:,} requests" if counts and arm == own else ""
            against = "control" if versus is None else "{difference:+.1%} ({low:+.1%} .. {high:+.1%})".format(**versus)
            seen = "" if versus is None or versus["interval_above_0_at_units"] is None else f"{versus['interval_above_0_at_units']:,} users"
            cells = [
                str(run["seed"]), str(run["round"]), arm, f"{found['n']:,}", "{mean:.1%} ({low:.1%} .. {high:.1%})".format(**found),
                against, "" if versus is None else versus["verdict"], seen, learnt, str(run["commit"]),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        said = [of for arm, of in run["by_kind"].items() if arm != "raw"]
        kinds = sorted({kind for of in said for kind in of})
        tried = {kind: [sum(of.get(kind, (0, 0))[i] for of in said) for i in (0, 1)] for kind in kinds}
        never = ", ".join(f"{kind} (0 of {asked})" for kind, (hit, asked) in tried.items() if not hit) or "none"
        below.append(f"Seed {run['seed']}, round {run['round']}: kinds of question on which no teacher's words worked: {never}.")
    return "\n".join([*lines, "", *(f"- {line}" for line in below)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.self_improvement", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default 0")
    parser.add_argument("--rounds", type=int, default=100, help="most rounds to measure in this call (default: all)")
    parser.add_argument("--folder", type=Path, help="where loops lie (default: benchmark-self-improvement under the runs' folder)")
    args = parser.parse_args()
    folder = (args.folder or runs_dir() / "benchmark-self-improvement").absolute()
    left = args.rounds
    runs, commit = load_runs(NAME), git_commit()  # before the first result changes the tree
    questions = lab_arithmetic.load("test", limit=sum(USERS) + TRUTH)
    for seed in args.seeds:
        if not (folder / f"s{seed}" / "events.db").exists():  # a loop goes on from its log; another machine's rows are no part of it
            runs = [row for row in runs if row["seed"] != seed]
        (folder / f"s{seed}" / "runs").mkdir(parents=True, exist_ok=True)
        loop = Loop(folder / f"s{seed}", seed, questions, EmbeddedStudent(model_dir("arithmetic", "student")), Grader())
        for row in itertools.islice(run_seed(loop, runs, commit), left):
            left -= 1
            runs.append(row)
            save(NAME, headline=headline(runs), runs=runs, commit=commit)
            write_docs(NAME, table(runs), page=EVIDENCE)
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
