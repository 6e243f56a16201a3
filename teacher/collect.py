"""`python -m teacher.collect LOG.jsonl [LOG.jsonl ...] --out FOLDER`: what a service logged, made into the next teacher's data.

Lines of a log, in any order and any mix; what belongs to one request is joined by `request_id`:

    {"request_id": "r-1", "query": "...", "instruction": "...", "system"?, "history"?, "gold"?, "teacher"?, "arm"?, "unit"?, "time"?}
    {"request_id": "r-1", "metric": "resolved", "value": 1}
    {"kind": "exposure" | "outcome", "content": {...the fields above...}}         (an event of a service; `forced` ones are left out)
    {"query": "...", "instruction": "...", "metric": "resolved", "value": 1, "gold"?: "42"}                      (all in one)

`outcome` may stand for `value`, `question` for `query`, `answer` for `gold`. Other fields are ignored. Text is in a log only where its
capture was switched on for a key, so `collect` says what is missing. It writes:

    train.jsonl, test.jsonl   {"id", "question", "answer", ...}: requests with a right answer; a query is in one of the two alone
    instructions.jsonl        {"query", "instruction", "value", ...}: what worked, of the training side: teacher.warm_start.file
    held_out.jsonl            the same fields for the test side, worked or not: to check a judge or a reward against what really happened
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.arguments import Parser, number
from exchange.command import RunError, run_command
from exchange.settings import SettingError

ALSO = {"outcome": "value", "question": "query", "answer": "gold"}
KEPT = ("query", "instruction", "system", "history", "gold", "teacher", "arm", "unit", "source", "degraded")
FEW = 200
"""Instructions for a warm start below which a warning stands: M-Pilot's number (arXiv 2410.20749)."""


@dataclass
class Request:
    """What a log says of one request."""

    id: str
    fields: dict[str, Any] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    """By metric, the first that was reported."""


@dataclass
class Log:
    """A log, joined."""

    requests: dict[str, Request] = field(default_factory=dict)
    lines: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Why lines were left out."""


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line's fields under their one name, an event's content unpacked."""
    content = row.get("content")
    fields = {**row, **content} if isinstance(content, dict) else dict(row)
    return {ALSO.get(name, name): value for name, value in fields.items()}


