"""Numbers out of worked answers, and when two of them are equal (GSM8K's form, also used by SVAMP and the lab).

Strict extraction reads what follows the last marker (`####`, `A:`, `The answer is`, `\\boxed{}`); flexible extraction falls back to the
last number of the text where no marker is followed by one.
"""

from __future__ import annotations

import re
from decimal import Decimal

# A sign belongs to a number only where it touches it (or its currency): "- 42" is a list item, "---" a rule.
_NUMBER = re.compile(r"(?<![\w.])[-−]?\$?[-−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_MARKER = re.compile(r"####|\\boxed\s*\{|(?<!\w)A:|[Tt]he (?:final )?answer is:?|[Ff]inal [Aa]nswer:")
MAX_DIGITS = 100
"""A longer run of digits is no answer."""


def _clean(number: str) -> str:
    """A number in plain form: no separators, currency, leading or trailing zeros; U+2212 minus becomes '-'."""
    negative = "-" in number or "−" in number
    # Formatting with "f" is exact at any length; quantize and normalize stop at the context's 28 digits.
    plain = format(Decimal(re.sub(r"[-−$,]", "", number)), "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return f"-{plain}" if negative and plain != "0" else plain


def extract(text: str, *, strict: bool = False) -> str | None:
    """The number a worked answer ends with, in plain form; None where there is none.

    `strict` takes only the first number after the last marker, within its paragraph.
    """
    markers = list(_MARKER.finditer(text))
    if markers:
        found = _NUMBER.search(text[markers[-1].end() :].split("\n\n")[0][:200])
        if found and len(found.group()) <= MAX_DIGITS:
            return _clean(found.group())
    if strict:
        return None
    numbers = [number for number in _NUMBER.findall(text) if len(number) <= MAX_DIGITS]
    return _clean(numbers[-1]) if numbers else None


def equal(extracted: str, gold: str) -> bool:
    """Whether two numbers in plain form are the same number."""
    return Decimal(extracted) == Decimal(gold)


def gold_number(gold: str) -> str | None:
    """The gold as a plain number: a bare number, or a solution whose last `####` line holds it; None where it has none."""
    return extract(gold if "####" in gold or "A:" in gold else f"#### {gold}", strict=True)
