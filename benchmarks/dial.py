"""`python -m benchmarks.dial [--cells KIND ...] [--predict]`: over many lab worlds, does a teacher pay, and did we know?

Worlds (`benchmarks.dial_worlds`) x 3 seeds. A cell asks `teacher.probe`'s questions first, before anything of it is trained, keeps the
prediction, then trains a small teacher and measures it on the world's test questions. Kinds of cell, each a row of
`benchmarks/results/dial.json`:

    calibration  the probe's one constant is fitted on these worlds alone; they are no part of the dial
    trained      prediction; raw, static, majority (compute-matched raw), untrained, sft (the warm start alone), trained, oracle
    rivals       best_static and router on the same questions, with as many student calls as the teacher's training takes; they do not
                 depend on the seed
    alone        the same training without borrowed instructions (`teacher.warm_start.borrowed=0`): what they are worth
    blind        the same training with the query hidden, which borrowing would look at: none here either

Resumable: a cell that stands in the file is not repeated, and a killed run loses the cells under way. No cell begins after `--seconds`.
`--report` makes the figures and the page's tables anew and runs nothing; `--predict` makes the predictions anew where an estimator
changed, from the counts that a cell keeps of its probe, and trains nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.dial_report import headline, write_page
from benchmarks.dial_worlds import CALIBRATION, WORLDS, Dialled, evenly
from benchmarks.results_file import load_runs, save
from evaluation.headroom import Estimate, Tried, outlook
from teacher.run_directory import git_commit

NAME = "dial"
SEEDS = (0, 1, 2)
KINDS = ("calibration", "trained", "rivals", "alone", "blind")
TESTED = 250
"""Test questions a world: an interval of about +-5 points for a paired difference."""
PROBED = (96, 8)
"""Questions and instructions of a probe."""
SETTINGS = [
    "--teacher.warm_start.questions=400", "--teacher.warm_start.samples=16", "--max_steps=12", "--trl.per_device_train_batch_size=144",
    "--eval.every=6", "--task.validation_size=150", f"--eval.n={TESTED}", "--eval.include=[majority]", "--student.max_tokens=64",
]  # fmt: skip
"""A quarter of the demo's run: 2,900 to 7,600 student requests instead of 21,000."""
ALONE = ["--teacher.warm_start.borrowed=0"]
"""Each question's instructions are its own."""
SEARCH_CALLS = 5000
"""Of best_static and of the router, each: about what the teacher's training requests."""
RENAMED = {"alone": {"sft": "alone_sft", "trained": "alone"}, "blind": {"trained": "blind"}}
"""What a kind of cell that is measured beside `trained` calls the arms that it keeps."""
ARMS = ("raw", "static", "majority", "untrained", "sft", "trained", "oracle")


def cells() -> list[dict[str, Any]]:
    """All cells in the order in which they are run: an even sample of the worlds before their repetitions."""

    def of(kind: str, worlds: Sequence[Dialled], seed: int) -> list[dict[str, Any]]:
        return [{"kind": kind, "world": world.name, "seed": seed} for world in worlds]

    worlds = evenly(WORLDS)
    first = of("calibration", CALIBRATION, 100) + of("trained", worlds, 0)
    return first + of("rivals", worlds, 0) + of("alone", worlds, 0) + of("blind", worlds, 0) + [
        cell for seed in SEEDS[1:] for kind in ("trained", "blind") for cell in of(kind, worlds, seed)
    ]  # fmt: skip


def world_of(name: str) -> Dialled:
    return next(world for world in (*WORLDS, *CALIBRATION) if world.name == name)


def pack(right: Sequence[bool]) -> str:
    """Which questions were right, as hexadecimal digits: so that any two arms can be compared question by question."""
    return format(int("1" + "".join(str(int(one)) for one in right), 2), "x")