def read(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Log:
    """Join (where, line) pairs. A line that cannot be used is counted, never an error: logs are written by programs of every version."""
    log = Log()
    for where, row in rows:
        log.lines += 1
        line = flat(row)
        if line.get("forced") or line.get("kind") == "forced":
            log.skipped["put into their arm by hand"] += 1
            continue
        name = line.get("request_id")
        if not isinstance(name, str) or not name:
            if not isinstance(line.get("query"), str):
                log.skipped["name neither a request nor a query"] += 1
                continue
            name = where
        request = log.requests.setdefault(name, Request(name))
        for key in KEPT:
            if line.get(key) is not None:
                request.fields.setdefault(key, line[key])
        value = line.get("value")
        if isinstance(value, int | float) and math.isfinite(value):
            request.values.setdefault(str(line.get("metric", "outcome")), float(value))
        elif value is not None:
            log.skipped["have a value that is no finite number"] += 1
    return log


def metric_of(log: Log, wanted: str | None) -> str:
    """The metric that says what worked. Raises SettingError where there is none, or several and none was chosen."""
    found = Counter(metric for request in log.requests.values() for metric in request.values)
    if wanted is not None and wanted in found:
        return wanted
    names = ", ".join(f"{name} ({count})" for name, count in found.most_common()) or "none"
    if wanted is not None or len(found) != 1:
        raise SettingError(
            f"--metric{'=' + wanted if wanted else ''}: the log holds these metrics: {names}; name the one that says what worked"
        )
    return next(iter(found))


@dataclass(frozen=True)
class Collected:
    """The files, and what to say of them."""

    files: dict[str, list[dict[str, Any]]]
    report: list[str]
    missing: list[str]


def collect(log: Log, *, metric: str, good: float, lower_is_better: bool = False) -> Collected:
    """Sort a log into the next teacher's files. `good` and better is what worked."""
    from tasks.own_data import split_of

    requests = list(log.requests.values())
    with_text = [r for r in requests if isinstance(r.fields.get("query"), str) and r.fields["query"].strip()]
    told = [r for r in with_text if isinstance(r.fields.get("instruction"), str) and not r.fields.get("degraded")]
    judged = [r for r in told if metric in r.values]
    questions: dict[str, dict[str, dict[str, Any]]] = {"train": {}, "test": {}}
    kept: dict[tuple[str, str], dict[str, Any]] = {}
    held_out = []
    for request in with_text:
        query, gold = request.fields["query"], request.fields.get("gold")
        system = {"system": request.fields["system"]} if isinstance(request.fields.get("system"), str) else {}
        if isinstance(gold, str | int | float) and str(gold).strip():
            side = "test" if split_of(query) == "test" else "train"
            questions[side].setdefault(query, {"id": request.id, "question": query, "answer": gold, **system})
    for request in judged:
        query, value = request.fields["query"], request.values[metric]
        row = {"query": query, "instruction": request.fields["instruction"], "value": value, "metric": metric, "id": request.id}
        row |= {key: request.fields[key] for key in ("system", "history", "teacher", "arm", "unit", "gold") if key in request.fields}
        worked = value <= good if lower_is_better else value >= good
        if split_of(query) == "test":
            held_out.append({**row, "worked": worked})
        elif worked:
            kept.setdefault((query, row["instruction"]), row)
    files = {
        "train.jsonl": list(questions["train"].values()),
        "test.jsonl": list(questions["test"].values()),
        "instructions.jsonl": list(kept.values()),
        "held_out.jsonl": held_out,
    }
    report = [f"{log.lines} lines, {len(requests)} requests, {len(judged)} with text, instruction and {metric}"]
    report += [f"{count} lines left out: they {why}" for why, count in log.skipped.items()]
    report += [f"{name}: {len(rows)} rows" for name, rows in files.items()]
    return Collected(files, report, missing(requests, with_text, told, judged, files, metric))


def missing(
    requests: Sequence[Request],
    with_text: Sequence[Request],
    told: Sequence[Request],
    judged: Sequence[Request],
    files: Mapping[str, Sequence[Any]],
    metric: str,
) -> list[str]:
    """What the log does not hold and the next teacher would need, a sentence each."""
    found = []
    if len(with_text) < len(requests):
        found.append(f"{len(requests) - len(with_text)} requests without their text: switch its capture on for the keys whose users agreed")
    if len(told) < len(with_text):
        found.append(f"{len(with_text) - len(told)} requests without an instruction of a teacher (captured, or fallen back to raw)")
    if len(judged) < len(told):
        found.append(f"{len(told) - len(judged)} instructed requests without {metric}: who does not report may differ from who does")
    if not files["train.jsonl"] or not files["test.jsonl"]:
        found.append("no right answers (field gold): reinforcement learning needs them, or a judge; the warm start does not")
    if not any(not r.fields["instruction"].strip() for r in judged):
        found.append("no request that was left raw: the log cannot say where silence is as good; give a raw arm some weight")
    if 0 < len(files["instructions.jsonl"]) < FEW:
        found.append(f"only {len(files['instructions.jsonl'])} instructions that worked; {FEW} are a usual warm start")
    if not files["instructions.jsonl"]:
        found.append("not one instruction that worked on the training side")
    return found


def next_steps(folder: Path, found: Collected) -> list[str]:
    """The commands that the files are for."""
    steps = []
    warm = f" --teacher.warm_start.file={folder / 'instructions.jsonl'}" if found.files["instructions.jsonl"] else ""
    if found.files["train.jsonl"] and found.files["test.jsonl"]:
        steps.append(f"python -m teacher.train --task.name=own --task.path={folder} --task.own.answer_type=TYPE{warm} ...")
    elif warm:
        steps.append(f"python -m teacher.train CONFIG.yaml{warm} ...")
    return steps


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="python -m teacher.collect", description=(__doc__ or "").split("\n")[0], epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("logs", nargs="+", metavar="LOG.jsonl", help="files of JSON lines; .gz is unpacked")
    made.add_argument("--out", required=True, metavar="FOLDER", help="where the files go; made where it does not exist")
    made.add_argument("--metric", help="the metric that says what worked; needed where the log has several")
    made.add_argument("--good", default="1", metavar="X", help="a value of X and better is what worked (default 1)")
    made.add_argument("--lower-is-better", action="store_true", help="the metric is better where it is lower")
    return made


def body(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    from tasks.source import read_lines

    good, folder = number("--good", args.good), Path(args.out)
    log = read((f"{path}:{at}", row) for path in args.logs for at, row in read_lines(Path(path)))
    found = collect(log, metric=metric_of(log, args.metric), good=good, lower_is_better=args.lower_is_better)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in found.files.items():
            temporary = folder / (name + ".tmp")
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            temporary.replace(folder / name)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from None
    print("\n".join(found.report))
    print("\n".join(f"missing: {line}" for line in found.missing) or "nothing is missing")
    print("\n".join(f"next: {line}" for line in next_steps(folder, found)))
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("teacher.collect", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
