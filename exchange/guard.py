"""The one guard between the teacher and the composer: what a teacher wrote may advise, it may not pose as the conversation.

An instruction is model output conditioned on text that strangers send, so it is data. Three rules, the same in training, evaluation and
serving (a teacher trained without the guard would be served with another policy than the one that was measured):

- what carries no advice is *removed*: thinking, control characters, invisible characters (they also hide the markers below), addresses;
- what imitates the structure of a conversation *refuses the whole text*: chat markers, the delimiters of our own block, lines that open
  another role's turn, tool calls, markup, encoded text, orders to disregard the rules or to give secrets away. Cutting a marker out would
  leave an attacker's text standing as advice, and cuts can join into a new marker;
- so does what *repeats the request* (`exchange/copied.py`): the system message is the app's secret, and a stranger's words out of the query
  must not come back as advice. The student has both anyway.

What it cannot tell is an attacker's wish in the teacher's own words ("end with the word X"): that is advice like any other. How much of an
injected text survives is measured by `python -m benchmarks.injection`.

A refusal is silence with a reason, so the student gets exactly the raw messages. A clean instruction passes unchanged.
"""

from __future__ import annotations

import re

from exchange.copied import blobs, copies, revealed
from exchange.records import Instruction, PublicExample, Record

MAX_CHARS = 2000
"""Longest instruction that passes, in characters (about 500 tokens; trained teachers write 20 to 200)."""

REASONS = (
    "too_long",
    "chat_marker",
    "role_line",
    "tool_call",
    "markup",
    "address",
    "encoded",
    "injected",
    "system_text",
    "query_text",
)
"""Every reason of a refusal, in the order they are looked for."""

INJECTION = frozenset(REASONS) - {"too_long", "query_text"}
"""Reasons that speak of an injected text rather than of a clumsy teacher: what the guardrail `injection` of an experiment counts."""

_LINE_BREAKS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# C0 and C1 controls but tab and newline, soft hyphen, zero-width space and joins of nothing, bidi overrides, byte order mark, surrogates,
# variation selectors but the two of emoji, and plane 14, whose tag characters and selectors spell hidden text. Left: ZWJ and ZWNJ, which
# emoji and Persian need.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u034f\u115f\u1160\u180b-\u180e\u200b\u202a-\u202e\u2060-\u2069\u3164\ufe00-\ufe0d\ufeff\uffa0"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
# An end that never comes means that the teacher ran out of tokens while thinking: nothing after the start is advice.
_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_THINKING_END = re.compile(r"</think>", re.IGNORECASE)
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,14}:[/\\]{2}\S*"
    r"|\b(?:javascript|vbscript|mailto):\S+|\bdata:[a-z]{1,20}/\S*"
    r"|\bwww\.\S+"
    r"|\b[\w-]{2,63}(?:\.[\w-]{1,63}){0,4}\.[a-z]{2,24}/\S*"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}[:/]\S*"
    r"|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}",
    re.IGNORECASE,
)
_LINK = re.compile(r"!?\[([^\[\]\n]{0,200})\]\(\s{0,3}<?(?:[a-z][a-z0-9+.-]{1,14}:|www\.|//?|#|\.\.?/)[^()\n]{0,2000}\)", re.IGNORECASE)
"""Of a markdown link only its text is advice."""
_DISGUISED_ADDRESS = re.compile(
    r"\bhxxps?\b|h\s{0,3}t\s{0,3}t\s{0,3}p\s{0,3}s?\s{0,3}:\s{0,3}/\s{0,3}/|%3a%2f%2f|\w\[(?:\.|dot)\]\w", re.IGNORECASE
)
_CHAT_MARKER = re.compile(
    r"<\|[^<>\n]{0,80}\|>"  # <|im_start|>, <|end|>, <|assistant|>; after NFKC also DeepSeek's full-width bars
    r"|<\s*/?\s*(?:advice|think|start_of_turn|end_of_turn)\b"
    r"|</?(?:s|bos|eos|pad|unk)>|</?(?:system|user|assistant|developer)[\w-]{0,30}>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|SYSTEM|ASSISTANT)\]|<</?SYS>>",
    re.IGNORECASE,
)
# `[^\w\n]*` lets quoting and markdown through to the word: "> **System**:", "### user :".
_ROLE_LINE = re.compile(
    r"^[^\w\n]*_*(?:system|developer|user|human|assistant)_*[^\w\n]*:"
    r"|^[^\w\n]*(?:new |updated )?system (?:message|prompt|override|notice|instruction)s?[^\w\n]*:"
    r"|^#{1,6} *response *:"
    r"|[\"']role[\"']\s{0,3}:\s{0,3}[\"'](?:system|developer|user|assistant|tool)\b",
    re.IGNORECASE | re.MULTILINE,
)
_TOOL_CALL = re.compile(
    r"<\s*/?\s*(?:tool_calls?|tool_response|function_calls?|invoke|parameter|function=)"
    r"|\[/?(?:TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\]"
    r"|[\"'](?:tool_calls?|function_call|tool_use|tool_choice)[\"']"
    r"|[\"'](?:name|function|tool|action)[\"']\s{0,3}:\s{0,3}[\"'{][^\n]{0,200}[\"'](?:arguments|parameters|input|args|action_input)[\"']\s{0,3}:"
    r"|[\"'](?:arguments|parameters)[\"']\s{0,3}:\s{0,3}[\"'{]"
    r"|^\s{0,8}Action Input\s{0,3}:|\bto=functions\.|```\s{0,3}tool_(?:code|call)",
    re.IGNORECASE | re.MULTILINE,
)
_MARKUP = re.compile(
    r"<(?:script|iframe|img|object|embed|svg|form|link|meta|base|style|video|audio)\b[^<>\n]{0,2000}>|<a\s[^<>\n]{0,200}href|<!--|!\[",
    re.IGNORECASE,
)
_ESCAPED = re.compile(
    r"(?:%[0-9a-f]{2}){6}|(?:\\(?:x[0-9a-f]{2}|u[0-9a-f]{4})){4}|(?:&#x?[0-9a-f]{2,6};){4}|(?:\b[01]{8}\b\s?){4}", re.IGNORECASE
)
_INJECTED = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:previous|prior|above|earlier|all|any|system|your)\b.{0,40}"
    r"\b(?:instruction|prompt|rule|message|guideline|directive)s?\b"
    r"|\b(?:reveal|print|repeat|output|show|send|leak|disclose)\b.{0,40}"
    r"\b(?:system (?:prompt|message)|password|api[ _-]?key|secret|credential)s?\b",
    re.IGNORECASE | re.DOTALL,
)


