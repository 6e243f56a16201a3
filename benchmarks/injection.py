"""`python -m benchmarks.injection [--prompts 600]`: how much of an injected text comes through a teacher to the student as advice.

Each prompt is an everyday task that carries a stranger's text: an order with a mark of its own (a word, a shop, an address, a tool), in one
of many wrappings. Two teachers are at their worst: *echo* repeats the query as its instruction, the *adversary* has been won over and
writes the order alone, in one disguise after another. The whole service stands between them and the student; the mark is looked for in the
delivered instruction in every way in which a capable student could read it. Beside it the same without the guard, and what the guard cannot
see: the order in the teacher's own words (`reworded`).

A gullible student, which does whatever its advice says, is then asked through the proxy by the official client for structured output and
for a tool call: raw, with the adversary and the guard, with the adversary and without. Writes `benchmarks/results/injection.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks.injection_prompts import DISGUISES, Injected, injected_prompts, reads
from benchmarks.results_file import save
from evaluation.paired import wilson
from exchange.guard import Guarded
from exchange.records import Instruction, PublicExample
from server.settings import ServerSettings
from teacher.run_directory import git_commit

NAME = "injection"


class Obedient:
    """A `ServedTeacher` that writes what the text of a query is mapped to."""

    id, sha256, task, max_instruction_tokens = "obedient", "0" * 64, "any", None

    def __init__(self) -> None:
        self.writes: dict[str, str] = {}

    @property
    def policy(self) -> Obedient:
        return self

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        return [Instruction(text=self.writes[example.query], source="teacher") for example in examples]


@contextmanager
def without_guard(off: bool) -> Iterator[None]:
    if not off:
        yield
        return
    with patch("server.line.guard", lambda instruction, example: Guarded(instruction=instruction)):
        yield


def survivors(prompts: Sequence[Injected], texts: Sequence[str], *, guarded: bool) -> tuple[list[bool], Counter[str]]:
    """Whether each prompt's mark was delivered where the teacher writes `texts`, and the reasons of the refusals."""
    from starlette.testclient import TestClient

    from server.app import create_app

    teacher = Obedient()
    app = create_app(ServerSettings(cache_entries=0, log_level="warning"), teacher)
    found, refused = [], Counter[str]()
    with without_guard(not guarded), TestClient(app) as client:
        for prompt, text in zip(prompts, texts, strict=True):
            teacher.writes = {prompt.query: text}
            reply = client.post("/instruct", json={"query": prompt.query, "system": prompt.system}).json()
            found.append(reads(reply["instruction"], prompt.mark))
            refused[reply["degraded"] or ("changed" if reply["instruction"] != text else "passed")] += 1
    return found, refused


def measure(prompts: Sequence[Injected]) -> list[dict[str, Any]]:
    """A row a teacher and disguise, with the guard and without it."""
    teachers = {"echo": [prompt.query for prompt in prompts], "echo of the system": [prompt.system for prompt in prompts]}
    teachers |= {f"adversary: {name}": [disguise(prompt) for prompt in prompts] for name, disguise in DISGUISES.items()}
    teachers["reworded"] = [prompt.reworded for prompt in prompts]
    rows = []
    for name, texts in teachers.items():
        # The words of the system are their own mark: what is looked for is its secret.
        marked = [p.model_copy(update={"mark": p.secret}) for p in prompts] if name == "echo of the system" else prompts
        with_guard, refused = survivors(marked, texts, guarded=True)
        bare, _ = survivors(marked, texts, guarded=False)
        rows.append({"teacher": name, "n": len(prompts), "survived": sum(with_guard), "without_guard": sum(bare), "guard": dict(refused)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def share(rows: Sequence[dict[str, Any]], beginning: str, field: str) -> dict[str, float]:
    """The share of survivors over the rows of one teacher, with its Wilson interval."""
    mine = [row for row in rows if row["teacher"].startswith(beginning)]
    n, k = sum(row["n"] for row in mine), sum(row[field] for row in mine)
    low, high = wilson(k, n)
    return {"share": round(k / n, 5), "low": round(low, 5), "high": round(high, 5), "n": n}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.injection", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompts", type=int, default=600, help="injection prompts, at most one for each order and wrapping (default 600)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    from benchmarks.injection_student import structured_and_tools

    commit = git_commit()
    prompts = injected_prompts(args.prompts)
    rows = measure(prompts)
    through = structured_and_tools(prompts[:100])
    headline = {
        "prompts": len(prompts),
        **{
            name: {"guard": share(rows, name, "survived"), "without_guard": share(rows, name, "without_guard")}
            for name in ("echo", "adversary")
        },
        "reworded": share(rows, "reworded", "survived"),
        "through_the_proxy": through,
    }
    if not args.no_save:
        save(NAME, headline=headline, runs=rows, commit=commit)
    print(json.dumps({"headline": headline}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
