"""`python -m benchmarks.paper [--student openai|vllm|tiny] [--only NAME ...] [--seeds N ...] [--dry-run]`: the source's claims, tried.

WST (Ge, Li, Huang: arXiv 2508.16741) claims in its abstract a relative gain of 98 % on MATH-500 and of 134 % on HH-RLHF, with teachers from
0.5B, over instructions by stronger models. Its settings are not published where we could read them, so the protocol is ours: the shipped
config of each task, a 0.5B teacher, an 8B student in vLLM or a closed one, and the arms raw, static, a stronger model as instructor,
untrained and trained, on the same questions with the same grader.

What is after `--` goes to every `python -m teacher.train`, e.g. `-- --budget.usd=50 '--budget.prices={...}'`. `tiny` runs the same on the
lab's models in this process: it proves the kit, its figures say nothing of the claims and are not kept. Writes
`benchmarks/results/paper.json` and its table in results.md; a cell that stands there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results_file import load_runs, save, train, write_docs
from exchange.command import RunError, run_command
from exchange.settings import SettingError
from lab.weights_folder import model_dir
from teacher.run_directory import git_commit

NAME = "paper"
STRONGER = "model:stronger"


@dataclass(frozen=True)
class Cell:
    """One benchmark of the paper."""

    task: str
    """First part of the shipped configs' names."""
    claim: str
    """The abstract's own words, as far as they are a figure."""


CELLS = {
    "math": Cell("math", "+98 % relative"),
    "gsm8k": Cell("gsm8k", "a gain, no figure"),
    "hh_rlhf": Cell("hh_rlhf", "+134 % relative"),
}
INSTRUCTOR = "Qwen/Qwen2.5-3B-Instruct"
"""An untrained model six times the teacher's size that fits beside it; the paper names GPT-4o-mini and Llama-70B."""


def tiny(task: str) -> list[str]:
    """Flags that put the lab's models in the place of all others, and few of everything."""
    teacher = str(model_dir("arithmetic", "teacher"))
    flags = [
        "--student.kind=embedded", "--student.model=lab:arithmetic/student", "--student.max_tokens=24", f"--teacher.model={teacher}",
        "--teacher.max_instruction_tokens=24", "--teacher.warm_start.questions=4", "--teacher.warm_start.samples=2", "--max_steps=2",
        "--trl.per_device_train_batch_size=8", "--trl.gradient_accumulation_steps=2", "--eval.every=1", "--eval.n=12",
        "--task.validation_size=8", "--task.train_size=64",
    ]  # fmt: skip
    if task == "hh_rlhf":
        flags += ["--reward.preference.model=lab:alignment/preference", "--reward.second.preference.model=lab:alignment/preference_b"]
    return flags


def command(name: str, student: str, seed: int, instructor: str, more: Sequence[str]) -> list[str]:
    """The arguments of one `python -m teacher.train`."""
    cell = CELLS[name]
    config = f"{cell.task}_{'openai' if student == 'openai' else 'vllm'}"
    flags = tiny(cell.task) if student == "tiny" else []
    who = str(model_dir("arithmetic", "student_b")) if student == "tiny" else instructor
    return [config, *flags, f"--seed={seed}", f"--eval.arms.{STRONGER}.model={who}", *more]


