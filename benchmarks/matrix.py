"""`python -m benchmarks.matrix [--methods wst w2sr] [--weak FAMILY ...] [--strong FAMILY ...]`: does it hang on the architecture?

Teachers and students of four families (Llama, Qwen3, GPT-NeoX, Mamba), each from random weights by the lab's own recipe; what is not
shipped is made here, in `--share` of the recipe's batches. A cell trains once and is measured on held-out questions:

- `wst`: a teacher is trained on one student (a quarter of the demo's run) and measured on it and, unchanged, on every other student that is
  there (`eval.transfer`), which it has not seen.
- `w2sr`: a student of the reasoning world is fine-tuned on the chains of a weak reasoner.

Llama first, so that what needs nothing made is measured first. On a CPU a Mamba model reads a sequence token by token: its making takes
some twenty times as long. A cell whose models cannot be made or whose run fails is a row with its error. Resumable: a cell that stands in
the results file is not repeated. Writes `benchmarks/results/matrix.json` and a table of docs/evidence.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.dial import SETTINGS
from benchmarks.results_file import EVIDENCE, cpu_seconds, load_runs, save, write_docs
from benchmarks.w2sr import run_cell
from lab.pretrain import MODELS, train_role
from lab.shapes import FAMILIES
from lab.weights_folder import model_dir
from teacher.run_directory import git_commit, runs_dir

NAME = "matrix"
METHODS = ("wst", "w2sr")
UNSEEN = ("lab:arithmetic/student_b", "lab:arithmetic/student_c")
"""Students that no cell trains on."""
WORLD_OF = {"wst": "arithmetic", "w2sr": "reasoning"}
ROLES = {"wst": ("teacher", "student"), "w2sr": ("weak", "strong")}
"""Who teaches and who is taught, by the lab's names."""


def made_at(folder: Path, role: str, family: str, share: float) -> Path:
    """Where a model of another family lies, or will."""
    return folder / "models" / f"{role}-{family}-{share:g}" / role


def whole(made: Path) -> bool:
    """Whether a model stands ready; its tokenizer is written last."""
    return (made / "tokenizer_config.json").exists()


def model_of(method: str, side: int, family: str, folder: Path, share: float) -> str:
    """A model by the lab's name, or its folder; made where it is not there yet."""
    world, role = WORLD_OF[method], ROLES[method][side]
    if family == "llama":
        return f"lab:{world}/{role}"
    made = made_at(folder, role, family, share)
    if not whole(made):
        from transformers import AutoTokenizer

        recipe = MODELS[world]
        tokenizer = AutoTokenizer.from_pretrained(model_dir(world, role))
        sized = replace(recipe, roles={role: {**recipe.roles[role], "family": family}})
        train_role(sized, role, tokenizer, made.parent, scale=share)
    return str(made)


def students_made(folder: Path, share: float) -> dict[str, str]:
    """Name -> model of every student that stands ready."""
    found = {"llama": "lab:arithmetic/student", **{name.split("/")[1]: name for name in UNSEEN}}
    for family in FAMILIES[1:]:
        if whole(made := made_at(folder, "student", family, share)):
            found[family] = str(made)
    return found


def pair_of(folder: Path, *others: str) -> dict[str, Any]:
    """What an evaluated directory says of the trained arm against raw, with `others` shares right."""
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["eval"]
    pair = found["vs_raw"]["trained"]
    shares = {arm: round(found["arms"][arm]["mean"], 4) for arm in ("raw", *others, "trained")}
    return {**shares, "gain": [round(pair[end], 4) for end in ("difference", "low", "high")], "n": pair["n"]}


def taught(teacher: str, student: str, others: dict[str, str], seed: int) -> dict[str, Any]:
    """Train a prompt teacher on one student; what it is worth there and on the others."""
    cells = {name: {"student": {"model": model}} for name, model in others.items()}
    flags = [*SETTINGS, "--eval.include=[]", f"--seed={seed}", f"--teacher.model={teacher}", "--teacher.preset=lab"]
    flags.append(f"--student.model={student}")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "WST_RUNS_DIR": f"{folder}/runs", "WST_CACHE_DIR": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        cpu_s = cpu_seconds([sys.executable, "-m", "teacher.train", *flags], environment)
        run = next(Path(folder).glob("runs/*/summary.json")).parent
        moved = ["--eval.include=[]", f"--eval.transfer={json.dumps(cells)}"]
        cpu_s += cpu_seconds([sys.executable, "-m", "teacher.evaluate", str(run), *moved], environment)
        return {"on": {"itself": pair_of(run), **{name: pair_of(run / "transfer" / name) for name in cells}}, "cpu_s": cpu_s}


