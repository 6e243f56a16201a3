"""What every phase of a run works with: its settings, questions, student, reward, and where it says how far it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exchange.protocols import SamplingParams
from exchange.records import Episode, Example
from rewards.rubric import Rubric
from student_clients import CountingStudent
from student_clients.budget import ACCOUNT, NANO
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
    processes: Processes

    def booked(self) -> dict[str, float]:
        """What the run's account says it cost; a process that was killed took its own count with it. Empty where nothing is booked."""
        if not (self.run.path / "budget.sqlite3").exists():
            return {}
        totals = asyncio.run(self.run.account().totals(ACCOUNT))
        held = totals.get("held", 0) / NANO
        limit = f" of {self.config.budget.usd:g}" if self.config.budget.usd is not None else ""
        self.progress.say(
            f"budget: {totals.get('spent', 0) / NANO:.4f}{limit} dollars spent, {held:.4f} held for requests of unknown outcome"
        )
        return {"cost_usd": totals.get("spent", 0) / NANO}

    def record(self, step: int, episodes: list[Episode]) -> None:
        """Log paid episodes and what they cost."""
        self.run.append("episodes.jsonl", *({"step": step, **episode.model_dump(mode="json")} for episode in episodes))
        self.ledger.save()
