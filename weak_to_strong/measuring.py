"""Models that answer by themselves, measured beside each other on held-out questions: table, statistics and report of `evaluation`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.arms import FixedPolicy, run_arm
from evaluation.report import Facts, write_report
from evaluation.table import EvalSummary, print_table, summarise
from exchange.command import RunError
from exchange.records import Episode, Example
from rewards.episode import correct
from rewards.rubric import RewardConfig, Rubric
from student_clients import StudentConfig, sampling
from student_clients.budget import price_of
from teacher.run_directory import git_commit
from weak_to_strong.run import Config, Run


@dataclass(frozen=True)
class Asked:
    """One arm: who answers, by role and settings, and what is put before every question."""

    role: str
    settings: StudentConfig
    text: str = ""
    """An instruction; empty = none."""
    about: str = ""
    examples: Sequence[Example] | None = None
    """The same questions in this arm's own form, with other turns before them; None = as they are."""


def answers(run: Run[Config], arms: Mapping[str, Asked], examples: Sequence[Example]) -> dict[str, list[Episode]]:
    """Every arm's episodes, in the order of the questions. One model is open at a time; arms of one role stand beside each other for that.
    An arm that has not one scored answer is left out, and that is said."""
    reward = Rubric(RewardConfig())
    found: dict[str, list[Episode]] = {}
    roles = [arm.role for arm in arms.values()]
    for place, (name, arm) in enumerate(arms.items()):
        student = run.client(arm.role, arm.settings)
        asked = arm.examples or examples
        found[name] = asyncio.run(
            run_arm(name, FixedPolicy(arm.text), asked, student=student, params=sampling(arm.settings), reward=reward)
        )
        print(f"arm {name}: {len(examples)} questions", file=sys.stderr, flush=True)
        if arm.role not in roles[place + 1 : place + 2]:
            run.release(arm.role)
    for name in list(found):
        if all(correct(episode) is None for episode in found[name]):
            reason = next((episode.error for episode in found[name] if episode.error), "no answer could be judged")
            if name in ("raw", "trained"):
                raise RunError(f"arm {name}: not one of {len(examples)} answers could be scored ({reason})")
            print(f"arm {name} is left out: not one answer could be scored ({reason})", file=sys.stderr, flush=True)
            del found[name]
    return found


def grades(episodes: Sequence[Episode]) -> list[float | None]:
    return [correct(episode) for episode in episodes]


def measured(
    run: Run[Config],
    arms: Mapping[str, Asked],
    examples: Sequence[Example],
    *,
    title: str,
    teacher: str,
    more: Sequence[dict[str, Any]] = (),
    episodes: Mapping[str, list[Episode]] | None = None,
    curve: Sequence[tuple[int, float]] = (),
) -> tuple[dict[str, list[Episode]], EvalSummary]:
    """Ask every arm, print the table, write evaluation.jsonl and the report into the run. `more` are further tables of the report, each
    {"title", "note", "head", "rows"}; `episodes` where the arms were asked before."""
    config = run.config
    found = dict(episodes) if episodes is not None else answers(run, arms, examples)
    summary = summarise(
        found, examples, alpha=config.eval.alpha, margin=config.eval.margin, greedy=config.strong.temperature == 0,
        prices={name: price_of(arm.settings, config.budget) for name, arm in arms.items()},
        about={name: arm.about for name, arm in arms.items()},
    )  # fmt: skip
    facts = Facts(
        task=config.task.name, student=config.strong.model, teacher=teacher, seed=config.seed, commit=git_commit(), validation=tuple(curve)
    )
    print_table(summary, title=title)
    write_report(Path(run.path), title, facts, summary, list(examples), found, more)
    return found, summary
