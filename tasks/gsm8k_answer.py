"""Numbers out of worked answers, and when two of them are equal (GSM8K's form, also used by SVAMP and the lab).

Strict extraction reads what follows the last marker (`####`, `A:`, `The answer is`, `\\boxed{}`); flexible extraction falls back to the
last number of the text where no marker is followed by one.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from tasks.latex_form import matching, normal
from tasks.math_answer import affirmed, visible
from tasks.math_equivalence import rational

# A sign belongs to a number only where it touches it (or its currency): "- 42" is a list item, "---" a rule.
_NUMBER = re.compile(r"(?<![\w.])[-−]?\\?[$€£]?[-−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)", re.ASCII)
_GROUPED = re.compile(r"(?<![\w.,])(\d{1,3})((?:(?:[\u00a0\u2009\u202f ]|\\[,;: ])\d{3})+)(?![\w,])", re.ASCII)
"""A number whose thousands stand apart: `1 000`, `12\\,345`."""
_ANNOTATION = re.compile(r"<<[^<>\n]{0,200}>>")
_MARKER = re.compile(
    r"####|(?P<box>\\(?:boxed|fbox)\s*\{)|(?<!\w)A:"
    r"|\b(?:[Tt]he|[Ff]inal|[Cc]orrect) (?:\w+ )?[Aa]nswer(?: to [^.\n]{1,80}?)? ?(?:\*\*)? ?(?:is|would be|must be|equals|:|=):?"
    r"|(?:^|(?<=\n))[#* ]*(?:[Tt]he )?(?:[Ff]inal )?[Aa]nswer[:* ]*\n\s*"
    r"|(?<!\w)(?:[Aa]nswer|ANSWER) ?(?:\*\*)? ?(?::|is\b|IS\b):?"
)
_FRACTION = re.compile(r"\s*/\s*(\d+)(?![\d/])(?!\s*/)", re.ASCII)
_MIXED = re.compile(r" (\d{1,4})\s*/\s*(\d{1,4})(?![\d/])", re.ASCII)
_LATEX_FRACTION = re.compile(r"([-−]?)\s*\\[dt]?frac\s*\{\s*(\d{1,20})\s*\}\s*\{\s*(\d{1,20})\s*\}", re.ASCII)
_POWER = re.compile(r"(?:[eE]|\s*(?:\\times|\\cdot|[x×*])\s*10\s*\^\s*\{?)\s*([-−+]?\d{1,2})\}?(?!\w)", re.ASCII)
_SCALE = re.compile(r"\s*(thousand|million|billion|trillion)\b|([kK])\b")
_FULL_WIDTH = str.maketrans("０１２３４５６７８９，．－", "0123456789,.-")
_SCALES = {"k": 10**3, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MAX_DIGITS = 100
"""A longer run of digits is no answer."""


def _clean(number: str) -> str:
    """A number in plain form: no separators, currency, leading or trailing zeros; U+2212 minus becomes '-'."""
    negative = "-" in number or "−" in number
    # Formatting with "f" is exact at any length; quantize and normalize stop at the context's 28 digits.
    plain = format(Decimal(re.sub(r"[-−$€£,\\]", "", number)), "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return f"-{plain}" if negative and plain != "0" else plain


def _plain(value: Fraction) -> str | None:
    """An exact value in plain form: a decimal where it ends, else `a/b`; None where it is too long."""
    below = value.denominator
    for factor in (2, 5):
        while below % factor == 0:
            below //= factor
    if below != 1:
        text = f"{value.numerator}/{value.denominator}"
    else:
        shift = max(0, value.denominator.bit_length())
        text = _clean(f"{'-' if value < 0 else ''}{_decimal(abs(value), shift)}")
    return text if len(text) <= MAX_DIGITS else None


def _decimal(value: Fraction, places: int) -> str:
    """A value that ends within `places` decimal places, written out."""
    whole, rest = divmod(value.numerator, value.denominator)
    digits = str(rest * 10**places // value.denominator).rjust(places, "0") if places else ""
    return f"{whole}.{digits}" if digits else str(whole)


def _in_box(text: str, start: int) -> str | None:
    """The number in the box that opens at `start`; None where the box holds something else than one number with its unit."""
    end = matching(text[: start + 2_000], start)
    content = text[start + 1 : end] if end is not None else text[start + 1 : start + 200].split("\n")[0]
    spelled = re.split(r"=|\\approx", normal(_joined(content, sure=True)))[-1]
    value = rational(re.sub(r"«[^«»]*»(?:\^\{?\d\}?)?|\\?%|\\\$|\^\\circ|(?<=[\d}])\s*[a-zA-Z][a-zA-Z ]*$", "", spelled).strip())
    if value is not None:
        return _plain(value)
    return _first(content)


def _joined(text: str, *, sure: bool) -> str:
    """The text with its thousands together; `sure`: also where two numbers could stand side by side (`3 100`), not behind a marker."""

    def join(found: re.Match[str]) -> str:
        groups = re.findall(r"\d+", found[2])
        apart = not sure and " " in found[2].replace("\\ ", "") and not any(group[0] == "0" for group in groups)
        return found[0] if apart else found[1] + "".join(groups)

    return _GROUPED.sub(join, text)


def _first(text: str) -> str | None:
    """The first number of a text; what stands behind the last `=` of its line where that is all there is."""
    text = _joined(text, sure=True)
    found = _NUMBER.search(text)
    if not found or len(found.group()) > MAX_DIGITS:
        return None
    line = text[found.end() :].split("\n")[0]
    if "=" in line:
        result = re.fullmatch(rf"\s*({_NUMBER.pattern})\s*%?\s*[a-zA-Z ]*[.)$*]*\s*", line.rpartition("=")[2], re.ASCII)
        if result and len(result[1]) <= MAX_DIGITS:
            return _clean(result[1])
    number = _clean(found.group())
    rest = text[found.end() :]
    written = _LATEX_FRACTION.search(text)
    if written and written.start() <= found.start() <= written.end() and int(written[3]):
        return _plain((-1 if written[1] else 1) * Fraction(int(written[2]), int(written[3])))
    if (mixed := _MIXED.match(rest)) and number.lstrip("-").isdigit() and int(mixed[1]) < int(mixed[2]):
        part = Fraction(int(mixed[1]), int(mixed[2]))
        return _plain(int(number) - part if number.startswith("-") else int(number) + part)
    if power := _POWER.match(rest):
        return _plain(Fraction(number) * Fraction(10) ** int(power[1].replace("−", "-")))
    if fraction := _FRACTION.match(rest):
        if len(fraction[1]) < MAX_DIGITS and int(fraction[1]) != 0:
            return _plain(Fraction(number) / int(fraction[1]))
    elif scale := _SCALE.match(rest):
        return _plain(Fraction(number) * _SCALES[scale[1] or "k"])
    return number


def extract(text: str, *, strict: bool = False) -> str | None:
    """The number a worked answer ends with, in plain form (`1250.5`, or `1/3`); None where there is none.

    `strict` takes only the first number after the last marker, within its paragraph.
    """
    text = _ANNOTATION.sub("", visible(text).translate(_FULL_WIDTH))
    markers = list(_MARKER.finditer(text))
    if markers:
        last = markers[-1]
        found = _in_box(text, last.end() - 1) if last["box"] else _first(affirmed(text[last.end() :].split("\n\n")[0][:200]))
        if found is not None:
            return found
    if strict:
        return None
    numbers = [number for number in _NUMBER.findall(_joined(text, sure=False)) if len(number) <= MAX_DIGITS]
    return _clean(numbers[-1]) if numbers else None


def equal(extracted: str, gold: str) -> bool:
    """Whether two numbers in plain form are the same number."""
    return Fraction(extracted) == Fraction(gold)


def gold_number(gold: str) -> str | None:
    """The gold as a plain number: a bare number, or a solution whose last `####` line holds it; None where it has none."""
    return extract(gold if "####" in gold or "A:" in gold or "\\boxed" in gold else f"#### {gold}", strict=True)
