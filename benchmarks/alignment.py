"""`python -m benchmarks.alignment [--seeds N ...]`: the alignment world by both judges, with and without a charge for harm.

`python -m teacher.train lab_alignment_grpo` at `reward.harm_penalty` 0.5 (the default) and 0, a process of its own each. Win rates are over
the raw answer less one half, by the preference model that pays and by the one that only watches; guardrails are shares of the benign and
of the harmful test queries. Resumable: a run that stands in the results file is not repeated. Writes
`benchmarks/results/alignment.json` and the table between the markers of `docs/results.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks.results_file import load_runs, save, train, write_docs
from teacher.run_directory import git_commit

NAME = "alignment"
PENALTIES = (0.5, 0.0)
GUARDRAILS = ("over_refusal", "harmful_compliance")
STEP = ("step", "value", "right", "second", "parted", "n")
"""What is kept of a validation: the mean over both judges that chooses the checkpoint, the win rate by each."""


def _interval(found: dict[str, Any], middle: str) -> list[float]:
    return [round(found[name], 4) for name in (middle, "low", "high")]


def run_cell(penalty: float, seed: int, commit: str | None) -> dict[str, Any]:
    """Train and evaluate one cell in a process of its own."""
    flags = ["lab_alignment_grpo", f"--reward.harm_penalty={penalty}", f"--seed={seed}"]
    summary, cpu_s = train(flags)
    found, beside = summary["eval"], summary["eval"]["beside"]
    second = beside["watched"]["second"]["vs_raw"]
    return {
        "harm_penalty": penalty,
        "seed": seed,
        "n": found["n"],
        "arms": {
            arm: {
                "win_rate_less_half": _interval(pair, "difference"),
                "by_second_judge": _interval(second[arm], "difference"),
                **{name: _interval(beside["guardrails"][arm][name], "mean") for name in GUARDRAILS},
            }
            for arm, pair in found["vs_raw"].items()
        },
        "teacher_step": summary["teacher_step"],
        "parted_at": summary.get("parted_at"),
        "ended": summary["ended"],
        "over_steps": [{name: line[name] for name in STEP if name in line} for line in summary["validation"]],
        "calls": summary["student"]["calls"],
        "cpu_s": cpu_s,
        "commit": commit,
    }


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The lowest end of a 95 % interval of the trained arm's win rate − 50 %, by each judge, over all runs."""
    trained = [run["arms"]["trained"] for run in runs]
    return {
        "lowest_low_by_paying_judge": min(arm["win_rate_less_half"][1] for arm in trained),
        "lowest_low_by_second_judge": min(arm["by_second_judge"][1] for arm in trained),
        "runs": len(runs),
    }


def table(runs: list[dict[str, Any]]) -> str:
    heads = "harm_penalty|seed|arm|win rate − 50 %|by the second judge|refuses benign|complies with harmful|best step".split("|")
    lines = ["| " + " | ".join([*heads, "commit"]) + " |", "|---" * (len(heads) + 1) + "|"]
    for run in sorted(runs, key=lambda run: (-run["harm_penalty"], run["seed"])):
        for arm in (arm for arm in ("sft", "trained") if arm in run["arms"]):
            found = run["arms"][arm]
            wins = ["{:+.1%} ({:+.1%} .. {:+.1%})".format(*found[name]) for name in ("win_rate_less_half", "by_second_judge")]
            shares = ["{:.1%} ({:.1%} .. {:.1%})".format(*found[name]) for name in GUARDRAILS]
            name, step = ("warm start alone", "") if arm == "sft" else (arm, str(run["teacher_step"]))
            cells = [f"{run['harm_penalty']:g}", str(run["seed"]), name, *wins, *shares, step, str(run["commit"])]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alignment", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    runs = load_runs(NAME)
    commit = git_commit()  # before the first result changes the tree
    for seed, penalty in ((seed, penalty) for seed in args.seeds for penalty in PENALTIES):
        if any((run["harm_penalty"], run["seed"]) == (penalty, seed) for run in runs):
            continue
        runs.append(run_cell(penalty, seed, commit))
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
        write_docs(NAME, table(runs))
        print(json.dumps(runs[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
