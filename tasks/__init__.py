"""What is asked: each task brings its questions, its golds, how an answer is graded, and the texts a user starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field, model_validator

from exchange.records import Example
from exchange.settings import Settings
from tasks import (
    choice,
    competition_math,
    gsm8k,
    hh_rlhf,
    knights_knaves,
    lab_alignment,
    lab_arithmetic,
    lab_reasoning,
    own_data,
    svamp,
    yes_no,
)
from tasks.answer_type import AnswerType
from tasks.own_data import OwnData

TaskName = Literal[
    "lab_arithmetic", "lab_alignment", "lab_reasoning", "gsm8k", "math", "svamp", "yes_no", "choice", "knights_knaves", "hh_rlhf", "own"
]
SUBSETS: dict[str, tuple[str, ...]] = {"math": competition_math.SUBSETS, "choice": choice.SUBSETS, "hh_rlhf": hh_rlhf.SUBSETS}


class TaskConfig(Settings):
    """Which questions are asked."""

    name: TaskName = "lab_arithmetic"
    """The task; the lab world needs no network and no key."""
    dial: float = Field(default=1.0, ge=0.0, le=1.0)
    """Lab only: how far the best instruction depends on the query, 0 (nothing to teach) to 1 (all families)."""
    families: dict[str, float] | None = None
    """lab_arithmetic only: weights of its families, in place of the dial's; `left/first` is the part of `left` whose larger number stands
    first. None = the dial's mix."""
    header: str | None = None
    """lab_arithmetic only: the system text of every question; `h1 n2` sets habit and noise of the student lab:dial/student. None = no
    system text."""
    subset: str | None = None
    """Which part of a task with several: math500, test_without_math500; commonsense_qa, arc_easy, arc_challenge, logiqa; helpful, harmless.
    None = the task's first, for hh_rlhf both."""
    path: str | None = None
    """Folder with the task's files (for `own` also one file); None = the task's folder under WST_DATA_DIR, else the Hub."""
    own: OwnData = OwnData()
    """Task `own` only: how your rows are read."""
    train_size: int = Field(default=4000, ge=1)
    """Training questions; the file's own number where it holds fewer."""
    validation_size: int = Field(default=300, ge=1)
    """Questions for choosing the best checkpoint, never shown in a result."""

    @model_validator(mode="after")
    def _subset_of_the_task(self) -> TaskConfig:
        if self.subset is not None and self.subset not in SUBSETS.get(self.name, ()):
            known = ", ".join(SUBSETS[self.name]) if self.name in SUBSETS else "none"
            raise ValueError(f"task.subset={self.subset!r}: task {self.name} has no such part; it has: {known}")
        for name in ("families", "header"):
            if self.name != "lab_arithmetic" and (given := getattr(self, name)) is not None:
                raise ValueError(f"task.{name}={given!r}: only lab_arithmetic has it")
        if self.families is not None:
            lab_arithmetic.check_families(self.families)
        return self


@dataclass(frozen=True)
class Task:
    """A task as the rest of the line sees it."""

    name: str
    load: Callable[[TaskConfig, str, int | None], list[Example]]
    """(config, split, limit) -> questions; split is train, validation or test."""
    static_instruction: str
    """The task's default text for the `static` arm: what a careful user would write for all questions."""
    answer_type: AnswerType | None
    """How answers are graded; None = there is no gold (a preference judges), for `own` the config says."""


TASKS: dict[str, Task] = {
    "lab_arithmetic": Task(
        "lab_arithmetic",
        lambda config, split, limit: lab_arithmetic.load(
            split, limit=limit or 1000, dial=config.dial, families=config.families, header=config.header
        ),
        lab_arithmetic.STATIC_INSTRUCTION,
        "number",
    ),
    "lab_alignment": Task(
        "lab_alignment",
        lambda config, split, limit: lab_alignment.load(split, limit=limit or 1000),
        lab_alignment.STATIC_INSTRUCTION,
        None,
    ),
    "lab_reasoning": Task(
        "lab_reasoning",
        lambda config, split, limit: lab_reasoning.load(split, limit=limit or 1000),
        lab_reasoning.STATIC_INSTRUCTION,
        "number",
    ),
    "gsm8k": Task(
        "gsm8k",
        lambda config, split, limit: gsm8k.load(split, limit=limit, path=config.path),
        gsm8k.STATIC_INSTRUCTION,
        "number",
    ),
    "math": Task(
        "math",
        lambda config, split, limit: competition_math.load(split, limit=limit, path=config.path, subset=config.subset),
        competition_math.STATIC_INSTRUCTION,
        "math",
    ),
    "svamp": Task(
        "svamp",
        lambda config, split, limit: svamp.load(split, limit=limit, path=config.path),
        svamp.STATIC_INSTRUCTION,
        "number",
    ),
    "yes_no": Task(
        "yes_no",
        lambda config, split, limit: yes_no.load(split, limit=limit, path=config.path),
        yes_no.STATIC_INSTRUCTION,
        "yes_no",
    ),
    "choice": Task(
        "choice",
        lambda config, split, limit: choice.load(split, limit=limit, path=config.path, subset=config.subset),
        choice.STATIC_INSTRUCTION,
        "choice",
    ),
    "knights_knaves": Task(
        "knights_knaves",
        lambda config, split, limit: knights_knaves.load(split, limit=limit or 1000),
        knights_knaves.STATIC_INSTRUCTION,
        "roles",
    ),
    "hh_rlhf": Task(
        "hh_rlhf",
        lambda config, split, limit: hh_rlhf.load(split, limit=limit, path=config.path, subset=config.subset),
        hh_rlhf.STATIC_INSTRUCTION,
        None,
    ),
    "own": Task(
        "own",
        lambda config, split, limit: own_data.load(config.own, split, limit=limit, path=config.path),
        own_data.STATIC_INSTRUCTION,
        None,
    ),
}


def answer_type_of(task: str) -> AnswerType | None:
    """How answers of a task are graded, by `Example.task`: a task's name, or `own/<answer type>`. None = there is no gold to grade by.

    Raises KeyError for a name that is no task.
    """
    name, _, own = task.partition("/")
    for known in get_args(AnswerType):
        if name == "own" and own == known:
            return known  # type: ignore[no-any-return]
    return TASKS[name].answer_type


def has_gold(config: TaskConfig) -> bool:
    """Whether the configured questions come with a right answer."""
    return config.own.answer is not None if config.name == "own" else TASKS[config.name].answer_type is not None
