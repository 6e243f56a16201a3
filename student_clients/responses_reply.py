"""How a `/v1/responses` reply is read: OpenAI's newer API, and the only one that some of its models have.

    {"status": "completed", "model": "gpt-5-pro-2025-10-06",
     "output": [{"type": "reasoning", …}, {"type": "message", "content": [{"type": "output_text", "text": "4"}]}], "usage": {…}}

There is one answer a request, no seed and no fingerprint.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from exchange.records import Completion
from student_clients import errors
from student_clients.chat_reply import Problem
from student_clients.errors import StudentError
from student_clients.usage import Usage

FAILURES: dict[str | None, type[StudentError]] = {
    "rate_limit_exceeded": errors.StudentRateLimited,
    "invalid_prompt": errors.StudentBadRequest,
    "context_length_exceeded": errors.StudentBadRequest,
    "bio_policy": errors.StudentContentFiltered,
    "cyber_policy": errors.StudentContentFiltered,
    "misalignment_policy_violation": errors.StudentContentFiltered,
}
"""Codes of a failed response that are something else than a fault of the server's."""


class _Part(BaseModel):
    type: str
    text: str | None = None
    refusal: str | None = None


class _Message(BaseModel):
    type: Literal["message"]
    content: list[_Part]
    phase: str | None = None
    """`commentary`: what the model says on the way to its final answer."""


class _Other(BaseModel):
    type: str


class _Error(BaseModel):
    code: str | None = None
    message: str = ""


class _Incomplete(BaseModel):
    reason: str | None = None


class ResponsesReply(BaseModel):
    """The part of a response that we read."""

    output: list[Annotated[_Message | _Other, Field(union_mode="left_to_right")]]
    status: str = "completed"
    error: _Error | None = None
    incomplete_details: _Incomplete | None = None
    usage: Usage | None = None
    model: str | None = None

    @classmethod
    def read(cls, content: bytes) -> ResponsesReply:
        """Raises pydantic's ValidationError where the body is something else."""
        reply: ResponsesReply = cls.model_validate_json(content)
        return reply

    @property
    def _reason(self) -> str | None:
        """Why the answer is not whole."""
        return self.incomplete_details.reason if self.status == "incomplete" and self.incomplete_details else None

    @property
    def _text(self) -> str | None:
        """The answer; None = there is none. A model that spent its tokens on reasoning gave the empty one."""
        parts = [part for item in self.output if isinstance(item, _Message) and item.phase != "commentary" for part in item.content]
        texts = [text for part in parts if (text := part.refusal if part.type == "refusal" else part.text) is not None]
        return "".join(texts) if texts or self._reason == "max_output_tokens" else None

    def problem(self) -> Problem | None:
        if self.status == "failed":
            error = self.error or _Error()
            return FAILURES.get(error.code, errors.StudentServerError), f"it failed ({error.code}: {error.message})"
        if self._reason == "content_filter":
            return errors.StudentContentFiltered, "the content filter withheld the answer"
        if self.status != "completed" and self._reason != "max_output_tokens":
            return errors.StudentBadResponse, f"the response is {self.status} ({self._reason})"
        if self._text is None:
            return errors.StudentBadResponse, "the reply holds no text"
        return None

    def completions(self, n: int, latency_s: float) -> list[Completion]:
        """One record, whatever `n` is."""
        usage = self.usage or Usage()
        return [
            Completion(
                text=self._text,
                finish_reason="length" if self._reason == "max_output_tokens" else "stop",
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                cached_prompt_tokens=usage.cached_prompt_tokens,
                latency_s=latency_s,
                model=self.model,
            )
        ]
