"""A user's own questions: a JSON-lines file, a folder of them, or a Hub set, with the names of its fields set by config.

    python -m teacher.train --task.name=own --task.path=questions.jsonl --task.own.query=prompt --task.own.answer=label \\
        --task.own.answer_type=number

One row, with the default names:

    {"id": "q-17", "question": "How many ...?", "answer": "42"}

A folder holds train.jsonl and test.jsonl, and may hold validation.jsonl. A single file is divided by the text of its questions: a fifth
tests, a tenth validates. The file is refused as a whole where one row is faulty.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from exchange.records import Example
from exchange.settings import SettingError, Settings
from tasks.answer_type import AnswerType
from tasks.choice import example_of
from tasks.gsm8k_answer import gold_number
from tasks.label_answer import gold_choice, gold_yes_no
from tasks.math_answer import gold_expression
from tasks.source import Hub, Row, find, load_rows, read_lines, some, stable_share

STATIC_INSTRUCTION = (
    "Work through the question step by step and check the result. End with a line `Answer: ` followed by the final answer only."
)


class OwnData(Settings):
    """How a user's own rows are read."""

    answer_type: AnswerType = "text"
    """number, math, choice (a letter), yes_no, roles or text: how an answer is graded."""
    query: str = "question"
    """Field with the question."""
    answer: str | None = "answer"
    """Field with the right answer; null = there is none, for rewards that need no gold (reward.kind consistency, judge, preference)."""
    risk: str | None = None
    """Field that says `benign` or `harmful`, so that refusals of the one and compliance with the other are counted; None = not known."""
    id: str | None = None
    """Field that names a row; None = `id` where rows have it, else the line number."""
    options: str | None = None
    """Field with the list of options of a choice question, shown with letters; None = the question lists them itself."""
    reference: str | None = None
    """Field with a worked solution, for the leakage check; None = there is none."""
    system: str | None = None
    """Field with a system prompt; None = there is none."""
    hub: str | None = None
    """Hub set, `owner/name`; None = task.path is read."""
    hub_config: str | None = None
    """Configuration of the Hub set; None = its only one."""
    hub_revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of the Hub set, 40 hexadecimal digits: required with `hub`, so that a run can be repeated."""

    @model_validator(mode="after")
    def _options_have_an_answer(self) -> OwnData:
        if self.options is not None and self.answer is None:
            raise ValueError("task.own.options: needs task.own.answer; without a gold, write the options into the question")
        return self


GOLD: dict[AnswerType, Callable[[str], str | None]] = {
    "number": gold_number,
    "math": gold_expression,
    "choice": gold_choice,
    "yes_no": gold_yes_no,
    "roles": lambda gold: gold if "kn" in gold.lower() else None,
    "text": lambda gold: gold.strip() or None,
}
"""Answer type -> what the grader reads from a gold; None = it cannot be parsed."""


def gold_of(value: Any, answer_type: AnswerType, where: str, field: str) -> str:
    """The gold as text. Raises SettingError naming file and line where the answer type cannot parse it."""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, int | float):
        text = repr(value)
    elif isinstance(value, str) and value.strip():
        text = value
    else:
        raise SettingError(f"{where}: field {field!r} is missing, empty or neither text nor a number")
    if GOLD[answer_type](text) is None:
        raise SettingError(f"{where}: field {field!r} cannot be read as {answer_type} ({text[:60]!r})")
    return text


def _rows(own: OwnData, split: str, path: str | None) -> tuple[list[Row], str]:
    """(rows, how they are divided): `file` where they are the split itself, `tenth` of the training file, `hash` of a single file."""
    if own.hub is not None:
        if own.hub_revision is None:
            raise SettingError("task.own.hub_revision: required with task.own.hub (the commit to read)")
        source = "test" if split == "test" else "train"
        hub = (Hub(own.hub, own.hub_revision, source, own.hub_config),)
        return load_rows("own", own.hub.replace("/", "-"), (source,), None, hub), "file" if split == "test" else "tenth"
    if path is None:
        raise SettingError("task.path: required for task own (a .jsonl file or a folder of them), or task.own.hub")
    if Path(path).is_file():
        return [(f"{path}:{number}", row) for number, row in read_lines(Path(path))], "hash"
    if split == "validation" and find(Path(path), "validation") is not None:
        return load_rows("own", "", ("validation",), path, ()), "file"
    rows = load_rows("own", "", ("test" if split == "test" else "train",), path, ())
    return rows, "file" if split == "test" or find(Path(path), "validation") is not None else "tenth"


def split_of(query: str) -> str:
    """The split that a query of an undivided file belongs to, by its text alone."""
    share = stable_share(query, 10)
    return "test" if share < 2 else "validation" if share == 2 else "train"


def load(own: OwnData, split: str, *, limit: int | None = None, path: str | None = None, whole: bool = False) -> list[Example]:
    """The questions of a split in file order, at most `limit`; `whole` takes all rows of a single file for that split.

    Raises SettingError naming file and line for the first faulty row.
    """
    rows, divided = _rows(own, split, path)
    divided = "file" if whole else divided
    if not rows:
        raise SettingError(f"task own: {path or own.hub} is empty")
    task = f"own/{own.answer_type}"
    examples: list[Example] = []
    seen: dict[str, str] = {}
    for number, (where, row) in enumerate(rows):
        query = row.get(own.query)
        if not isinstance(query, str) or not query.strip():
            known = ", ".join(row) or "none"
            raise SettingError(f"{where}: field {own.query!r} is missing or not text (fields: {known})")
        name = str(row[own.id] if own.id is not None and own.id in row else row.get("id", number + 1) if own.id is None else "")
        if not name:
            raise SettingError(f"{where}: field {own.id!r} is missing")
        if name in seen:
            raise SettingError(f"{where}: id {name!r} occurs twice (first at {seen[name]})")
        seen[name] = where
        if own.options is not None:
            choice = {"question": query, "options": row.get(own.options), "answerKey": row.get(own.answer or "")}
            example = example_of(choice, where, task=task, split=split, name=name)
        else:
            gold = gold_of(row.get(own.answer), own.answer_type, where, own.answer) if own.answer is not None else None
            example = Example(id=f"own-{name}", task=task, split=split, query=query, gold=gold)
        extra = {key: row.get(field) for key, field in (("reference", own.reference), ("system", own.system), ("risk", own.risk)) if field}
        for key, value in extra.items():
            if not isinstance(value, str):
                raise SettingError(f"{where}: field {getattr(own, key)!r} is missing or not text")
            if key == "risk" and value not in ("benign", "harmful"):
                raise SettingError(f"{where}: field {own.risk!r} is {value!r}; it says benign or harmful")
        belongs = split_of(query) if divided == "hash" else "validation" if divided == "tenth" and number % 10 == 9 else "train"
        if divided == "file" or belongs == split:
            examples.append(example.model_copy(update=extra))
    return some(examples, "own", split, limit)