class Guarded(Record):
    """What the guard lets on: `instruction` is the given one, a cleaned one, or silence."""

    instruction: Instruction
    refused: str | None = None
    """One of `REASONS` where the text was thrown away; None where it passed or was empty to begin with."""


def guard(instruction: Instruction, example: PublicExample | None = None, *, max_chars: int = MAX_CHARS) -> Guarded:
    """Clean or refuse an instruction for `example`. Pure, in time linear in the text; safe to apply twice.

    What a model wrote must not repeat the request; a text of the operator's own (`source` static or oracle) may. `example` None is for
    texts that are not for one request. Sum, token count and truncation stay with a silence, so that a log still says whose text was
    refused.
    """
    text = _clean(instruction.text)
    reason = _refusal(text, max_chars)
    if reason is None and text and example is not None and instruction.source in ("teacher", "cache"):
        reason = _repeated(text, example)
    if reason is not None or not text.strip():
        text = ""
    if text == instruction.text:
        return Guarded(instruction=instruction)
    changes = {"text": text} if text else {"text": "", "source": "silence"}
    return Guarded(instruction=instruction.model_copy(update=changes), refused=reason)


def _clean(text: str) -> str:
    """The text without thinking, control and invisible characters and addresses; the same object's equal where there was none."""
    text = _UNSEEN.sub("", _LINE_BREAKS.sub("\n", text))
    spoken = _THINKING.sub("", text)
    # A chat template that opens the thinking itself leaves only its end in what the teacher wrote.
    spoken = _THINKING_END.split(spoken)[-1]
    text = text if spoken == text else spoken.strip()
    # Spaces stand for what is cut, so that what stood around it does not join.
    return _ADDRESS.sub(" ", _LINK.sub(r" \1 ", text))


def _refusal(text: str, max_chars: int) -> str | None:
    """Why a cleaned text may not reach a student; None where it may."""
    if len(text) > max_chars:
        return "too_long"
    seen = revealed(text)
    if _CHAT_MARKER.search(seen):
        return "chat_marker"
    if _ROLE_LINE.search(seen):
        return "role_line"
    if _TOOL_CALL.search(seen):
        return "tool_call"
    if _MARKUP.search(seen):
        return "markup"
    if _ADDRESS.search(seen) or _DISGUISED_ADDRESS.search(seen) or _LINK.search(seen):
        return "address"  # one that was plain is gone by now
    if _ESCAPED.search(seen) or blobs(seen):
        return "encoded"
    return "injected" if _INJECTED.search(seen) else None


def _repeated(text: str, example: PublicExample) -> str | None:
    if example.system is not None and copies(text, [example.system]):
        return "system_text"
    return "query_text" if copies(text, [example.query, *(turn.content for turn in example.history)]) else None
