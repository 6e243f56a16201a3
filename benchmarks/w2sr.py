"""`python -m benchmarks.w2sr [--only PART] [--seeds 0 1 2]`: what W2SR's student learns from, on the lab's reasoning world.

Part `main`, for each seed: the student after GRPO to its plateau; W2SR on all, right and wrong chains, equally many; and the arms that ask
whether structure or accuracy teaches: answers without steps, right structure with wrong values, steps in another order, answers of a
non-reasoner that is right as often as the weak reasoner, and of one that is always right. Part `sweep`: weak reasoners of several sizes and
amounts of training, made here. Resumable: a cell that stands in the results file is not repeated. Writes `benchmarks/results/w2sr.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results_file import load_runs, save
from exchange.records import Example
from exchange.settings import load
from tasks.lab_reasoning import MOST
from tasks.lab_reasoning import load as questions
from teacher.run_directory import git_commit, runs_dir
from weak_to_strong.traces import Trace, read_traces, save_traces

NAME = "w2sr"
QUESTIONS = 160
"""Training questions with a chain."""
MEASURED = 200
"""Test questions."""
CEILING = {"every": 10, "patience": 3, "watch": 100, "trl": {"per_device_train_batch_size": 48, "num_generations": 8}}
"""GRPO in steps of six questions; plateau: 30 of them without a gain of a point on 100 validation questions."""
MATCHED = ("all", "positive", "negative")
ARMS = ("answer_only", "wrong_values", "shuffled", "non_reasoner_equal", "non_reasoner_right")
SWEEP = [(64, 1, 250), (64, 1, 450), (64, 2, 260), (64, 2, 340), (128, 2, 180), (128, 2, 260)]
"""(width, layers, batches) of weak reasoners; one layer cannot tell the changes of a question apart, and more batches make better sums."""


def answer_only(trace: Trace, example: Example, rng: random.Random, accuracy: float) -> str:
    """The chain's own answer, without its steps."""
    return (trace.completion or "").strip().split("\n")[-1]


def wrong_values(trace: Trace, example: Example, rng: random.Random, accuracy: float) -> str:
    """The right operations in the right order, each with a random result, from which the next one goes on."""
    lines = (example.reference or "").split("\n")[:-1]
    state, written = None, []
    for line in lines:
        before, sign, number, _, _ = line.split(" ")
        operand = number if number != before else None  # a doubling adds the number to itself
        before = before if state is None else str(state)
        state = rng.randint(2, MOST)
        written.append(f"{before} {sign} {operand or before} = {state}")
    return "\n".join([*written, f"#### {state}"])


def shuffled(trace: Trace, example: Example, rng: random.Random, accuracy: float) -> str:
    """The weak reasoner's own steps in another order, its answer at the end."""
    *steps, answer = (trace.completion or "").strip().split("\n")
    mixed = list(steps)
    while len(set(steps)) > 1 and mixed == steps:
        rng.shuffle(mixed)
    return "\n".join([*mixed, answer])


def non_reasoner_equal(trace: Trace, example: Example, rng: random.Random, accuracy: float) -> str:
    """An answer at once, right as often as the weak reasoner is, on questions of its own."""
    gold = int(example.gold or 0)
    return f"#### {gold if rng.random() < accuracy else gold + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))}"


def non_reasoner_right(trace: Trace, example: Example, rng: random.Random, accuracy: float) -> str:
    """An answer at once that is always right."""
    return f"#### {example.gold}"


MADE: dict[str, Callable[[Trace, Example, random.Random, float], str]] = {
    "answer_only": answer_only,
    "wrong_values": wrong_values,
    "shuffled": shuffled,
    "non_reasoner_equal": non_reasoner_equal,
    "non_reasoner_right": non_reasoner_right,
}


def made_file(arm: str, source: Path, target: Path, seed: int) -> Path:
    """traces.jsonl of an arm, made from the weak reasoner's."""
    examples = {example.id: example for example in questions("train", limit=QUESTIONS)}
    traces = [trace for trace in read_traces(source, "source") if trace.completion and "=" in trace.completion]
    accuracy = sum(bool(trace.is_correct) for trace in traces) / len(traces)
    rng = random.Random(f"{arm}/{seed}")
    texts = [MADE[arm](trace, examples[trace.example_id], rng, accuracy) for trace in traces]
    save_traces(target, [trace.model_copy(update={"completion": text}) for trace, text in zip(traces, texts, strict=True)])
    return target


