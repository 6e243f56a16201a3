"""Which answers to a question are the same final answer: all that the two stages ever know of right and wrong.

A key sees the public question and the answers, never a gold: `without_gold` refuses a question that carries one, and the types of
everything built on it are `PublicExample`. By task the answers are extracted and compared as the grader would; where a task has no final
answer to extract, a judge is asked whether two answers agree.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, model_validator

from exchange.compose import raw_messages
from exchange.protocols import StudentClient
from exchange.records import Example, Message, PublicExample, Record
from exchange.settings import Settings
from rewards.consistency import EXTRACT
from rewards.correctness import Grader
from student_clients import StudentConfig, sampling
from student_clients.errors import StudentError
from tasks import answer_type_of
from tasks.knights_knaves import extract_roles

TEMPLATE = Path(__file__).parent / "templates" / "agreement.txt"
_SLOT = re.compile(r"\{(?:question|answer_a|answer_b)\}")
_SPEAKER = re.compile(r"\b([A-Z][\w'-]*) (?:says|said|tells|claims)\b")


class KeyConfig(Settings):
    """How two answers are found to agree."""

    kind: Literal["task", "judge"] = "task"
    """task: the final answers are extracted and compared as the task's grader does; judge: a model says whether they are the same."""
    judge: StudentConfig | None = None
    """The model asked, with `kind: judge`; 256 for `max_tokens` leaves room for its reasons."""

    @model_validator(mode="after")
    def _a_judge_has_a_client(self) -> KeyConfig:
        if (self.kind == "judge") != (self.judge is not None):
            raise ValueError("key.kind=judge and key.judge belong together: set key.judge.kind and key.judge.model")
        return self


class Answer(Record):
    """One model's answer to one question, as it came."""

    example_id: str
    text: str | None = None
    """None where the call failed."""
    finish_reason: str | None = None
    sample_index: int = Field(default=0, ge=0)

    @property
    def whole(self) -> str | None:
        """The text, or None where it failed, is empty or was cut: what is cut has no final answer."""
        return self.text if self.text and self.text.strip() and self.finish_reason in ("stop", None) else None


class AnswerKey(Protocol):
    """What tells equal final answers."""

    async def labels(self, question: PublicExample, texts: Sequence[str | None]) -> list[int | None]:
        """A label a text: equal labels are equal final answers, None is no answer. Labels count from 0 in order of first appearance."""
        ...


def without_gold(questions: Sequence[PublicExample]) -> list[PublicExample]:
    """The questions as they are. Raises TypeError for one that may carry an answer: call `.public()` before the stages."""
    for question in questions:
        if isinstance(question, Example):
            raise TypeError(f"question {question.id!r} is an Example, which may hold a gold answer; the stages take PublicExample alone")
    return list(questions)


class TaskKey:
    """Answers extracted and compared by the task's own rules."""

    def __init__(self, grader: Grader | None = None) -> None:
        self.grader = grader or Grader()

    def extracted(self, question: PublicExample, text: str) -> str | None:
        """The final answer a text names; None where it names none."""
        kind = answer_type_of(question.task)
        if kind == "roles":
            return extract_roles(text, people(question.query))
        return EXTRACT[kind](text, question.query) if kind in EXTRACT else None

    async def labels(self, question: PublicExample, texts: Sequence[str | None]) -> list[int | None]:
        kind = answer_type_of(question.task)
        found: list[int | None] = []
        known: list[str] = []
        for text in texts:
            answer = self.extracted(question, text) if text is not None else None
            if answer is None or text is None or kind is None:
                found.append(None)
                continue
            for label, other in enumerate(known):
                # Equal spelling needs no algebra, and most samples of one question are spelt alike.
                if other == answer or (await self.grader.agrade(kind, other, text, query=question.query)).correct is True:
                    found.append(label)
                    break
            else:
                found.append(len(known))
                known.append(answer)
        return found


def people(query: str) -> str:
    """Who speaks in a puzzle of knights and knaves, in the form of a gold (everybody a knight), so that roles are read without one."""
    return ", ".join(f"{name}: knight" for name in sorted(set(_SPEAKER.findall(query))))


class JudgeKey:
    """Agreement by a judge, for questions that have no final answer to extract. Each text is compared with the first of each group."""

    def __init__(self, client: StudentClient, settings: StudentConfig) -> None:
        self.client = client
        self.params = sampling(settings)
        self.template = TEMPLATE.read_text(encoding="utf-8").removesuffix("\n")
        self.unclear = 0
        """Verdicts that were neither SAME nor DIFFERENT, or failed; they count as different."""

    async def labels(self, question: PublicExample, texts: Sequence[str | None]) -> list[int | None]:
        found: list[int | None] = []
        first: list[str] = []
        for text in texts:
            if text is None:
                found.append(None)
                continue
            same = await asyncio.gather(*(self._same(question, other, text) for other in first))
            if True in same:
                found.append(same.index(True))
            else:
                found.append(len(first))
                first.append(text)
        return found

    async def _same(self, question: PublicExample, one: str, other: str) -> bool:
        if one.split() == other.split():
            return True
        asked = "\n\n".join(f"{turn.role}: {turn.content}" for turn in raw_messages(question))
        texts = {"{question}": asked, "{answer_a}": one, "{answer_b}": other}
        prompt = _SLOT.sub(lambda match: texts[match[0]], self.template)
        try:
            reply = await self.client.complete(
                [Message(role="user", content=prompt)], self.params.model_copy(update={"split": question.split})
            )
        except StudentError:
            self.unclear += 1
            return False
        verdict = re.findall(r"\[\[(SAME|DIFFERENT)\]\]", reply[0].text or "")
        self.unclear += not verdict
        return bool(verdict) and verdict[-1] == "SAME"


@dataclass(frozen=True)
class Pool:
    """Answers of one source by question."""

    by_id: dict[str, Answer]

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Pool:
        return cls({answer.example_id: answer for answer in answers})

    def whole(self, example_id: str) -> str | None:
        return self.by_id[example_id].whole if example_id in self.by_id else None
