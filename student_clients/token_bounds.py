"""How many tokens a request can take at most, without the model's tokenizer: what budgets and rate limits reserve before a call.

A byte-level tokenizer never makes more tokens of a text than it has UTF-8 bytes; chat templates add a few a message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from exchange.records import Message

TOKENS_A_MESSAGE = 12
"""Role markers and separators of a message: OpenAI's take 3 to 4, the longest common templates (Llama 3) about 6."""
TOKENS_A_PROMPT = 64
"""What a template writes of its own once, e.g. Llama 3's date header or Qwen's default system prompt."""
UNLIMITED_ANSWER = 32_768
"""Tokens set aside for an answer without a limit: what most models stop at by themselves."""
BYTES_A_TOKEN = 4
"""English text on common vocabularies, for estimates that are no bounds."""


def prompt_tokens_at_most(messages: Sequence[Message]) -> int:
    """An upper bound on the prompt's tokens."""
    return TOKENS_A_PROMPT + sum(TOKENS_A_MESSAGE + len(message.content.encode()) for message in messages)


def answer_tokens_at_most(body: Mapping[str, Any]) -> int:
    """What a request body allows its answers to take; UNLIMITED_ANSWER each where it sets no limit, which is an estimate and no bound."""
    limits = [_count(body.get(name)) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    return (max(limits) or UNLIMITED_ANSWER) * max(1, _count(body.get("n")))


def _count(value: Any) -> int:
    return math.ceil(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0


def body_bytes(body: Mapping[str, Any]) -> int:
    """An upper bound on the prompt's tokens of a request body, whatever is in it (images by address aside)."""
    return TOKENS_A_PROMPT + len(json.dumps(body))


def body_tokens_at_most(body: Mapping[str, Any]) -> int:
    """Of the prompt and the answers together."""
    return body_bytes(body) + answer_tokens_at_most(body)


def prompt_tokens_about(messages: Sequence[Message]) -> int:
    """A rough estimate of the prompt's tokens in English."""
    return sum(4 + len(message.content.encode()) // BYTES_A_TOKEN for message in messages)
