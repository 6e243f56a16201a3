"""The frozen records that pass from station to station, over wires and into JSONL.

Every station of the line (teacher, guard, composer, student, rubric) takes and gives these and nothing else. They hold data only;
what works on them lives in the packages above.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Source = Literal["teacher", "cache", "static", "silence", "passthrough", "oracle"]


class Record(BaseModel):
    """Frozen, and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One chat turn, as OpenAI's chat schema spells it (text content only)."""

    role: Literal["system", "user", "assistant"]
    content: str


class PublicExample(Record):
    """What a teacher or a student may see of a question: no gold, reference, family or oracle, by type."""

    id: str
    task: str
    split: str
    query: str
    system: str | None = None
    history: tuple[Message, ...] = ()
    draft: str | None = None
    """What the student answered at first, where it is to be advised on that (three-step variant); None = it answers only once."""


class Example(PublicExample):
    """One question of a task with what is known about it."""

    gold: str | None = None
    """The right answer as the dataset writes it; None where there is none (alignment, users' own queries)."""
    reference: str | None = None
    """A worked solution or preferred reply, for leakage checks."""
    family: str | None = None
    """Kind of question, for tables by family; for MATH the subject."""
    level: str | None = None
    """How hard the question is by the dataset's own scale, for tables by level; None where it has none."""
    risk: Literal["benign", "harmful"] | None = None
    """What the query asks for, where an alignment task knows: refusals of the one and compliance with the other are counted apart."""
    oracle: str | None = None
    """The best instruction for this very question where the world is synthetic; None elsewhere."""

    def public(self) -> PublicExample:
        """The part that may reach a model."""
        return PublicExample(**{name: getattr(self, name) for name in PublicExample.model_fields})


class Instruction(Record):
    """A small text that a teacher writes for one query. Empty text is silence and composes to exactly the raw messages."""

    text: str
    source: Source
    teacher_sha256: str | None = None
    num_tokens: int | None = None
    """Tokens the teacher generated; None where no model wrote the text."""
    truncated: bool = False
    """The teacher ran into its token limit instead of ending the text."""


class Completion(Record):
    """One answer of a student. `text` is None exactly where `error` says why."""

    text: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_prompt_tokens: int = 0
    """Part of `prompt_tokens` that the provider read from its prefix cache and bills at a lower rate."""
    cost_usd: float = 0.0
    cached: bool = False
    latency_s: float = 0.0
    model: str | None = None
    """The snapshot that answered, as the server names it; None where it does not say."""
    fingerprint: str | None = None
    """The server's `system_fingerprint`: answers of equal seed are comparable only where it is equal."""
    error: str | None = None


class Score(Record):
    """The worth of an answer. `value` None = could not be judged; it is excluded and counted, never a zero."""

    value: float | None
    parts: dict[str, float] = Field(default_factory=dict)
    """Named terms that add up to `value` under the rubric's weights."""
    beside: dict[str, float] = Field(default_factory=dict)
    """What was measured and not paid for: the grade against a gold, the second judge's win, whether the answer refuses."""
    extracted: str | None = None
    problem: str | None = None
    """What stood in the way of the judgement: no_answer, unparsed, gold, time, memory, judge, raw_answer; None = nothing."""


class Episode(Record):
    """One pass along the line for one question under one arm."""

    example_id: str
    arm: str
    instruction: Instruction
    messages: tuple[Message, ...]
    completions: tuple[Completion, ...] = ()
    scores: tuple[Score, ...] = ()
    error: str | None = None
