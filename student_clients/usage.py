"""Token counts as servers send them: in a reply that we read, or in a body that only passes by (`UsageReader`).

{"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}, …}   /v1/chat/completions
{"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}, …}         /v1/responses
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

MAX_BODY_BYTES = 16 * 2**20
"""A passing body of more than this, or such a line of a stream, is not searched: what a model writes is far smaller."""

MOST_TOKENS = 10**9
"""A count beyond this is no count."""

Tokens = Annotated[int, BeforeValidator(lambda count: 0 if count is None else count), Field(ge=0, le=MOST_TOKENS)]


class _Details(BaseModel):
    cached_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0


class Usage(BaseModel):
    """Tokens of one request, all its choices together; 0 where the server does not say."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: Tokens = Field(default=0, validation_alias=AliasChoices("prompt_tokens", "input_tokens"))
    completion_tokens: Tokens = Field(default=0, validation_alias=AliasChoices("completion_tokens", "output_tokens"))
    prompt_details: _Details | None = Field(default=None, validation_alias=AliasChoices("prompt_tokens_details", "input_tokens_details"))
    completion_details: _Details | None = Field(
        default=None, validation_alias=AliasChoices("completion_tokens_details", "output_tokens_details")
    )

    @model_validator(mode="before")
    @classmethod
    def _reasoning_is_billed(cls, data: Any) -> Any:
        """Some servers leave the reasoning out of the answer's tokens and count it in the total alone."""
        if isinstance(data, dict) and isinstance(total := data.get("total_tokens"), int):
            for prompt, answer in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
                if isinstance(data.get(prompt), int) and isinstance(data.get(answer), int):
                    data = {**data, answer: max(data[answer], total - data[prompt])}
        return data

    @property
    def cached_prompt_tokens(self) -> int:
        """Of the prompt's tokens, those read from the provider's prefix cache."""
        return min(self.prompt_details.cached_tokens, self.prompt_tokens) if self.prompt_details else 0

    @property
    def reasoning_tokens(self) -> int:
        """Of the answer's tokens, those spent on reasoning."""
        return self.completion_details.reasoning_tokens if self.completion_details else 0


class UsageReader:
    """Finds the usage in a body that is fed to it in pieces: a JSON object, or server-sent events, of which the last one with usage counts
    (chat sends it in a last chunk of its own, `/v1/responses` inside the event `response.completed`)."""

    def __init__(self, *, events: bool) -> None:
        self.usage: Usage | None = None
        self.bytes = 0
        """Of the body, so far."""
        self.events = 0
        """Of a stream, so far: about as many tokens, where the server sends one each."""
        self.snapshot: tuple[str, str] | None = None
        """(model, system_fingerprint) that the answer came from, "" where the server does not say; None before it said anything."""
        self._events = events
        self._held = bytearray()

    def feed(self, piece: bytes) -> None:
        self._held += piece
        self.bytes += len(piece)
        if self._events:
            self.events += piece.count(b"data:")
            *lines, self._held = self._held.split(b"\n")
            for line in lines:
                self._read(line)
        if len(self._held) > MAX_BODY_BYTES:
            self._held = bytearray()

    def end(self) -> Usage | None:
        """What the whole body said; None = nothing."""
        self._read(self._held)
        self._held = bytearray()
        return self.usage

    def _read(self, text: bytes | bytearray) -> None:
        if b'"usage"' not in text and (self.snapshot is not None or b'"model"' not in text):
            return
        try:
            data: Any = json.loads(text.removeprefix(b"data:") if self._events else text)
            inner = data.get("response") or data
            model, fingerprint = inner.get("model"), inner.get("system_fingerprint")
            if self.snapshot is None and isinstance(model, str):
                self.snapshot = (model[:200], fingerprint[:200] if isinstance(fingerprint, str) else "")
            if inner.get("usage") is not None:
                self.usage = Usage.model_validate(inner["usage"])
        except (ValueError, AttributeError, ValidationError):
            return  # not ours to judge: the caller gets the body as it is
