"""How a `/v1/chat/completions` reply is read: by our own small schema, since servers differ in what else they send and leave out."""

from __future__ import annotations

from pydantic import BaseModel, Field

from exchange.records import Completion


class _Text(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Text
    finish_reason: str | None = None

    @property
    def withheld(self) -> bool:
        return self.finish_reason == "content_filter" and not self.message.content


class _Details(BaseModel):
    reasoning_tokens: int | None = None


class Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: _Details | None = None


class ChatReply(BaseModel):
    """The part of a chat completion that we read; at least one choice."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Usage | None = None

    @property
    def withheld(self) -> bool:
        """The provider's filter took one of the answers away."""
        return any(choice.withheld for choice in self.choices)

    def counts(self) -> tuple[int, int, int]:
        """Tokens of the prompt, of all choices together, and of these spent on reasoning; 0 where the server does not say."""
        usage = self.usage or Usage()
        details = usage.completion_tokens_details or _Details()
        return usage.prompt_tokens or 0, usage.completion_tokens or 0, details.reasoning_tokens or 0

    def completions(self, latency_s: float) -> list[Completion]:
        """One record a choice. Servers count the choices in sum only: the prompt is put down to the first, the rest shared evenly.

        An answer without text (a reasoning model that ran into its limit, say) is the empty text: it was given and can be scored.
        """
        prompt_tokens, completion_tokens, reasoning_tokens = self.counts()
        shares = len(self.choices)
        return [
            Completion(
                text=choice.message.content or choice.message.refusal or "",
                finish_reason=choice.finish_reason,
                prompt_tokens=prompt_tokens if i == 0 else 0,
                completion_tokens=completion_tokens // shares + (i < completion_tokens % shares),
                reasoning_tokens=reasoning_tokens // shares + (i < reasoning_tokens % shares),
                latency_s=latency_s,
            )
            for i, choice in enumerate(self.choices)
        ]


class _ModelName(BaseModel):
    id: str


class ModelList(BaseModel):
    """The part of a `/v1/models` reply that we read."""

    data: list[_ModelName]
