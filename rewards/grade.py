"""Grade answers from a file, with the same graders that training and evaluation use.

    python -m rewards.grade --task gsm8k answers.jsonl > graded.jsonl
    cat answers.jsonl | python -m rewards.grade --task math --strict -

Lines `{"gold": ..., "output": ...}` in (other fields are kept; a `query` lets an answer to a choice question name an option by its text),
the same lines with `"correct"` and `"extracted"` out, totals on stderr. `correct` is null only where the grader could not decide. The whole
input is read and checked before the first line is written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exchange.command import run_command
from exchange.settings import SettingError

if TYPE_CHECKING:
    from rewards.correctness import Grade
    from tasks.answer_type import AnswerType

AHEAD = 64
"""Questions that may wait for the workers at a time."""


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m rewards.grade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    described.add_argument("--task", required=True, help="a task's name (gsm8k, math, ...), or own/ANSWER_TYPE for rows of your own")
    described.add_argument("--strict", action="store_true", help="only what follows the last marker (####, A:, The answer is, \\boxed{})")
    described.add_argument("file", metavar="FILE.jsonl", help="lines with gold and output, .gz where it is named so; - = stdin")
    return described


def answer_type_named(task: str) -> AnswerType:
    """The answer type of a task by name. Raises SettingError naming the known ones."""
    import difflib
    from typing import get_args

    from tasks import TASKS, answer_type_of
    from tasks.answer_type import AnswerType

    known = [name for name, entry in TASKS.items() if entry.answer_type is not None] + [f"own/{name}" for name in get_args(AnswerType)]
    if task in TASKS or task in known:
        answer_type = answer_type_of(task)
        if answer_type is not None:
            return answer_type
        raise SettingError(f"--task={task}: this task has no gold to grade by; tasks with one: {', '.join(known)}")
    near = difflib.get_close_matches(task, known, n=1)
    raise SettingError(f"--task={task}: no such task{f'; did you mean {near[0]}?' if near else ''} (known: {', '.join(known)})")


def read_input(file: str) -> list[dict[str, Any]]:
    """The rows, each with text or a number as gold and text as output. Raises SettingError naming file and line."""
    from tasks.source import parse_lines, read_lines

    name = "stdin" if file == "-" else file
    if file != "-" and not Path(file).is_file():
        raise SettingError(f"{file}: no such file")
    rows = parse_lines(sys.stdin.buffer.read(), name) if file == "-" else read_lines(Path(file))
    if not rows:
        raise SettingError(f"{name}: is empty")
    for number, row in rows:
        for field in ("gold", "output"):
            if field not in row:
                raise SettingError(f"{name}:{number}: field {field!r} is missing")
        if isinstance(row["gold"], bool) or not isinstance(row["gold"], str | int | float):
            raise SettingError(f"{name}:{number}: field 'gold' is neither text nor a number")
        if not isinstance(row["output"], str):
            raise SettingError(f"{name}:{number}: field 'output' is not text")
    return [row for _, row in rows]


def grades(rows: Sequence[dict[str, Any]], answer_type: AnswerType, strict: bool) -> Iterator[Grade]:
    """A grade a row, in order; a few rows ahead are graded at the same time."""
    from concurrent.futures import Future, ThreadPoolExecutor

    from rewards.correctness import Grader
    from rewards.worker_pool import WORKERS

    grader = Grader()

    def one(row: dict[str, Any]) -> Grade:
        return grader.grade(answer_type, str(row["gold"]), row["output"], strict=strict, query=str(row.get("query", "")))

    waiting: list[Future[Grade]] = []
    with ThreadPoolExecutor(WORKERS + 1) as threads:
        for row in rows:
            waiting.append(threads.submit(one, row))
            if len(waiting) >= AHEAD:
                yield waiting.pop(0).result()
        for outcome in waiting:
            yield outcome.result()


def run(args: argparse.Namespace) -> int:
    answer_type = answer_type_named(args.task)
    rows = read_input(args.file)
    totals: Counter[str] = Counter()
    for row, grade in zip(rows, grades(rows, answer_type, args.strict)):
        totals["correct" if grade.correct else "undecided" if grade.correct is None else "wrong"] += 1
        if grade.problem:
            totals[grade.problem] += 1
        print(json.dumps({**row, "correct": grade.correct, "extracted": grade.extracted}))
    sys.stdout.flush()
    problems = ", ".join(f"{totals[name]} {words}" for name, words in PROBLEMS.items() if totals[name])
    decided = totals["correct"] + totals["wrong"]
    share = f" ({totals['correct'] / decided:.1%})" if decided else ""
    print(
        f"{len(rows)} graded: {totals['correct']} correct{share}, {totals['wrong']} wrong, {totals['undecided']} undecided"
        + (f" [{problems}]" if problems else ""),
        file=sys.stderr,
    )
    return 0


PROBLEMS = {
    "no_answer": "without an answer",
    "unparsed": "with an answer that could not be parsed",
    "gold": "with an unusable gold",
    "time": "out of time",
    "memory": "out of memory",
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return run_command("rewards.grade", lambda: run(args))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
