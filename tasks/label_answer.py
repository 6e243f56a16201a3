"""Answers that are one of a few labels: an option's letter, yes or no.

    "The best answer is (C) an oasis."  ->  C
    "So no, they could not."            ->  no

Strict extraction reads what follows the last marker or stands alone; flexible extraction falls back to the last letter or word that can
only be an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tasks.latex_form import normal
from tasks.math_answer import boxes, visible

_BOLD = re.compile(r"\*\*|__|`")
_MARKED_LETTER = re.compile(
    r"(?:####|(?<!\w)A:(?=\s*\(?[A-Z]\b)"
    r"|\b(?:answer|choice|option|correct one)(?:\s+(?:is|would be|must be))?\s*[:=]?|\bchoose|\bselect|\bpick)"
    r"\s*(?:option|choice|answer|letter|is|:)?\s*[\"'“(\[]*\s*([A-J])(?![\w'’]|\s[a-z]+ly\b)",
    re.IGNORECASE,
)
_ALONE = re.compile(r"(?:^|\n)\s*[(\[]?([A-J])[)\].:]?\s*(?:$|\n)|^\s*\(?([A-J])[).:]\s")
_LETTER = re.compile(r"\(([A-J])\)|(?<![\w'’])([B-HJ])(?=[).,:;\s]|$)|(?<![\w'’])([A-J])(?=[).:]|$)")
_MARKED_WORD = re.compile(
    r"(?:####|(?<!\w)A:|\banswer(?:\s+to\s[^.\n]{1,80}?)?\s*(?:is|would be|:|=)\s*:?)\s*[\"'“(]*\s*(yes|no|true|false)\b", re.IGNORECASE
)
_WORD = re.compile(
    r"\b(yes|no|true|false)\b(?!\s+(?:one|matter|longer|more|less|doubt|need|way|evidence|reason|information|such)\b)", re.IGNORECASE
)
_YES_NO = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
OPTION_LINE = re.compile(r"^\s*\(?([A-J])[).:]\s*(\S.*?)\s*$", re.MULTILINE)


def options_of(query: str) -> dict[str, str]:
    """The options that a question lists, letter to text."""
    return dict(OPTION_LINE.findall(query))


def _same_words(a: str, b: str) -> bool:
    return re.sub(r"\W+", " ", a).strip().casefold() == re.sub(r"\W+", " ", b).strip().casefold()


def letter_of(content: str, options: Mapping[str, str] | None) -> str | None:
    """The letter that a short answer names: itself, with its option's text behind it, or by that text alone."""
    content = normal(content).replace("«", "").replace("»", "").strip()
    found = re.match(r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*)?\(?(?:([A-Ja-j])(?:[).:,]|\s*$)|([A-J])\s(?=[^a-z]|an?\s))", content)
    if found:
        return (found[1] or found[2]).upper()
    return next((letter for letter, text in (options or {}).items() if _same_words(text, content)), None)


def extract_choice(text: str, *, strict: bool = False, options: Mapping[str, str] | None = None) -> str | None:
    """The letter (A to J) that an answer settles on; None where it names none. `options` lets an answer name one by its text."""
    text = visible(text)
    for content in reversed(boxes(text)):
        letter = letter_of(content, options)
        if letter is not None:
            return letter
    text = _BOLD.sub("", text)
    marked = list(_MARKED_LETTER.finditer(text))
    # "the answer is a ..." is an article: a small letter counts only where nothing but punctuation follows.
    marked = [found for found in marked if found[1].isupper() or re.match(r"\s*[).\]\n\"']|\s*$", text[found.end() :])]
    if marked:
        return marked[-1][1].upper()
    named = re.search(r"(?:####|answer is:?|answer:)\s*(.{1,200}?)\.?\s*$", text.strip(), re.IGNORECASE)
    if named and (letter := letter_of(named[1], options)) is not None:
        return letter
    alone = [a or b for a, b in _ALONE.findall(text)]
    if alone:
        return str(alone[-1])
    if strict:
        return None
    letters = [next(filter(None, groups)) for groups in _LETTER.findall(text)]
    if letters:
        return str(letters[-1])
    present = [letter for letter, words in (options or {}).items() if words.casefold() in text.casefold()]
    return present[0] if len(present) == 1 else letter_of(text, options)


def extract_yes_no(text: str, *, strict: bool = False) -> str | None:
    """`yes` or `no`; None where the text says neither."""
    text = visible(text)
    for content in reversed(boxes(text)):
        word = re.fullmatch(r"\W*(yes|no|true|false)\W*", normal(content), re.IGNORECASE)
        if word:
            return _YES_NO[word[1].lower()]
    text = _BOLD.sub("", text)
    marked = _MARKED_WORD.findall(text)
    if marked:
        return _YES_NO[marked[-1].lower()]
    alone = re.findall(r"(?:^|\n)\s*(yes|no|true|false)\s*[.,!]?\s*(?=\n|$)", text, re.IGNORECASE) or re.findall(
        r"^\s*(yes|no|true|false)\b[.,!:;]", text, re.IGNORECASE
    )
    if alone:
        return _YES_NO[alone[-1].lower()]
    if strict:
        return None
    words = _WORD.findall(text)
    return _YES_NO[words[-1].lower()] if words else None


def gold_choice(gold: str) -> str | None:
    """The gold as a letter: `C`, `(C)`, `C.`, a solution that ends in one, or a number counted from 1 (ARC has both)."""
    if re.fullmatch(r"\s*[1-9]\s*", gold):
        return "ABCDEFGHI"[int(gold) - 1]
    return letter_of(gold, None) or extract_choice(gold, strict=True)


def gold_yes_no(gold: str) -> str | None:
    """The gold as yes or no: `yes`, `True`, `false`, in any case, or a text that ends in one."""
    return _YES_NO.get(gold.strip().lower().rstrip(".")) or extract_yes_no(gold, strict=True)
