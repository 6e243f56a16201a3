"""What every phase of a run works with: its settings, questions, student, reward, and where it says how far it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Episode, Example
from exchange.settings import SettingError
from rewards.episode import worth
from rewards.rubric import Rubric
from store import Store
from student_clients import CountingStudent, make_student, sampling
from student_clients.budget import ACCOUNT, NANO
from student_clients.errors import StudentAuthError, StudentBadRequest, StudentError, StudentUnknownModel
from teacher.config import TrainConfig
from teacher.ledger import Ledger
from teacher.processes import Processes
from teacher.prompt import TeacherPrompt
from teacher.run_directory import RunDirectory

if TYPE_CHECKING:
    from teacher.train import StopSignal


COUNTED_AS = {"correctness": "right", "preference": "win rate", "judge": "win rate", "consistency": "agreement"}
"""What a share of the counted grade is called, by the reward."""


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.total = total
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("training", total=total)

    def say(self, text: str) -> None:
        self.bar.console.print(text, highlight=False)

    def step(self, number: int, text: str) -> None:
        self.bar.update(self.task, completed=number, description=text)
        if not self.console.is_terminal and (number % 10 == 0 or number == self.total):
            self.say(f"step {number}/{self.total}: {text}")


@dataclass(frozen=True)
class Panel:
    """Who answers, and what the answers are worth."""

    config: TrainConfig
    """Whose `student` it is."""
    section: str
    """`validation.` where it is the one that validates alone, else empty."""
    student: CountingStudent
    reward: Rubric
    account: Callable[[], Store]

    @classmethod
    def of(cls, config: TrainConfig, account: Callable[[str], Store], *, section: str = "") -> Panel:
        """Of `config.student`, judged by `config.reward`; both book in `account(section)`. Raises SettingError."""

        def own_account() -> Store:
            return account(section)

        try:
            student = make_student(config.student, config.budget, own_account, section=section)
        except SettingError as error:
            raise SettingError(f"{section}{error}") from None
        reward = Rubric(config.reward, student, sampling(config.student), budget=config.budget, account=own_account)
        return cls(config, section, student, reward, own_account)

    @property
    def params(self) -> SamplingParams:
        return sampling(self.config.student)

    async def check(self) -> None:
        """Raises SettingError or RunError where student or judges cannot answer."""
        try:
            await self.student.check()
        except StudentError as error:
            raise cannot_start(error, f"{self.section}student") from None
        for name, judge in self.reward.judges.items():
            try:
                await judge.check()
            except StudentError as error:
                raise cannot_start(error, "the judge that pays" if name == "judge" else "reward.second") from None

    async def aclose(self) -> None:
        try:
            await self.student.aclose()
        finally:
            await self.reward.aclose()


def cannot_start(error: StudentError, who: str) -> Exception:
    """What a failed check of a student or judge means to the user: a setting to mend, or a server to start."""
    mendable = isinstance(error, StudentUnknownModel | StudentAuthError | StudentBadRequest)
    return SettingError(f"{who}.model: {error}") if mendable else RunError(f"{who}: {error}")


@dataclass(frozen=True)
class Parts:
    """What every phase of a run works with."""

    config: TrainConfig
    run: RunDirectory
    train: list[Example]
    validation: list[Example]
    prompt: TeacherPrompt
    student: CountingStudent
    params: SamplingParams
    reward: Rubric
    ledger: Ledger
    progress: Progress
    stop: StopSignal
    measuring: Panel
    """Who answers in validation and evaluation: the training student, unless another one is named."""
    processes: Processes

    def booked(self, section: str = "") -> dict[str, float]:
        """What the run's account says it cost; a process that was killed took its own count with it. Empty where nothing is booked."""
        if not self.run.account_path(section).exists():
            return {}
        totals = asyncio.run(self.run.account(section).totals(ACCOUNT))
        held = totals.get("held", 0) / NANO
        budget = self.config.validation.budget if section else self.config.budget
        limit = f" of {budget.usd:g}" if budget.usd is not None else ""
        self.progress.say(
            f"{section}budget: {totals.get('spent', 0) / NANO:.4f}{limit} dollars spent, {held:.4f} held for requests of unknown outcome"
        )
        return {"cost_usd": totals.get("spent", 0) / NANO}

    def record(self, step: int, episodes: list[Episode]) -> None:
        """Log paid episodes and what they cost."""
        self.run.append("episodes.jsonl", *({"step": step, **episode.model_dump(mode="json")} for episode in episodes))
        self.ledger.save()
        every = self.config.run.sample_every
        if every is not None and step and step % every == 0:
            for line in samples(episodes, random.Random(step)):
                self.progress.say(f"step {step}: {line}")


def samples(episodes: Sequence[Episode], rng: random.Random) -> list[str]:
    """A line each for the best, the worst and one more episode of a step: what it was worth, the question's turn as the student saw it, the
    instruction, the answer."""
    scored = sorted((e for e in episodes if worth(e) is not None), key=lambda e: worth(e) or 0.0)
    shown = [scored[-1], scored[0], rng.choice(scored)] if scored else []

    def short(text: str | None, width: int) -> str:
        return repr(" ".join((text or "").split())[:width])

    return [
        f"{worth(e):+.2f} {short(e.messages[-1].content, 200)} instructed by {short(e.instruction.text, 160)} -> "
        f"{short(e.completions[0].text, 120)}"
        for e in shown
    ]