def imitated(weak: str, strong: str, seed: int, folder: Path) -> dict[str, Any]:
    """Fine-tune a strong student on a weak reasoner's chains; what it gains over itself untrained, and both models' shares right."""
    run = folder / f"w2sr-{Path(weak).parent.name}-{Path(strong).parent.name}-s{seed}".replace(":", "-")
    found = run_cell({"seed": seed, "weak.model": weak, "strong.model": strong}, run)
    return {"on": {"itself": pair_of(run, "weak")}, "chains_right": found["traces"]["right"]}


def run(cell: dict[str, Any], folder: Path, share: float) -> dict[str, Any]:
    """One cell's row; a failure is a row too."""
    try:
        weak, strong = (model_of(cell["method"], side, cell[role], folder, share) for side, role in enumerate(("weak", "strong")))
        if cell["method"] == "w2sr":
            return {**cell, **imitated(weak, strong, cell["seed"], folder)}
        others = {name: model for name, model in students_made(folder, share).items() if model != strong}
        return {**cell, **taught(weak, strong, others, cell["seed"])}
    except Exception as error:  # whatever a model of a family that was never tried raises: the table shows it
        return {**cell, "error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}


def headline(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Cells with a gain whose interval lies above 0: trained and measured on one student, and moved to one it has not seen."""
    measured = [row for row in runs if "on" in row]
    own = [row["on"]["itself"]["gain"] for row in measured]
    moved = [found["gain"] for row in measured for name, found in row["on"].items() if name != "itself"]
    return {
        "cells": len(measured),
        "failed": sum("error" in row for row in runs),
        "planned": len(METHODS) * len(FAMILIES) ** 2,
        "gain_above_0": sum(low > 0 for _, low, _ in own),
        "moved": len(moved),
        "moved_gain_above_0": sum(low > 0 for _, low, _ in moved),
        "moved_gain_below_0": sum(high < 0 for _, _, high in moved),
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """A line a cell and student."""
    heads = "method|weak model|strong model it was trained with|measured on|raw|trained|gain (95 %)|questions|seed|commit"
    lines = ["| " + " | ".join(heads.split("|")) + " |", "|" + "---|" * 10]
    for row in sorted(runs, key=lambda row: (METHODS.index(row["method"]), FAMILIES.index(row["weak"]), FAMILIES.index(row["strong"]))):
        about = [row["method"], row["weak"], row["strong"]]
        end = [str(row["seed"]), str(row["commit"])]
        if "error" in row:
            lines.append("| " + " | ".join([*about, "", "", "", f"failed: {row['error']}", "", *end]) + " |")
            continue
        for name, found in row["on"].items():
            gain = "{:+.1%} ({:+.1%} .. {:+.1%})".format(*found["gain"])
            on = row["strong"] if name == "itself" else f"{name}, unseen"
            lines.append(
                "| " + " | ".join([*about, on, f"{found['raw']:.1%}", f"{found['trained']:.1%}", gain, str(found["n"]), *end]) + " |"
            )
    left = [
        f"{method} {weak} → {strong}"
        for method, weak, strong in itertools.product(METHODS, FAMILIES, FAMILIES)
        if not any((row["method"], row["weak"], row["strong"]) == (method, weak, strong) for row in runs)
    ]
    return "\n".join([*lines, *(["", f"Not measured: {', '.join(left)}."] if left else [])])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="only cells of these methods")
    parser.add_argument("--weak", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="only teachers and weak reasoners of these")
    parser.add_argument("--strong", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="only students of these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default 0")
    parser.add_argument("--cells", type=int, default=1000, help="most cells to measure in this call (default: all)")
    parser.add_argument(
        "--share", type=float, default=0.5, help="share of the recipe's batches for models that are made here (default 0.5)"
    )
    parser.add_argument("--folder", type=Path, help="where models and runs lie (default: benchmark-matrix under the runs' folder)")
    args = parser.parse_args()
    folder = (args.folder or runs_dir() / "benchmark-matrix").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    runs, commit = load_runs(NAME), git_commit()  # before the first result changes the tree
    if other := {row["share"] for row in runs} - {args.share}:
        parser.error(f"the rows that stand are of --share {other.pop():g}; go on with it, or begin anew without {NAME}.json")
    wanted = itertools.product(args.seeds, args.strong, args.weak, args.methods)
    cells = [{"method": method, "weak": weak, "strong": strong, "seed": seed} for seed, strong, weak, method in wanted]
    for cell in [cell for cell in cells if not any(cell.items() <= row.items() for row in runs if "error" not in row)][: args.cells]:
        runs = [row for row in runs if not cell.items() <= row.items()]  # one that failed is tried again
        runs.append({**run(cell, folder, args.share), "share": args.share, "commit": commit})
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
        write_docs(NAME, table(runs), page=EVIDENCE)
        print(json.dumps(runs[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
