"""Numbers out of worked answers, and when two of them are equal (GSM8K's form, also used by SVAMP and the lab).

Strict extraction reads what follows the last marker (`####`, `A:`, `The answer is`, `\\boxed{}`); flexible extraction falls back to the
last number of the text where no marker is followed by one.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"(?<![\w.])[-−]?\s?\$?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\w.])[-−]?\s?\$?\.\d+")
_MARKER = re.compile(r"####|\\boxed\s*\{|(?<!\w)A:|[Tt]he (?:final )?answer is:?|[Ff]inal [Aa]nswer:")


def _clean(number: str) -> str:
    """A number in plain form: no separators, currency or trailing zeros; U+2212 minus becomes '-'."""
    plain = number.replace("−", "-").replace(",", "").replace("$", "").replace(" ", "").replace("\n", "")
    value = Decimal(plain)
    return format(value.quantize(Decimal(1)) if value == value.to_integral() else value.normalize(), "f")


def extract(text: str, *, strict: bool = False) -> str | None:
    """The number a worked answer ends with, in plain form; None where there is none.

    `strict` takes only the first number after the last marker. A digit run of over 100 characters is no answer.
    """
    markers = list(_MARKER.finditer(text))
    if markers:
        after = text[markers[-1].end() :]
        found = _NUMBER.search(after.split("\n\n")[0][:200])
        if found and len(found.group()) <= 100:
            return _clean(found.group())
    if strict:
        return None
    numbers = [m for m in _NUMBER.findall(text) if len(m) <= 100]
    return _clean(numbers[-1]) if numbers else None


def equal(extracted: str, gold: str) -> bool:
    """Whether two numbers in plain form are the same number."""
    return Decimal(extracted) == Decimal(gold)


def gold_number(gold: str) -> str | None:
    """The gold as a plain number: a bare number, or a solution whose last `####` line holds it; None where it has none."""
    return extract(gold if "####" in gold or "A:" in gold else f"#### {gold}", strict=True)
