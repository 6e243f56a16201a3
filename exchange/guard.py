"""The one guard between the teacher and the composer: what a teacher wrote may advise, it may not pose as the conversation.

An instruction is model output conditioned on text that strangers send, so it is data. Two rules, the same in training, evaluation and
serving (a teacher trained without the guard would be served with another policy than the one that was measured):

- what carries no advice is *removed*: thinking, control characters, invisible characters (they also hide the markers below);
- what imitates the structure of a conversation *refuses the whole text*: chat markers, the delimiters of our own block, lines that open
  another role's turn. Cutting a marker out would leave an attacker's text standing as advice, and cuts can join into a new marker.

A refusal is silence with a reason, so the student gets exactly the raw messages. A clean instruction passes unchanged.
"""

from __future__ import annotations

import re
import unicodedata

from exchange.records import Instruction, Record

MAX_CHARS = 2000
"""Longest instruction that passes, in characters (about 500 tokens; trained teachers write 20 to 200)."""

REASONS = ("too_long", "chat_marker", "role_line")
"""Every reason of a refusal, in the order they are looked for."""

_LINE_BREAKS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# C0 and C1 controls but tab and newline, soft hyphen, zero-width space and joins of nothing, bidi overrides, byte order mark, surrogates,
# and plane 14, whose tag characters and variation selectors spell hidden text. Left: ZWJ and ZWNJ, which emoji and Persian need.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
# An end that never comes means that the teacher ran out of tokens while thinking: nothing after the start is advice.
_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_THINKING_END = re.compile(r"</think>", re.IGNORECASE)
_CHAT_MARKER = re.compile(
    r"<\|[^<>\n]{0,80}\|>"  # <|im_start|>, <|end|>, <|assistant|>; after NFKC also DeepSeek's full-width bars
    r"|<\s*/?\s*(?:advice|think|tool_call|tool_response|function_calls?|start_of_turn|end_of_turn)\b"
    r"|</?(?:s|bos|eos|pad|unk|system|user|assistant)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>",
    re.IGNORECASE,
)
# `[^\w\n]*` lets quoting and markdown through to the word: "> **System**:", "### user :".
_ROLE_LINE = re.compile(r"^[^\w\n]*_*(?:system|developer|user|human|assistant)_*[^\w\n]*:", re.IGNORECASE | re.MULTILINE)


class Guarded(Record):
    """What the guard lets on: `instruction` is the given one, a cleaned one, or silence."""

    instruction: Instruction
    refused: str | None = None
    """One of `REASONS` where the text was thrown away; None where it passed or was empty to begin with."""


def guard(instruction: Instruction, *, max_chars: int = MAX_CHARS) -> Guarded:
    """Clean or refuse an instruction. Pure, in time linear in the text; safe to apply twice.

    Sum, token count and truncation stay with a silence, so that a log still says whose text was refused.
    """
    text = _clean(instruction.text)
    reason = _refusal(text, max_chars)
    if reason is not None or not text.strip():
        text = ""
    if text == instruction.text:
        return Guarded(instruction=instruction)
    changes = {"text": text} if text else {"text": "", "source": "silence"}
    return Guarded(instruction=instruction.model_copy(update=changes), refused=reason)


def _clean(text: str) -> str:
    """The text without thinking, control and invisible characters; the same object's equal where there was none."""
    text = _UNSEEN.sub("", _LINE_BREAKS.sub("\n", text))
    spoken = _THINKING.sub("", text)
    # A chat template that opens the thinking itself leaves only its end in what the teacher wrote.
    spoken = _THINKING_END.split(spoken)[-1]
    return text if spoken == text else spoken.strip()


def _refusal(text: str, max_chars: int) -> str | None:
    """Why a cleaned text may not reach a student; None where it may."""
    if len(text) > max_chars:
        return "too_long"
    # Look-alikes of compatibility forms count as what they look like: full-width colons, bars and letters.
    seen = unicodedata.normalize("NFKC", text)
    if _CHAT_MARKER.search(seen):
        return "chat_marker"
    if _ROLE_LINE.search(seen):
        return "role_line"
    return None


_INJECTED = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:previous|prior|above|earlier|all|any|system)\b.{0,40}\b(?:instruction|prompt|rule|message)s?\b"
    r"|\b(?:reveal|print|repeat|output|show|send)\b.{0,40}\b(?:system prompt|password|api[ _-]?key|secret|credential)s?\b"
    r"|\bhttps?://|\bwww\.",
    re.IGNORECASE | re.DOTALL,
)


def looks_injected(text: str) -> bool:
    """Whether a text that passed the guard says what an injected one would: to disregard the rules, to give secrets away, to go to an
    address. A coarse sign that is counted by arm (the guardrail `injection`), not a ground for refusal: advice may quote such a query."""
    return _INJECTED.search(text) is not None
