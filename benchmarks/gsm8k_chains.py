"""`python -m benchmarks.gsm8k_chains --out DIR [--writer 6b_verification]`: real labelled solutions as a weak reasoner's recording.

The GSM8K repository holds four models' solutions to its 1,319 test questions, 22 to 56 % of them right by their authors' labels. Written
into DIR: `weak.jsonl`, a recording that `weak.replay` answers from, and `train.jsonl` and `test.jsonl`, the questions split in two (every
other one), for `task.path`. Then, with any open student:

    python -m weak_to_strong.w2sr --task.name=gsm8k --task.path=DIR --task.train_size=560 --task.validation_size=100 \\
        --traces.questions=560 --weak.replay=DIR/weak.jsonl --strong.model=FOLDER --strong.max_tokens=400
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from exchange.command import run_command
from exchange.settings import SettingError
from tasks.source import data_root, read_lines

WRITERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def write(out: Path, writer: str) -> dict[str, float]:
    """Write the three files; how many questions, and the share right by label. Raises SettingError."""
    folder = data_root() / "gsm8k"
    solutions = [row for _, row in read_lines(folder / "example_model_solutions.jsonl.gz")]
    questions = {row["question"]: row for _, row in read_lines(folder / "test.jsonl.gz")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        recording = [
            {
                "messages": [{"role": "user", "content": row["question"]}],
                "completion": {"text": row[writer]["solution"], "finish_reason": "stop"},
            }
            for row in solutions
        ]
        halves = [[questions[row["question"]] for row in solutions[k::2]] for k in (0, 1)]
        for name, rows in (("weak", recording), ("train", halves[0]), ("test", halves[1])):
            (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise SettingError(f"--out={out}: cannot be written ({error.strerror})") from None
    return {"questions": len(solutions), "right": sum(row[writer]["is_correct"] for row in solutions) / len(solutions)}


def body(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gsm8k_chains", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--writer", choices=WRITERS, default="6b_verification", help="whose solutions (default 6b_verification)")
    args = parser.parse_args(argv)
    print(json.dumps(write(args.out, args.writer)))
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("benchmarks.gsm8k_chains", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
