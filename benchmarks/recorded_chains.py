"""`python -m benchmarks.recorded_chains [--only TASK] [--vllm PYTHON]`: W2SR and two-stage on real questions, weak answers recorded.

GSM8K: a 6B model's labelled solutions to its test questions (`benchmarks.gsm8k_chains`), the questions split in two. `choice`: the same
questions and solutions with four numbers to choose from, every solution ending with the letter of the number that it comes to.
`knights_knaves`: generated puzzles; the recorded reasoner tries assignments in words and errs at the end in two of five.

The student is the lab's reasoning student, which has never seen such questions: what is seen here is that every phase, filter and summary
holds on them. It is served by vLLM from its folder, and so is what training makes of it. Resumable: a cell that stands in
the results file is not repeated. Writes `benchmarks/results/recorded_chains.json` and the table on the page of results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gsm8k_chains import write
from benchmarks.results_file import load_runs, save, write_docs
from exchange.settings import load
from tasks.choice import LETTERS, as_query
from tasks.gsm8k_answer import extract, gold_number
from tasks.knights_knaves import load as puzzles
from tasks.source import read_lines
from teacher.run_directory import git_commit, runs_dir
from weak_to_strong.traces import NothingLeft

NAME = "recorded_chains"
TASKS = ("gsm8k", "choice", "knights_knaves")
METHODS = ("w2sr", "two_stage")
QUESTIONS, MEASURED = 200, 60
Line = dict[str, Any]


def recorded(query: str, text: str) -> Line:
    """A line that `weak.replay` answers from."""
    return {"messages": [{"role": "user", "content": query}], "completion": {"text": text, "finish_reason": "stop"}}


def write_lines(path: Path, lines: Sequence[Line]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def choice_of(row: Line, solution: str) -> tuple[Line, Line]:
    """(a GSM8K question with four numbers to choose from, the recorded solution ending with the letter of its number, or of another one
    where its number is none of the four)."""
    rng = random.Random(row["question"])
    gold = gold_number(row["answer"])
    assert gold is not None
    options = [gold, *(str(int(gold) + step) for step in rng.sample((-10, -5, -2, -1, 1, 2, 5, 10), 3))]
    rng.shuffle(options)
    found = extract(solution)
    chosen = options.index(found) if found in options else rng.randrange(len(options))
    question = {"question": row["question"], "choices": options, "answer": LETTERS[options.index(gold)]}
    return question, recorded(as_query(row["question"], options), f"{solution.rpartition('A:')[0].strip()}\nAnswer: {LETTERS[chosen]}")


def write_choice(out: Path) -> None:
    """GSM8K's files as `choice` reads them, and their recording."""
    answers = {row["messages"][0]["content"]: row["completion"]["text"] for _, row in read_lines(out / "gsm8k" / "weak.jsonl")}
    recording: list[Line] = []
    for split in ("train", "test"):
        rows = [row for _, row in read_lines(out / "gsm8k" / f"{split}.jsonl")]
        made = [choice_of(row, answers[row["question"]]) for row in rows]
        write_lines(out / "choice" / f"{split}.jsonl", [question for question, _ in made])
        recording += [line for _, line in made]
    write_lines(out / "choice" / "weak.jsonl", recording)


def write_puzzles(out: Path) -> None:
    """A recording for the puzzles of both splits."""
    recording = []
    for example in (*puzzles("train", limit=QUESTIONS), *puzzles("test", limit=MEASURED)):
        rng = random.Random(example.query)
        roles = dict(pair.split(": ") for pair in (example.gold or "").split(", "))
        tried = [f"Suppose {name} is a {'knight' if rng.random() < 0.5 else 'knave'}: that cannot be." for name in roles]
        if rng.random() < 0.4:
            name = rng.choice(list(roles))
            roles[name] = "knave" if roles[name] == "knight" else "knight"
        said = ", ".join(f"{name}: {role}" for name, role in roles.items())
        recording.append(recorded(example.query, "\n".join([*tried, f"So only one way is left.\nAnswer: {said}"])))
    write_lines(out / "weak.jsonl", recording)


def prepare(out: Path) -> None:
    """Everything the runs read, under one folder."""
    for task in TASKS:
        (out / task).mkdir(parents=True, exist_ok=True)
    write(out / "gsm8k", "6b_verification")
    write_choice(out)
    write_puzzles(out / "knights_knaves")


def settings(task: str, method: str, data: Path, folder: Path, vllm: str) -> dict[str, Any]:
    """The cell's config."""
    files = {} if task == "knights_knaves" else {"path": str(data / task)}
    if task == "choice":
        files["subset"] = "logiqa"  # the subset that is read from files alone
    command = [vllm, "-m", "vllm.entrypoints.openai.api_server"]
    args = "--dtype float32 --max-model-len 2048 --max-num-seqs 64 --enforce-eager --generation-config vllm".split()
    # vLLM's CPU build ends with "CPU Generator does not use offset" where the prompt of a request with a seed is read in parts.
    args += "--no-enable-chunked-prefill --max-num-batched-tokens 8192".split()
    base: dict[str, Any] = {
        "run": {"dir": str(folder)},
        "task": {"name": task, "train_size": QUESTIONS, "validation_size": 20, **files},
        "weak": {"replay": str(data / task / "weak.jsonl")},
        "strong": {"max_tokens": 192, "vllm": {"command": command, "args": args}},
        "fine_tune": {"watch": 0, "device_batch_size": 4},
        "eval": {"n": MEASURED},
    }
    if method == "w2sr":
        return base | {"traces": {"questions": QUESTIONS}}
    # A student of this size agrees with itself at a low temperature alone, and pairs need agreement.
    two = {"samples": 5, "temperature": 0.3, "keep": 0.6, "reject_weak": 0.6}
    arms = ["full_weak", "gold", "icl"] if task == "gsm8k" else ["full_weak", "icl"]
    return base | {"questions": QUESTIONS, "stage_one": {"compare": False}, "stage_two": two, "arms": arms}