def arms_of(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """What a run's evaluation says of the arms: share right with interval, difference to raw with interval, tokens a question, answers."""
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["eval"]
    right: dict[str, list[bool]] = {name: [] for name in names}
    for line in (folder / "evaluation.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["arm"] in right:
            right[row["arm"]].append((row["score"] or 0.0) >= 0.5)
    arms = {}
    for name in names:
        arm, pair = found["arms"][name], found["vs_raw"].get(name)
        use = arm["use"]
        arms[name] = {
            "right": [round(arm[end], 4) for end in ("mean", "low", "high")],
            "gain": [round(pair[end], 4) for end in ("difference", "low", "high")] if pair else [0.0, 0.0, 0.0],
            "tokens": round(use["prompt_tokens"] + use["completion_tokens"], 1),
            "instruction_tokens": round(use["instruction_tokens"], 1),
            "about": arm["about"],
            "bits": pack(right[name]),
        }
    return arms


def run_cell(cell: dict[str, Any], cache: str) -> dict[str, Any]:
    """One cell in this process. Raises RuntimeError where a signal ended it."""
    from exchange.command import RunError

    world, started = world_of(cell["world"]), time.process_time()
    flags = [*world.flags(), *SETTINGS, f"--seed={cell['seed']}"]
    with tempfile.TemporaryDirectory() as runs, open(os.devnull, "w") as nowhere:
        os.environ.update(WST_CACHE_DIR=f"{cache}/{world.name}", WST_RUNS_DIR=runs)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            try:
                found = _rivals(flags) if cell["kind"] == "rivals" else _taught(flags, cell["kind"])
            except RunError as error:
                raise RuntimeError(f"{cell}: {error}") from None
    if "probe" in found:
        found["probe"] = recount({**cell, **found})
        found["forecast"] = found["probe"]["predicted_gain"]["value"]
    return {**cell, "null": world.null, "ceiling": world.ceiling, "n": TESTED, **found, "cpu_s": round(time.process_time() - started, 1)}


def _taught(flags: list[str], kind: str) -> dict[str, Any]:
    """The prediction, then the teacher."""
    from teacher.processes import Processes
    from teacher.run_directory import RunDirectory
    from teacher.train import StopSignal, read_config
    from teacher.training import train

    started = time.process_time()
    found: dict[str, Any] = {} if kind in RENAMED else {"probe": _probe(flags)}
    found["probe_cpu_s"] = round(time.process_time() - started, 1)
    changed = [*ALONE, "--eval.include=[]", f"--teacher.blind={str(kind == 'blind').lower()}"] if kind in RENAMED else []
    config = read_config(None, [*flags, *changed])
    with StopSignal() as stop:
        summary = train(config, None, stop, Processes())
    if summary is None:
        raise RuntimeError("stopped")
    run = RunDirectory(Path(summary["run_dir"]))
    validations = run.lines("validation.jsonl")
    names = RENAMED.get(kind, {})
    arms = arms_of(run.path, list(names) or ARMS)
    requests = {"sft": validations[0]["requests"], "trained": validations[-1]["requests"]}
    if names:
        arms, requests = ({new: part[old] for old, new in names.items()} for part in (arms, requests))
    return {
        **found,
        "arms": arms,
        "requests": requests,
        "teacher_step": summary["teacher_step"],
        "verdict": summary["eval"]["verdict"],
    }


def _probe(flags: list[str]) -> dict[str, Any]:
    """What the probe says, and how many answers it asked for."""
    from teacher.evaluate import Asking
    from teacher.probe import ask, counts, report
    from teacher.train import read_config

    questions, samples = PROBED
    config = read_config(None, flags)
    asking = Asking(config)
    asked = asking(lambda: ask(config, questions, samples, asking.panel.student, asking.panel.reward))
    return {**report(config, asked, samples=samples), "counts": packed(counts(config, asked))}


def packed(tried: Sequence[Tried]) -> str:
    """The counts of all questions in a line."""
    return "; ".join(" ".join("-" if part is None else f"{part:g}" for part in one.model_dump().values()) for one in tried)


def recount(run: dict[str, Any]) -> dict[str, Any]:
    """A cell's probe with the estimates that are made of its counts today, and with the gain predicted from the first of its questions
    alone, as many as a twentieth of the cell's run pays for."""
    from teacher.probe import size, verdict
    from teacher.train import read_config

    probe, fields = run["probe"], list(Tried.model_fields)
    tried = [
        Tried.model_validate({name: None if part == "-" else float(part) for name, part in zip(fields, row.split(), strict=True)})
        for row in probe["counts"].split("; ")
    ]
    finds = [tuple(find) for find in probe["finds"]]
    told = outlook(tried, finds)
    few = size(read_config(None, [*world_of(run["world"]).flags(), *SETTINGS]), PROBED[1])
    return {
        **probe, "solved": round(told.solved, 1), "lessons": round(told.lessons, 1), "predicted_gain": told.predicted.model_dump(),
        "reachable_gain": told.reachable.model_dump(),
        "verdict": verdict(told.reachable, Estimate(**probe["learnable_gain"]), probe["answering"], luck=told.luck),
        "few": few, "predicted_by_few": outlook(tried[:few] + tried[PROBED[0] :][:few], finds).predicted.value,
    }  # fmt: skip


def predict_anew(jobs: int) -> None:
    """All predictions by today's estimators, of the counts that were kept."""
    runs, commit = load_runs(NAME), git_commit()
    asked = [run for run in runs if "probe" in run]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=begin) as pool:
        tasks = [pool.submit(recount, run) for run in asked]
        for run, task in zip(asked, tasks, strict=True):
            run["probe"], run["probe_commit"] = task.result(), commit
            print(json.dumps(say(run)), flush=True)
    save(NAME, headline=headline(runs), runs=runs, commit=commit)  # at once: a headline of half old and half new ones would be neither


def _rivals(flags: list[str]) -> dict[str, Any]:
    """The searched rivals, on the same test questions, beside raw."""
    from teacher.evaluate import carry_out
    from teacher.train import read_config

    config = read_config(None, [*flags, f"--eval.search_calls={SEARCH_CALLS}"])
    names = ("raw", "best_static", "router")
    run = carry_out(config, None, None, title="", names=names)
    return {"arms": arms_of(run.path, names), "requests": {"best_static": SEARCH_CALLS, "router": SEARCH_CALLS}}


def begin() -> None:
    """What a worker process does first."""
    import torch

    torch.set_num_threads(1)


def measure(todo: list[dict[str, Any]], jobs: int, cache: str, until: float) -> None:
    """Run the cells, `jobs` at a time, and keep each row as it comes."""
    runs, commit = load_runs(NAME), git_commit()  # before the first result changes the tree
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=begin) as pool:
        waiting, under_way = list(todo), dict[Future[dict[str, Any]], dict[str, Any]]()
        while under_way or (waiting and time.monotonic() < until):
            while waiting and len(under_way) < jobs and time.monotonic() < until:
                cell = waiting.pop(0)
                under_way[pool.submit(run_cell, cell, cache)] = cell
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                cell = under_way.pop(future)
                if (error := future.exception()) is not None:  # a student that is not there, say; the others go on
                    print(f"{cell}: {error}", file=sys.stderr, flush=True)
                    continue
                row = {**future.result(), "commit": commit}
                runs.append(row)
                save(NAME, headline=headline(runs), runs=runs, commit=commit)
                print(json.dumps(say(row)), flush=True)


