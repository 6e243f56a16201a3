"""How many tokens a request can take at most, without the model's tokenizer: what budgets and rate limits reserve before a call.

A byte-level tokenizer never makes more tokens of a text than it has UTF-8 bytes; chat templates add a few a message.
"""

from __future__ import annotations

from collections.abc import Sequence

from exchange.records import Message

TOKENS_A_MESSAGE = 12
"""Role markers and separators of a message: OpenAI's take 3 to 4, the longest common templates (Llama 3) about 6."""
TOKENS_A_PROMPT = 64
"""What a template writes of its own once, e.g. Llama 3's date header or Qwen's default system prompt."""
BYTES_A_TOKEN = 4
"""English text on common vocabularies, for estimates that are no bounds."""


def prompt_tokens_at_most(messages: Sequence[Message]) -> int:
    """An upper bound on the prompt's tokens."""
    return TOKENS_A_PROMPT + sum(TOKENS_A_MESSAGE + len(message.content.encode()) for message in messages)


def prompt_tokens_about(messages: Sequence[Message]) -> int:
    """A rough estimate of the prompt's tokens in English."""
    return sum(4 + len(message.content.encode()) // BYTES_A_TOKEN for message in messages)