def outcome(summary: dict[str, Any], seed: int, name: str, student: str, gpus: float) -> dict[str, Any]:
    """What is kept of a run."""
    block = summary["eval"]
    pair = block["vs_raw"]["trained"]
    # A win rate over raw has no zero that a ratio could refer to: raw is 50 % by construction.
    ratio = name != "hh_rlhf" and pair["relative_gain"] is not None
    relative = [pair["relative_gain"], pair["relative_low"], pair["relative_high"]] if ratio else None
    return {
        "benchmark": name,
        "student": student,
        "seed": seed,
        "n": block["n"],
        "arms": {arm: block["arms"][arm]["mean"] for arm in ("raw", "static", STRONGER, "untrained", "trained") if arm in block["arms"]},
        "difference": [pair["difference"], pair["low"], pair["high"]],
        "relative": relative,
        "claimed": CELLS[name].claim,
        "verdict": block["verdict"],
        "gpu_hours": round(summary["wall_s"] / 3600 * gpus, 3),
        "usd": summary["student"]["cost_usd"],
        "calls": summary["student"]["calls"],
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Every benchmark has its claim; a row without a run invites one."""
    heads = ["benchmark", "student", "seed", "raw", "static", "stronger instructs", "untrained", "trained", "trained − raw (95 %)",
             "relative gain (95 %)", "claimed; not reproduced here", "GPU-hours", "dollars"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, cell in CELLS.items():
        found = [run for run in runs if run["benchmark"] == name]
        for run in found:
            arms, relative = run["arms"], run["relative"]
            difference, low, high = run["difference"]
            gain = "" if relative is None or None in relative else f"{relative[0]:+.0%} ({relative[1]:+.0%} .. {relative[2]:+.0%})"
            cells = [
                name, run["student"], str(run["seed"]),
                *(f"{arms[arm]:.1%}" if arm in arms else "" for arm in ("raw", "static", STRONGER, "untrained", "trained")),
                f"{difference:+.1%} ({low:+.1%} .. {high:+.1%})", gain, cell.claim, f"{run['gpu_hours']:.2f}", f"{run['usd']:.2f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        if not found:
            lines.append("| " + " | ".join([name, "not run yet", *[""] * 8, cell.claim, "", ""]) + " |")
    return "\n".join(lines)


def dry_run(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What one run would ask and cost."""
    from exchange.settings import parse_known
    from teacher.train import dry_run as estimate
    from teacher.train import read_config

    args, rest = parse_known(_positional(), arguments)
    cost = estimate(read_config(args.config, rest))
    keys = ("usd_about", "hours_at_1_s_a_call", "memory_gib")
    return {"benchmark": name, "calls": cost["student_calls_at_most"]["total"], **{key: cost.get(key) for key in keys}}


def _positional() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    return parser


def body(argv: Sequence[str]) -> int:
    given = list(argv)
    more = given[given.index("--") + 1 :] if "--" in given else []
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--student", choices=["openai", "vllm", "tiny"], default="vllm", help="who answers (default vllm)")
    parser.add_argument("--only", nargs="+", choices=list(CELLS), default=list(CELLS), help="benchmarks (default all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (default 0 1 2)")
    parser.add_argument("--instructor", default=INSTRUCTOR, help=f"the stronger, untrained model (default {INSTRUCTOR})")
    parser.add_argument("--gpus", type=float, default=2.0, help="cards in use, the student's included, for GPU-hours (default 2)")
    parser.add_argument("--dry-run", action="store_true", help="print what each run would ask and cost, then stop")
    args = parser.parse_args(given[: given.index("--")] if "--" in given else given)
    if args.gpus <= 0:
        raise SettingError(f"--gpus={args.gpus}: a number above 0 is meant")
    runs: list[dict[str, Any]] = [] if args.student == "tiny" else load_runs(NAME)
    commit = git_commit()
    for name in args.only:
        for seed in args.seeds:
            wanted = {"benchmark": name, "student": args.student, "seed": seed}
            arguments = command(name, args.student, seed, args.instructor, more)
            if args.dry_run:
                print(json.dumps({**wanted, **dry_run(name, arguments)}), flush=True)
            elif not any(wanted.items() <= run.items() for run in runs):
                try:
                    summary, _ = train(arguments)
                except subprocess.CalledProcessError:
                    raise RunError(f"{name}, seed {seed}: the training failed, see above; cells that are done are not repeated") from None
                runs.append({**outcome(summary, seed, name, args.student, args.gpus), "commit": commit})
                if args.student != "tiny":
                    save(NAME, headline={"runs": len(runs)}, runs=runs, commit=commit)
                    write_docs(NAME, table(runs))
    if not args.dry_run:
        print(table(runs))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("benchmarks.paper", lambda: body(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