def say(row: dict[str, Any]) -> dict[str, Any]:
    """A row in one line."""
    arms = {name: arm["right"][0] for name, arm in row["arms"].items()}
    told = {key: row["probe"][key]["value"] for key in ("predicted_gain", "reachable_gain")} if "probe" in row else {}
    verdict = {"says": row["probe"]["verdict"].split(":")[0]} if "probe" in row else {}
    return {**{key: row[key] for key in ("kind", "world", "seed")}, **arms, **told, **verdict, "cpu_s": row["cpu_s"]}


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=KINDS, default=list(KINDS), help="only cells of these kinds")
    parser.add_argument("--worlds", nargs="+", metavar="NAME", help="only cells of these worlds (default: all)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after so many seconds")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, each on one thread")
    parser.add_argument("--cache", default=".cache/dial", help="folder of the students' answers, kept between runs")
    parser.add_argument("--predict", action="store_true", help="train nothing: the predictions of all measured cells by today's estimators")
    parser.add_argument("--report", action="store_true", help="run nothing: figures and tables of what was measured")
    parser.add_argument("--plan", action="store_true", help="run nothing: how many cells are left, and the CPU seconds of those measured")
    args = parser.parse_args()
    runs = load_runs(NAME)
    known = {world.name for world in (*WORLDS, *CALIBRATION)}
    if unknown := sorted(set(args.worlds or ()) - known):
        parser.error(f"--worlds={unknown[0]}: no such world; worlds are {', '.join(sorted(known))}")
    asked = [cell for cell in cells() if cell["kind"] in args.cells and cell["world"] in (args.worlds or known)]
    todo = [cell for cell in asked if not any(cell.items() <= run.items() for run in runs)]
    if args.plan:
        for kind in KINDS:
            taken = [run["cpu_s"] for run in runs if run["kind"] == kind]
            mean = f", {sum(taken) / len(taken):.0f} CPU seconds each" if taken else ""
            print(f"{kind}: {len(taken)} measured{mean}, {sum(cell['kind'] == kind for cell in todo)} left")
        return 0
    if args.predict:
        os.environ["OMP_NUM_THREADS"] = "1"
        predict_anew(args.jobs)
    elif not args.report:
        os.environ["OMP_NUM_THREADS"] = "1"
        measure(todo, args.jobs, args.cache, time.monotonic() + args.seconds)
    write_page(load_runs(NAME))
    return 0


if __name__ == "__main__":
    sys.exit(main())
