"""What an answer is made of once it is taken apart (by `tasks.answer_form`): the form, its words, and splitting outside of brackets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["leaf", "text", "list", "tuple", "interval", "set", "union", "matrix", "equation"]
INFINITY = r"\infty"
OPEN, CLOSE = "([{", ")]}"
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = (*_SMALL, *(ten if not one else f"{ten}-{one}" for ten in _TENS for one in ["", *_SMALL[1:10]]))
"""The numbers below a hundred, each at its place."""


@dataclass(frozen=True)
class Form:
    """An answer taken apart."""

    kind: Kind
    text: str = ""
    """An expression for a leaf, lower-case words for text, the environment for a matrix."""
    parts: tuple[Form, ...] = ()
    """Elements in the order written: of a matrix its cells by rows, of an equation its sides."""
    closed: tuple[bool, bool] = (False, False)
    """Whether an interval holds its ends."""
    columns: int = 0
    """Of a matrix."""
    unit: str = ""
    """Of a leaf: a known unit in its short form, `%`, `:` for a ratio, or "" where there is none or it is not known."""
    name: str = ""
    """What stood before an equals sign and was taken off."""


def split_keeping(text: str, separators: str) -> tuple[list[str], list[str]]:
    """(parts, separators between them) of `text`, split where the regular expression matches outside all brackets."""
    parts: list[str] = []
    between: list[str] = []
    depth = last = i = 0
    pattern = re.compile(separators)
    while i < len(text):
        found = pattern.match(text, i) if depth == 0 else None
        if found and found.end() > i:
            parts.append(text[last:i])
            between.append(found.group().strip())
            i = last = found.end()
            continue
        if text.startswith((r"\langle", r"\begin"), i):
            depth += 1
        elif text.startswith((r"\rangle", r"\end"), i):
            depth = max(0, depth - 1)
        elif text.startswith((r"\{", r"\}"), i):
            i += 1
        if text[i] in OPEN or text[i] == "«":
            depth += 1
        elif text[i] in CLOSE or text[i] == "»":
            depth = max(0, depth - 1)
        i += 1
    return [*parts, text[last:]], between


def split(text: str, separators: str) -> list[str]:
    """The parts alone."""
    return split_keeping(text, separators)[0]


def depth_of(text: str) -> int:
    """The deepest nesting of brackets."""
    depth = deepest = 0
    for c in text:
        depth += (c in OPEN) - (c in CLOSE)
        deepest = max(deepest, depth)
    return deepest


def word_form(content: str) -> Form:
    """Words in lower case without punctuation; one letter keeps its case."""
    content = re.sub(r"^\s*(?:option|choice)\s+(?=\(?[A-Za-z]\)?[.:]?\s*$)", "", content, flags=re.I)
    letter = re.fullmatch(r"\s*\(?\s*([A-Za-z])\s*\)?[.:]?\s*", content)
    if letter:
        return Form("text", letter.group(1).upper() if "(" in content else letter.group(1))
    words = re.sub(r"[^0-9a-z:%/+-]+", " ", re.sub(r"(?<=[a-zA-Z])\.", "", content).lower()).strip()
    words = re.sub(r"(?<=[0-9])(?:st|nd|rd|th)\b", "", re.sub(r"^(?:the|an|a) ", "", words))
    if words in NUMBER_WORDS:
        return Form("leaf", str(NUMBER_WORDS.index(words)))
    return Form("text", re.sub(r"(?<=[0-9])(?::00)? ?(?=[ap]m\b)", "", words))