def run_cell(config: dict[str, Any], method: str, folder: Path) -> dict[str, Any]:
    """One run in this process; a finished one is read, an unfinished one gone on with."""
    from teacher.run_directory import RunDirectory
    from teacher.train import StopSignal
    from weak_to_strong import two_stage_config, w2sr_config
    from weak_to_strong.run import carry_out
    from weak_to_strong.two_stage_run import TwoStage
    from weak_to_strong.w2sr_run import W2SR

    run = RunDirectory(folder)
    if run.finished:
        return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    found = run if (folder / "config.yaml").exists() else None
    with StopSignal() as stop:
        if method == "w2sr":
            return carry_out(w2sr_config.resolve(load(w2sr_config.W2SRConfig, config)), found, lambda made: W2SR(made)(), stop)
        return carry_out(
            two_stage_config.resolve(load(two_stage_config.TwoStageConfig, config)), found, lambda made: TwoStage(made)(), stop
        )


def measured(task: str, method: str, folder: Path, vllm: str) -> dict[str, Any]:
    """What stands in the results file for a cell: its figures, or that nothing was left to learn from, which such a student can come to."""
    path = folder / f"{task}-{method}"
    try:
        return row(task, method, run_cell(settings(task, method, folder / "data", path, vllm), method, path))
    except NothingLeft as error:
        phases = sorted(found.stem for found in (path / "phases").glob("*.json"))
        return {"task": task, "method": method, "ended": str(error).partition("; go on with")[0], "phases": phases}


def row(task: str, method: str, summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of a cell."""
    arms = summary["eval"]["arms"]
    found: dict[str, Any] = {
        "task": task,
        "method": method,
        "shares": {name: [round(arm[key], 4) for key in ("mean", "low", "high")] for name, arm in arms.items()},
        "n": arms["raw"]["n"],
        "clients": {role: int(counts["calls"]) for role, counts in summary["clients"].items()},
        "phases": sorted(summary["phases"]),
    }
    if method == "w2sr":
        return found | {"chains": {key: summary["traces"][key] for key in ("chains", "right", "kept", "dropped")}}
    rounds = [{key: line[key] for key in ("kept", "counts", "right", "kept_right")} for line in summary["rounds"]]
    gains = {name: [round(gain[key], 4) for key in ("difference", "low", "high")] for name, gain in summary["gains"].items()}
    return found | {"rounds": rounds, "pairs": summary["pairs"], "stage_two": summary["stage_two"], "gains": gains}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The table on the page of results."""
    lines = ["| task | method | the recording | untaught | taught | learnt from | by phase |", "|---|---|---|---|---|---|---|"]
    for run in runs:
        if "ended" in run:
            lines.append(f"| {run['task']} | {run['method']} | | | | {run['ended']} | |")
            continue
        shown = [f"{s[0]:.1%} ({s[1]:.1%}–{s[2]:.1%})" for s in (run["shares"][arm] for arm in ("weak", "raw", "trained"))]
        if run["method"] == "w2sr":
            chains = run["chains"]
            learnt = f"{chains['kept']} of {chains['chains']} chains, {chains['right']:.1%} right"
            phases = ""
        else:
            first, pairs = run["rounds"][0], run["pairs"]
            learnt = f"{first['kept']} of {QUESTIONS} questions agreed on, {first['kept_right']['weak']:.1%} right; {pairs['pairs']} pairs"
            arms = ("icl", "full_weak", "gold", "stage_one", "stage_two")
            phases = ", ".join(f"{arm.replace('_', ' ')} {run['shares'][arm][0]:.1%}" for arm in arms if arm in run["shares"])
        lines.append(f"| {run['task']} | {run['method']} | {' | '.join(shown)} | {learnt} | {phases} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorded_chains", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=TASKS, help="only this task")
    parser.add_argument("--vllm", default=".venv-vllm/bin/python", help="the Python that has vLLM (default: what `make vllm-env` makes)")
    parser.add_argument("--folder", type=Path, help="where data and runs lie (default: benchmark-recorded_chains under the runs' folder)")
    args = parser.parse_args()
    folder = args.folder or runs_dir() / "benchmark-recorded_chains"
    prepare(folder / "data")
    runs, commit = load_runs(NAME), git_commit()
    for method, task in itertools.product(METHODS, (args.only,) if args.only else TASKS):
        if any((run["task"], run["method"]) == (task, method) for run in runs):
            continue
        runs.append({**measured(task, method, folder, args.vllm), "commit": commit})
        whole = {f"{run['task']} {run['method']}": run["shares"]["trained"][0] for run in runs if "shares" in run}
        headline = {"cells": len(runs), "whole": len(whole), "taught": whole}
        save(NAME, headline=headline, runs=runs, commit=commit)
        write_docs(NAME, table(runs))
        print(json.dumps(runs[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
