"""Three-step variant: the student drafts, the teacher advises on the draft, the student revises (Advisor Models, arXiv 2510.02453).

A draft is the student's raw answer, asked once a question and kept in the run's directory: a resumed run advises on the same drafts,
whatever the student would say now, and on none where there was none when learning began. Silence keeps the draft, since it composes to
the raw messages, whose answer the draft is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from exchange.protocols import SamplingParams, StudentClient
from exchange.records import Example
from rewards.preference import RawAnswers
from student_clients.errors import StudentError
from teacher.run_directory import RunDirectory

FILE = "drafts.jsonl"


async def drafted(
    examples: Sequence[Example], *, student: StudentClient, params: SamplingParams, run: RunDirectory | None = None, section: str = ""
) -> list[Example]:
    """The examples with their drafts, in order; `draft` stays None where the student gave none.

    With a run those that stand in its log are not asked again, and the others are added to it; `section` tells two students apart.
    """
    lines = run.lines(FILE) if run is not None else []
    known: dict[tuple[str, str], str | None] = {(line["split"], line["id"]): line["draft"] for line in lines if line["section"] == section}
    answers = RawAnswers(student, params)

    async def draft(example: Example) -> str | None:
        if (example.split, example.id) in known:
            return known[example.split, example.id]
        try:
            return await answers.of(example)
        except StudentError:
            return None

    done = await asyncio.gather(*(draft(example) for example in examples), return_exceptions=True)
    found: list[str | None] = []
    rows = []
    failed: BaseException | None = None
    for example, text in zip(examples, done, strict=True):
        if isinstance(text, BaseException):
            failed, text = text, None
        found.append(text)
        if text is not None and (example.split, example.id) not in known:
            rows.append({"section": section, "split": example.split, "id": example.id, "draft": text})
    if run is not None and rows:
        run.rewrite(FILE, [*lines, *rows])
    if failed is not None:
        raise failed  # the budget, say; what was answered is kept
    return [example.model_copy(update={"draft": text}) for example, text in zip(examples, found, strict=True)]


def settle(examples: Sequence[Example], run: RunDirectory, section: str = "") -> None:
    """Those that have no draft by now stay without one: what a resumed run learns from and is validated on is what it was."""
    lines = run.lines(FILE)
    known = {(line["section"], line["split"], line["id"]) for line in lines}
    missing = [example for example in examples if (section, example.split, example.id) not in known]
    if missing:
        run.rewrite(FILE, [*lines, *({"section": section, "split": e.split, "id": e.id, "draft": None} for e in missing)])
