"""An LLM as judge of two answers: asked in both orders, ties allowed, a failure is no verdict (Zheng et al. 2023, MT-Bench).

Judges prefer whichever stands first, so each pair is asked twice with the places changed and the verdicts are averaged: a judge that
follows the place alone gives 0.5. They prefer the longer answer too, which asking twice does not mend: `evaluation.length_control` does.
The judge is a student client: its calls are paced, cached, counted and paid for like the student's.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from exchange.compose import raw_messages
from exchange.records import Example, Message
from exchange.settings import SettingError, Settings
from store import Store
from student_clients import BudgetConfig, StudentConfig, make_student, sampling
from student_clients.ledger import CountingStudent

TEMPLATES = Path(__file__).parent / "templates"
SLOTS = ("{conversation}", "{answer_a}", "{answer_b}")
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
_SLOT = re.compile("|".join(re.escape(slot) for slot in SLOTS))
WORTH = {"A": 1.0, "B": 0.0, "C": 0.5}


class JudgeConfig(Settings):
    """A model that compares two answers."""

    client: StudentConfig
    """Which model judges and where, like `student`; 512 for `max_tokens` leaves room for its reasons."""
    template: str = "judge"
    """Its prompt: a file, or the name of one in rewards/templates, holding {conversation}, {answer_a} and {answer_b}."""


def read_template(name: str) -> str:
    """The prompt's text. Raises SettingError where it is missing or lacks a slot."""
    path = TEMPLATES / f"{name}.txt" if (TEMPLATES / f"{name}.txt").is_file() else Path(name)
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in TEMPLATES.glob("*.txt")))
        raise SettingError(f"reward.judge.template={name!r}: no such file; shipped templates: {shipped}")
    try:
        text = path.read_text(encoding="utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise SettingError(f"reward.judge.template={name!r}: not UTF-8 text ({error.reason})") from None
    if missing := [slot for slot in SLOTS if text.count(slot) != 1]:
        raise SettingError(f"reward.judge.template={name!r}: must hold {missing[0]} exactly once")
    return text


def verdict_of(text: str | None) -> float | None:
    """1 where the first answer is better, 0 where the second is, 0.5 for a tie; None where the judge did not say."""
    found = _VERDICT.findall(text or "")
    return WORTH[found[-1]] if found else None


class Judge:
    """Compares an answer with the raw one through a student client."""

    def __init__(self, config: JudgeConfig, budget: BudgetConfig | None, account: Callable[[], Store] | None) -> None:
        self.template = read_template(config.template)
        self.client: CountingStudent = make_student(config.client, budget, account)
        self.stats: CountingStudent | None = self.client
        self.params = sampling(config.client)

    @property
    def version(self) -> str:
        """sha256 of the template's text."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def prompt(self, example: Example, first: str, second: str) -> tuple[Message, ...]:
        """The judge's question; texts are put in at once, so that none can be mistaken for a slot."""
        turns = raw_messages(example.public())
        texts = dict(zip(SLOTS, ("\n\n".join(f"{turn.role}: {turn.content}" for turn in turns), first, second), strict=True))
        return (Message(role="user", content=_SLOT.sub(lambda match: texts[match[0]], self.template)),)

    async def win(self, example: Example, answer: str, raw: str) -> float | None:
        """The mean over both orders; None where either gave no verdict. Raises StudentError."""
        params = self.params.model_copy(update={"split": example.split})
        asked = (self.prompt(example, answer, raw), self.prompt(example, raw, answer))
        first, second = await asyncio.gather(*(self.client.complete(messages, params) for messages in asked))
        ahead, behind = verdict_of(first[0].text), verdict_of(second[0].text)
        return None if ahead is None or behind is None else (ahead + 1 - behind) / 2

    async def check(self) -> None:
        await self.client.check()

    async def aclose(self) -> None:
        await self.client.aclose()