def run_cell(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One W2SR run in this process; a finished one is read, an unfinished one gone on with."""
    from teacher.run_directory import RunDirectory
    from teacher.train import StopSignal
    from weak_to_strong.run import carry_out
    from weak_to_strong.w2sr_config import W2SRConfig, resolve
    from weak_to_strong.w2sr_run import W2SR

    run = RunDirectory(folder)
    if run.finished:
        return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    base = {
        "run": {"dir": str(folder)},
        "task": {"name": "lab_reasoning", "train_size": 2000, "validation_size": 100},
        "weak": {"batch_size": MEASURED},
        "strong": {"batch_size": MEASURED},
        "traces": {"questions": QUESTIONS},
        "eval": {"n": MEASURED},
        "fine_tune": {"watch": 0},
    }
    config = resolve(load(W2SRConfig, base, list(settings.items())))
    with StopSignal() as stop:
        return carry_out(config, run if (folder / "config.yaml").exists() else None, lambda made: W2SR(made)(), stop)


def row(cell: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """What stands in the results file for a cell."""
    arms, cost = summary["eval"]["arms"], summary["cost"]
    shares = {name: [round(arms[name][part], 4) for part in ("mean", "low", "high")] for name in arms}
    return {
        **cell,
        "chains_right": summary["traces"]["right"],
        "learnt_from": summary["fine_tune"]["rows"],
        "learnt_right": summary["fine_tune"]["taken_right"],
        "shares": shares,
        "stop_rate": round(1 - arms["trained"]["use"]["cut_rate"], 4),
        "rgr": summary["rgr"],
        "ratio": {name: cost.get(name) for name in ("ratio", "ratio_without_traces", "ratio_with_weak_training")},
        "ceiling": {key: summary["ceiling"][key] for key in ("steps", "best_step", "plateau")} if summary["ceiling"] else None,
        "fine_tuning": cost["fine_tuning"],
    }


def main_cells(seed: int, folder: Path) -> list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """(what a cell is, how it is run), in order; later ones need what the first leaves."""
    first = folder / f"s{seed}-w2sr"
    cells: list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = [
        ({"part": "main", "arm": "w2sr", "seed": seed}, lambda: run_cell({"seed": seed, "ceiling": CEILING}, first))
    ]
    for variant in MATCHED:

        def matched(variant: str = variant) -> dict[str, Any]:
            source = {"traces.file": str(first / "traces.jsonl"), "ceiling.run": str(first)}
            return run_cell({"seed": seed, "variant": variant, "match_size": True, **source}, folder / f"s{seed}-{variant}")

        cells.append(({"part": "main", "arm": f"{variant}, matched", "seed": seed}, matched))
    for arm in ARMS:

        def run(arm: str = arm) -> dict[str, Any]:
            file = made_file(arm, first / "traces.jsonl", folder / f"s{seed}-{arm}.jsonl", seed)
            return run_cell({"seed": seed, "traces.file": str(file), "ceiling.run": str(first)}, folder / f"s{seed}-{arm}")

        cells.append(({"part": "main", "arm": arm, "seed": seed}, run))
    return cells


def sweep_cells(seed: int, folder: Path) -> list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    cells: list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = []
    for hidden, layers, steps in SWEEP:

        def run(hidden: int = hidden, layers: int = layers, steps: int = steps) -> dict[str, Any]:
            weak = weak_reasoner(hidden, layers, steps, folder / "weak")
            return run_cell(
                {"seed": seed, "weak.model": str(weak), "ceiling.run": str(folder / f"s{seed}-w2sr")},
                folder / f"s{seed}-weak-{hidden}-{layers}-{steps}",
            )

        cells.append(({"part": "sweep", "arm": f"{hidden}x{layers}, {steps} batches", "seed": seed}, run))
    return cells


def weak_reasoner(hidden: int, layers: int, steps: int, folder: Path) -> Path:
    """A weak reasoner of that size and amount of training, made as the shipped one was."""
    from dataclasses import replace

    from transformers import AutoTokenizer

    from lab.pretrain import MODELS, train_role
    from lab.weights_folder import model_dir

    name = f"{hidden}-{layers}-{steps}"
    if not (folder / name / "model.safetensors").exists():
        world = MODELS["reasoning"]
        role = {**world.roles["weak"], "hidden": hidden, "layers": layers, "mlp": 2 * hidden, "steps": steps}
        tokenizer = AutoTokenizer.from_pretrained(model_dir("reasoning", "weak"))
        train_role(replace(world, roles={"weak": role}), "weak", tokenizer, folder / name)
        for path in (folder / name / "weak").iterdir():
            path.rename(folder / name / path.name)
    return folder / name


def headline(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """RGR and accuracy by arm, mean over the seeds measured, and the cost ratios of the plain runs."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        found.setdefault(f"{run['part']}: {run['arm']}", []).append(run)
    arms = {}
    for arm, mine in found.items():
        gaps = [run["rgr"] for run in mine if run["rgr"] and run["rgr"]["value"] is not None]
        arms[arm] = {
            "seeds": len(mine),
            "chains_right": round(sum(run["learnt_right"] for run in mine) / len(mine), 4),
            "right": round(sum(run["shares"]["trained"][0] for run in mine) / len(mine), 4),
            "over_weak": round(sum(run["shares"]["trained"][0] - run["shares"]["weak"][0] for run in mine) / len(mine), 4),
            "rgr": round(sum(gap["value"] for gap in gaps) / len(gaps), 4) if gaps else None,
            "rgr_intervals": [[gap["low"], gap["high"]] for gap in gaps],
        }
    plain = [run for run in runs if run["part"] == "main" and run["arm"] == "w2sr"]
    ratios = {name: [run["ratio"][name]["flops"] for run in plain if run["ratio"][name]] for name in plain[0]["ratio"]} if plain else {}
    return {"arms": arms, "ratio_flops": ratios, "plateaus": [run["ceiling"]["plateau"] for run in plain], "runs": len(runs)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.w2sr", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=("main", "sweep"), help="only this part (the sweep needs the main part's ceiling)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument("--folder", type=Path, help="where the runs lie (default: benchmark-w2sr under the runs' folder)")
    args = parser.parse_args()
    folder = args.folder or runs_dir() / "benchmark-w2sr"
    folder.mkdir(parents=True, exist_ok=True)
    runs = load_runs(NAME)
    commit = git_commit()  # before the first result changes the tree
    parts = {"main": main_cells, "sweep": sweep_cells}
    for part, seed in itertools.product((args.only,) if args.only else parts, args.seeds):
        for cell, work in parts[part](seed, folder):
            if any(cell.items() <= run.items() for run in runs):
                continue
            runs.append({**row(cell, work()), "commit": commit})
            save(NAME, headline=headline(runs), runs=runs, commit=commit)
            print(json.dumps(runs[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
