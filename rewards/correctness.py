"""Right or wrong against the gold, by the kind of answer the task asks for: number, math, choice, yes_no, roles, text.

Most answers are decided here, in microseconds; what needs algebra goes to a worker process (`rewards.worker_pool`). A grade is None where
the grader could not decide, because the gold is unusable or the worker ran over its limits; it is never turned into a zero.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass

from exchange.records import Completion, Example, Score
from rewards.worker_pool import Verdict, WorkerPool, shared_pool
from tasks import answer_type_of
from tasks.answer_type import AnswerType
from tasks.gsm8k_answer import equal, extract, gold_number
from tasks.knights_knaves import extract_roles, gold_roles
from tasks.label_answer import extract_choice, extract_yes_no, gold_choice, gold_yes_no, options_of
from tasks.latex_form import MAX_CHARS
from tasks.math_answer import boxes, candidates, gold_expression, visible
from tasks.math_equivalence import compare, plain_leaf


@dataclass(frozen=True)
class Grade:
    """The outcome for one answer."""

    correct: bool | None
    """None = could not be decided; `problem` says why."""
    extracted: str | None = None
    problem: str | None = None
    """`gold` (unusable), `time`, `memory`; with a decided grade `unparsed` (the answer is no expression) or `no_answer`."""


@dataclass(frozen=True)
class _Open:
    """What only algebra can decide."""

    gold: str
    readings: tuple[str, ...]


class Grader:
    """Grades answers and counts what went wrong on the way."""

    def __init__(self, pool: WorkerPool | None = None, *, fast: bool = True) -> None:
        self.counts: Counter[str] = Counter()
        """How often each `problem` came up."""
        self._pool = pool if pool is not None else shared_pool()
        self._fast = fast
        """False sends every mathematical answer to the worker, equal spelling or not: for tests of the algebra."""

    def grade(self, answer_type: AnswerType, gold: str, output: str, *, strict: bool = False, query: str = "") -> Grade:
        """Grade one answer; blocks while a worker is at it. `query` lets an answer name an option of a choice question by its text."""
        first = self._first(answer_type, gold, output, strict, query)
        if isinstance(first, _Open):
            first = _closed(first, self._pool.submit(first.gold, first.readings).result())
        return self._counted(first)

    async def agrade(self, answer_type: AnswerType, gold: str, output: str, *, strict: bool = False, query: str = "") -> Grade:
        """The same without blocking the event loop."""
        first = self._first(answer_type, gold, output, strict, query)
        if isinstance(first, _Open):
            first = _closed(first, await asyncio.wrap_future(self._pool.submit(first.gold, first.readings)))
        return self._counted(first)

    def _counted(self, grade: Grade) -> Grade:
        if grade.problem:
            self.counts[grade.problem] += 1
        return grade

    def _first(self, answer_type: AnswerType, gold: str, output: str, strict: bool, query: str) -> Grade | _Open:
        if answer_type == "math":
            return self._math(gold, output, strict)
        right: str | None
        if answer_type == "number":
            right, found = gold_number(gold), extract(output, strict=strict)
            same = right is not None and found is not None and equal(found, right)
        elif answer_type == "text":
            right, found = _words(gold) or None, extract_text(output, strict=strict)
            same = found is not None and _words(found) == right
        else:
            if answer_type == "choice":
                right, found = gold_choice(gold), extract_choice(output, strict=strict, options=options_of(query))
            elif answer_type == "yes_no":
                right, found = gold_yes_no(gold), extract_yes_no(output, strict=strict)
            else:
                right, found = gold_roles(gold), extract_roles(output, gold, strict=strict)
            same = found == right
        if right is None:
            return Grade(None, found, "gold")
        return Grade(same, found, None if found is not None else "no_answer")

    def _math(self, gold: str, output: str, strict: bool) -> Grade | _Open:
        right, readings = gold_expression(gold), candidates(output, strict=strict)
        extracted = readings[0] if readings else None
        if right is None:
            return Grade(None, extracted, "gold")
        if not readings:
            return Grade(False, None, "no_answer")
        still: list[str] = []
        unparsed = 0
        for reading in readings:
            if len(reading) > MAX_CHARS:
                if reading.strip() == right:
                    return Grade(True, reading)
                continue
            try:
                spelled_alike = self._fast and _closed_up(right) == _closed_up(reading)
                same = spelled_alike or (compare(right, reading, plain_leaf) if self._fast else None)
            except ValueError:
                unparsed += 1
                continue
            if same:
                return Grade(True, reading)
            if same is None:
                still.append(reading)
        if still:
            return _Open(right, tuple(still))
        return Grade(False, extracted, "unparsed" if unparsed == len(readings) else None)


def _closed_up(text: str) -> str:
    """Without the blanks that say nothing: `1 2/5` is not `12/5`."""
    return re.sub(r"\s+(?![0-9])|(?<![0-9])\s+", "", text.strip())


def _closed(question: _Open, verdict: Verdict) -> Grade:
    """The grade that the worker's verdict means."""
    if verdict.lost:
        return Grade(None, question.readings[0], verdict.lost)
    right = [reading for reading, same in zip(question.readings, verdict.equal) if same]
    unparsed = verdict.unparsed == len(question.readings)
    return Grade(bool(right), right[0] if right else question.readings[0], "unparsed" if unparsed else None)


def _words(text: str) -> str:
    """Words without case, punctuation and articles (as SQuAD compares answers, arXiv 1606.05250)."""
    words = re.sub(r"[^\w\s]", " ", text.casefold())
    return " ".join(word for word in words.split() if word not in ("a", "an", "the"))


def extract_text(output: str, *, strict: bool = False) -> str | None:
    """The words of the final answer: of the last box, after the last marker, else the last line that is not empty."""
    text = visible(output)
    group = boxes(text)
    if group:
        return group[-1].strip() or None
    marked = re.findall(r"(?:####|\banswer(?:\s+is\s*:?|\s*:)|(?:^|\n)A:)\s*\**\s*([^\n]+?)[\s.*]*(?:\n|$)", text, re.IGNORECASE)
    if marked:
        return str(marked[-1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return None if strict or not lines else lines[-1]


async def grade_answer(grader: Grader, example: Example, completion: Completion) -> Score:
    """The plain grade of an answer, by the answer type of the example's task. `value` None: failed, no gold, or not decidable."""
    answer_type = answer_type_of(example.task)
    if completion.text is None or example.gold is None or answer_type is None:
        return Score(value=None)
    return _score(await grader.agrade(answer_type, example.gold, completion.text, query=example.query))


def _score(grade: Grade) -> Score:
    return Score(value=None if grade.correct is None else float(grade.correct), extracted=grade.extracted, problem=grade.problem)
