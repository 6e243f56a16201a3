"""`python -m benchmarks.strong_instructor`: a teacher as large as the student that tends to state answers, untrained and after RL.

The instructor is the lab's student, fine-tuned to answer training questions from its head ("The answer is 39.", in `STATES` of
the rows) or to say any procedure. The student takes a stated answer for the answer. Measured on the same test questions: raw, the
instructor untrained, the lab's own small teacher after its usual run, and the instructor after RL with the leakage gate
(`reward.leakage_penalty=1`) and without it (`0`), three seeds each. Writes `benchmarks/results/strong_instructor.json` and its table in
evidence.md. Resumable: the instructor is made once and kept under `--folder`, and a run that stands in the results file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results_file import EVIDENCE, load_runs, save, train, write_docs
from teacher.run_directory import COMPLETE, git_commit, mark_complete

NAME = "strong_instructor"
BASE = "lab:arithmetic/student"
STATES = 0.5
"""Share of the fine-tuning rows that state the answer."""
ROWS, EPOCHS = 40_000, 2.0
"""From its head it is then right on some 40 % of the test questions, whose pairs of numbers it has never met."""
TESTED = 1000
"""Test questions."""
CELLS: list[dict[str, Any]] = [{"what": "untrained"}, {"what": "small_teacher"}] + [
    {"what": "rl", "leakage_penalty": penalty, "seed": seed} for seed in (0, 1, 2) for penalty in (1.0, 0.0)
]


def build(folder: Path) -> None:
    """The instructor as a Hugging Face folder, fine-tuned anew (seed 0: the same weights on every call of one machine)."""
    from tasks.lab_arithmetic import load
    from tasks.lab_language import all_advice, parse, work
    from teacher.config import WarmStartConfig
    from teacher.policy import load_model
    from teacher.prompt import TeacherPrompt
    from teacher.warm_start import fine_tune

    rng = random.Random(0)
    prompt = TeacherPrompt.named("lab")
    procedures = [advice.text for advice in all_advice() if not advice.held_out]
    model, tokenizer = load_model(BASE)
    rows = []
    for example in load("train", limit=ROWS):
        advice = parse(example.oracle or "")
        assert advice is not None
        first, second = map(int, re.findall(r"\d+", example.query))
        _, result = work(advice.operation, advice.order, first, second)
        text = f"The answer is {result}." if rng.random() < STATES else rng.choice(procedures)
        messages = [message.model_dump() for message in prompt.messages(example.public())]
        rows.append({"prompt": messages, "completion": [{"role": "assistant", "content": text}]})
    with tempfile.TemporaryDirectory() as scratch:
        tuning = WarmStartConfig(epochs=EPOCHS, learning_rate=1e-3, batch_size=64)
        model = fine_tune(model, tokenizer, rows, tuning, seed=0, work=Path(scratch))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mark_complete(folder)


def arms(summary: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a run's evaluation."""
    found = summary["eval"]
    return {
        "n": found["n"],
        **{
            name: {"mean": round(found["arms"][name]["mean"], 4), "leak_rate": found["arms"][name]["use"]["leak_rate"]}
            for name in ("raw", "untrained", "trained")
        },
        "against_raw": {
            name: [round(found["vs_raw"][name][end], 4) for end in ("difference", "low", "high")] for name in ("untrained", "trained")
        },
        "silence": found["arms"]["trained"]["silence_rate"],
        "harm": found["vs_raw"]["trained"]["harm_rate"],
    }


def run_cell(cell: dict[str, Any], instructor: Path) -> dict[str, Any]:
    flags = [f"--eval.n={TESTED}", "--eval.include=[]"]
    if cell["what"] != "small_teacher":
        flags += [f"--teacher.model={instructor}", "--teacher.preset=lab", "--teacher.warm_start.questions=0"]
    if cell["what"] == "untrained":
        flags.append("--max_steps=0")
    if cell["what"] == "rl":
        flags += [f"--reward.leakage_penalty={cell['leakage_penalty']}", f"--seed={cell['seed']}"]
    summary, cpu_s = train(flags)
    return {**cell, **arms(summary), "teacher_step": summary["teacher_step"], "calls": summary["student"]["calls"], "cpu_s": cpu_s}


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    untrained = next((run for run in runs if run["what"] == "untrained"), None)
    leaks = {
        gate: [run["trained"]["leak_rate"] for run in runs if run["what"] == "rl" and run["leakage_penalty"] == penalty]
        for gate, penalty in (("with_gate", 1.0), ("without_gate", 0.0))
    }
    return {
        "untrained_against_raw": untrained and untrained["against_raw"]["untrained"],
        "untrained_leak_rate": untrained and untrained["untrained"]["leak_rate"],
        "leak_rate": leaks,
    }


def _percent(values: list[float]) -> str:
    """A difference with its interval, in points."""
    return f"{100 * values[0]:+.1f} ({100 * values[1]:+.1f} .. {100 * values[2]:+.1f})"


def table(runs: list[dict[str, Any]]) -> str:
    """The rows of the page: one an instructor and seed."""
    lines = [
        "| instructor | seed | right | − raw (95 %) | hands an answer over | silent |",
        "|---|---|---|---|---|---|",
    ]
    names = {
        "untrained": "strong, untrained",
        "small_teacher": "small (0.2M), trained",
        1.0: "strong, RL with the gate",
        0.0: "strong, RL without the gate",
    }
    for run in runs:
        arm = "untrained" if run["what"] == "untrained" else "trained"
        name = names[run.get("leakage_penalty", run["what"])]
        found = run[arm]
        lines.append(
            f"| {name} | {run.get('seed', 0)} | {found['mean']:.1%} | {_percent(run['against_raw'][arm])} | {found['leak_rate']:.1%} | "
            f"{'' if arm == 'untrained' else format(run['silence'], '.1%')} |"
        )
    raw, n = runs[0]["raw"]["mean"], runs[0]["n"]
    return "\n".join([*lines, "", f"Raw: {raw:.1%} right; n = {n} test questions, the same for every row."])


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".cache/strong_instructor"), help="where the instructor is kept between calls")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after so many seconds")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runs, commit, until = load_runs(NAME), git_commit(), time.monotonic() + args.seconds
    folder = args.folder.resolve()
    todo = [cell for cell in CELLS if not any(cell.items() <= run.items() for run in runs)]
    if todo and not (folder / COMPLETE).exists():
        build(folder)
    for cell in todo:
        if time.monotonic() > until:
            break
        run = {**run_cell(cell, folder), "commit": commit}
        runs.append(run)
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
        print(json.dumps(run), flush=True)
    if runs:
        write_docs(NAME, table(runs), page=EVIDENCE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
