"""`python docs/make_costs.py`: write the table of docs/costs.md from the dry run of every shipped config.

Needs the data sets (WST_DATA_DIR).
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

PAGE = Path(__file__).parent / "costs.md"
PRICE = ["--budget.prices={gpt-4o-mini: {input: 0.15, output: 0.60, as_of: 2026-11-20}}", "--budget.usd=100"]
"""An example of a price, with its day; a user looks up the price of the day."""
TASKS = ("gsm8k", "math", "hh_rlhf", "svamp", "strategyqa", "custom")
CONFIGS: dict[str, list[str]] = {
    "lab_arithmetic_grpo": [],
    "lab_alignment_grpo": [],
    **{f"{task}_openai": PRICE for task in TASKS},
    **{f"{task}_vllm": [] for task in TASKS},
    **{f"single_gpu_{size}gb": [] for size in (24, 48, 80)},
}
"""Config -> the flags that its first lines ask for."""
START, END = "<!-- costs -->", "<!-- /costs -->"


def costs_of(folder: Path, configs: dict[str, list[str]] | None = None) -> dict[str, dict[str, Any]]:
    """The dry run of each config, in an empty folder that holds what a `custom` run reads: 400 questions."""
    from teacher.train import dry_run, read_config

    rows = (f'{{"question": "What is {i} plus {i + 1}, times two?", "answer": {2 * (2 * i + 1)}}}\n' for i in range(400))
    (folder / "questions.jsonl").write_text("".join(rows), encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        return {name: dry_run(read_config(name, flags)) for name, flags in (CONFIGS if configs is None else configs).items()}
    finally:
        os.chdir(before)


def table(costs: dict[str, dict[str, Any]]) -> str:
    """A line a config."""
    lines = [
        "| config | student calls at most | prompt + answer tokens (M) | dollars | hours at 1 s a call "
        "| teacher (GiB) | with the student (GiB) |",
        "|" + "---|" * 7,
    ]
    for name, cost in costs.items():
        tokens, memory = cost["tokens"], cost["memory_gib"]
        teacher = "below 0.5" if memory["teacher"] < 0.5 else f"{memory['teacher']:.1f}"
        together = f"{memory['total']:.1f} of {memory['card']:.1f}" if "student_vllm" in memory else ""
        hours = cost.get("hours_at_1_s_a_call")
        cells = [
            f"`{name}`", f"{cost['student_calls_at_most']['total']:,}",
            f"{tokens['prompt_about'] / 1e6:.1f} + {tokens['completion_at_most'] / 1e6:.1f}",
            f"{cost['usd_about']:.2f}" if cost["usd_about"] else "0", "" if hours is None else f"{hours:.2f}", teacher, together,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = table(costs_of(Path(folder)))
    head, rest = PAGE.read_text(encoding="utf-8").split(START)
    PAGE.write_text(f"{head}{START}\n{found}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
