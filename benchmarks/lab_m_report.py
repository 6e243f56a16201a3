"""What `benchmarks.lab_m` kept, graded and compared: `benchmarks/results/lab_m.json` and its table in evidence.md.

The only part of lab-m that needs the project's environment: its grader, its leak detection and its statistics.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dial import pack
from benchmarks.dial_report import bits
from benchmarks.lab_m import NAME, cells
from benchmarks.results_file import EVIDENCE, RESULTS, load_runs, save, write_docs
from evaluation.paired import arm_result, compare
from exchange.records import Example, Instruction
from rewards.correctness import Grader
from rewards.shape import leaks

QUESTIONS = ("templates", "gsm8k")
ABOUT = {
    "raw": "no instruction",
    "static": "the task's default text",
    "best_static": "the best of nine texts on training questions",
    "untrained": "the teacher as pretrained",
    "sft": "warm start alone",
    "blind": "the same training, query hidden",
    "trained": "warm start and GRPO",
    "oracle": "the right procedure in held-out words",
}


def graded(path: Path, grader: Grader) -> dict[str, Any]:
    """An arm's kept answers with a grade each, and shares of silence and of handed-over answers."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    scores = [float(bool(grader.grade("number", gold, text).correct)) for gold, text in zip(kept["golds"], kept["answers"], strict=True)]
    found = [
        bool(leaks(Instruction(text=text, source="teacher"), Example(id=name, task=NAME, split="test", query=query, gold=gold), "number"))
        for name, query, gold, text in zip(kept["ids"], kept["queries"], kept["golds"], kept["instructions"], strict=True)
    ]
    return {
        "scores": scores,
        "families": kept["families"],
        "silence": sum(not text for text in kept["instructions"]) / len(scores),
        "leaks": sum(found) / len(scores),
        "distinct": len(set(kept["instructions"])),
    }


def row(arm: str, seed: int | None, questions: str, found: dict[str, Any], raw: list[float]) -> dict[str, Any]:
    """One arm on one set of questions, with intervals."""
    alone = arm_result(found["scores"])
    made: dict[str, Any] = {"arm": arm, "seed": seed, "questions": questions, "n": alone.n, "right": [alone.mean, alone.low, alone.high]}
    if arm != "raw":
        pair = compare(found["scores"], raw)
        made |= {"gain": [pair.difference, pair.low, pair.high], "help": pair.help_rate, "harm": pair.harm_rate}
    if questions == "templates":
        families = sorted(set(found["families"]))
        of = {f: [s for s, name in zip(found["scores"], found["families"], strict=True) if name == f] for f in families}
        made["by_family"] = {f: sum(values) / len(values) for f, values in of.items()}
    made |= {key: found[key] for key in ("silence", "leaks", "distinct")}
    return {**rounded(made), "bits": pack([score > 0.5 for score in found["scores"]])}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(held) for key, held in value.items()}
    if isinstance(value, list):
        return [rounded(held) for held in value]
    return round(value, 4) if isinstance(value, float) else value


def over_seeds(rows: list[dict[str, Any]], arm: str, questions: str) -> dict[str, Any] | None:
    """An arm's mean over its seeds; a question's value is its mean over them, so that questions are what is resampled."""
    here = [row for row in rows if row["arm"] == arm and row["questions"] == questions]
    if not here:
        return None
    raw = next(row for row in rows if row["arm"] == "raw" and row["questions"] == questions)
    answered = [bits(row["bits"]) for row in here]
    scores = np.mean(answered, axis=0).tolist()
    alone = arm_result(scores)
    pair = compare(scores, bits(raw["bits"]).tolist())
    made: dict[str, Any] = {
        "arm": arm, "seeds": len(here), "right": [alone.mean, alone.low, alone.high], "gain": [pair.difference, pair.low, pair.high],
        "harm": pair.harm_rate, "leaks": sum(row["leaks"] for row in here) / len(here),
    }  # fmt: skip
    return dict(rounded(made))


def table(runs: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The page's table of one size."""

    def share(values: list[float], sign: str = "") -> str:
        return f"{100 * values[0]:{sign}.1f} ({100 * values[1]:{sign}.1f} .. {100 * values[2]:{sign}.1f})"

    lines = [
        "| arm | what it is | template questions | − raw | harm | GSM8K test | − raw |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, what in ABOUT.items():
        template, real = over_seeds(runs, arm, "templates"), over_seeds(runs, arm, "gsm8k")
        if template is None:
            continue
        gain = ["", "", ""] if arm == "raw" else [share(template["gain"], "+"), f"{100 * template['harm']:.1f}", ""]
        shown = ["", ""] if real is None else [share(real["right"]), "" if arm == "raw" else share(real["gain"], "+")]
        seeds = f", mean of {template['seeds']} seeds" if template["seeds"] > 1 else ""
        lines.append(f"| {arm} | {what}{seeds} | {share(template['right'])} | {gain[0]} | {gain[1]} | {shown[0]} | {shown[1]} |")
    n = {questions: next((row["n"] for row in runs if row["questions"] == questions), 0) for questions in QUESTIONS}
    each = ", ".join(f"{100 * row['right'][0]:.1f}" for row in runs if row["arm"] == "trained" and row["questions"] == "templates")
    return "\n".join([
        *lines,
        "",
        f"Size `{about['size']}`: student {about['parameters']['student']:,}, teacher {about['parameters']['teacher']:,} parameters, on "
        f"{about['device']}; {about['cpu_s'] / 60:.0f} CPU minutes in all. Percent right with 95 % intervals, n = "
        f"{n['templates']} and {n['gsm8k']}; trained by seed: {each}. Best static text: “{about['best_static']}”.",
    ])  # fmt: skip


def parameters(folder: Path) -> int:
    """Of the model in a folder."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="np") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118 -- no mapping


def report(folder: Path, size: str) -> None:
    """Grade and compare what a size's arms answered; figures of other sizes stay."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    about["parameters"] = {role: parameters(folder / role) for role in ("student", "teacher")}
    about["best_static"] = json.loads((folder / "best_static.json").read_text(encoding="utf-8"))["text"]
    grader, made = Grader(), []
    for questions in QUESTIONS:
        found = {
            (arm, seed): graded(path, grader)
            for arm, seed, of in cells()
            if of == questions and (path := folder / "answers" / f"{arm}-{seed}-{questions}.json").exists()
        }
        made += [{"size": size, **row(arm, seed, questions, f, found["raw", None]["scores"])} for (arm, seed), f in found.items()]
    trained = over_seeds(made, "trained", "templates")
    about["trained_against_raw"] = trained and trained["gain"]
    results = RESULTS / f"{NAME}.json"
    sizes = json.loads(results.read_text(encoding="utf-8"))["headline"]["sizes"] if results.exists() else {}
    sizes[size] = about
    runs = [run for run in load_runs(NAME) if run["size"] != size] + made
    save(NAME, headline={"sizes": sizes}, runs=runs, commit=about["commits"][-1])
    tables = [table([run for run in runs if run["size"] == name], held) for name, held in sizes.items()]
    write_docs(NAME, "\n\n".join(tables), page=EVIDENCE)
