"""What is asked: each task brings its questions, its golds and the texts a user starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from exchange.records import Example
from exchange.settings import Settings
from tasks import gsm8k, lab_arithmetic

TaskName = Literal["lab_arithmetic", "gsm8k"]


class TaskConfig(Settings):
    """Which questions are asked."""

    name: TaskName = "lab_arithmetic"
    """The task; the lab world needs no network and no key."""
    dial: float = Field(default=1.0, ge=0.0, le=1.0)
    """Lab only: how far the best instruction depends on the query, 0 (nothing to teach) to 1 (all families)."""
    path: str | None = None
    """Folder with the task's files; None = the task's folder under WST_DATA_DIR, else the Hub."""
    train_size: int = Field(default=4000, ge=1)
    """Training questions; the file's own number where it holds fewer."""
    validation_size: int = Field(default=300, ge=1)
    """Questions for choosing the best checkpoint, never shown in a result."""


@dataclass(frozen=True)
class Task:
    """A task as the rest of the line sees it."""

    name: str
    load: Callable[[TaskConfig, str, int | None], list[Example]]
    """(config, split, limit) -> questions; split is train, validation or test."""
    static_instruction: str
    """The task's default text for the `static` arm: what a careful user would write for all questions."""


TASKS: dict[str, Task] = {
    "lab_arithmetic": Task(
        "lab_arithmetic",
        lambda config, split, limit: lab_arithmetic.load(split, limit=limit or 1000, dial=config.dial),
        lab_arithmetic.STATIC_INSTRUCTION,
    ),
    "gsm8k": Task(
        "gsm8k",
        lambda config, split, limit: gsm8k.load(split, limit=limit, path=config.path),
        gsm8k.STATIC_INSTRUCTION,
    ),
}
