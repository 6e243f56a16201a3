"""How a `/v1/chat/completions` reply is read: by our own small schema, since servers differ in what else they send and leave out."""

from __future__ import annotations

from pydantic import BaseModel, Field

from exchange.records import Completion
from student_clients import errors
from student_clients.errors import StudentError
from student_clients.usage import Usage

Problem = tuple[type[StudentError], str]
"""Why a reply holds no answer: the error and what to say of it."""
CUT_OFF: dict[str | None, type[StudentError]] = {
    "abort": errors.StudentUnreachable,  # vLLM that shuts down
    "error": errors.StudentBadResponse,  # vLLM and OpenRouter
    "insufficient_system_resource": errors.StudentBadResponse,  # DeepSeek
}
"""Finish reasons of a text that the server gave up midway, with 200 all the same."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    """vLLM and OpenRouter; `reasoning_content` in DeepSeek's spelling."""
    reasoning_content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None

    @property
    def withheld(self) -> bool:
        return self.finish_reason == "content_filter" and not self.message.content

    @property
    def text(self) -> str | None:
        """The answer; None = there is none, which is not the same as an empty one.

        A model that reasoned and did not get to an answer, within its tokens or at all, gave the empty one: it can be scored.
        """
        message = self.message
        if message.content or message.refusal:
            return message.content or message.refusal
        reasoned = self.finish_reason == "length" or message.reasoning or message.reasoning_content
        return "" if message.content is not None or reasoned else None


class ChatReply(BaseModel):
    """The part of a chat completion that we read; at least one choice."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Usage | None = None
    model: str | None = None
    system_fingerprint: str | None = None

    @classmethod
    def read(cls, content: bytes) -> ChatReply:
        """Raises pydantic's ValidationError where the body is something else."""
        reply: ChatReply = cls.model_validate_json(content)
        return reply

    def problem(self) -> Problem | None:
        for choice in self.choices:
            if choice.withheld:
                return errors.StudentContentFiltered, "the content filter withheld the answer"
            if choice.finish_reason in CUT_OFF:
                return CUT_OFF[choice.finish_reason], f"it gave up midway (finish_reason {choice.finish_reason})"
            if choice.text is None:
                return errors.StudentBadResponse, f"the reply holds no text (finish_reason {choice.finish_reason})"
        return None

    def completions(self, n: int, latency_s: float) -> list[Completion]:
        """One record for each of the first `n` choices. Servers count the choices in sum only: the prompt is put down to the first, the
        rest shared evenly."""
        choices = self.choices[:n]
        usage, shares = self.usage or Usage(), len(choices)
        return [
            Completion(
                text=choice.text,
                finish_reason=choice.finish_reason,
                prompt_tokens=usage.prompt_tokens if i == 0 else 0,
                completion_tokens=usage.completion_tokens // shares + (i < usage.completion_tokens % shares),
                reasoning_tokens=usage.reasoning_tokens // shares + (i < usage.reasoning_tokens % shares),
                cached_prompt_tokens=usage.cached_prompt_tokens if i == 0 else 0,
                latency_s=latency_s,
                model=self.model,
                fingerprint=self.system_fingerprint,
            )
            for i, choice in enumerate(choices)
        ]


class _ModelName(BaseModel):
    id: str


class ModelList(BaseModel):
    """The part of a `/v1/models` reply that we read."""

    data: list[_ModelName]
