"""Units of measurement in an answer: the many spellings of one unit, so that a wrong one is told from a missing one."""

from __future__ import annotations

import re

_UNITS = {
    "cm": "cm centimeter centimeters centimetre centimetres cms", "mm": "mm millimeter millimeters", "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres kms", "ft": "ft foot feet", "in": "in inch inches", "yd": "yd yard yards",
    "mi": "mi mile miles", "g": "g gm gram grams", "kg": "kg kilogram kilograms kgs", "lb": "lb lbs pound pounds", "oz": "oz ounce ounces",
    "s": "s sec secs second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours", "day": "day days",
    "week": "week weeks", "year": "year years yr yrs", "dollar": "dollar dollars usd", "cent": "cent cents", "rad": "radian radians rad",
    "l": "l liter liters litre litres", "ml": "ml milliliter milliliters", "gal": "gallon gallons gal", "mph": "mph",
    "month": "month months", "deg": "degree degrees deg",
}  # fmt: skip
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}


def unit_of(words: str, power: str) -> str:
    """A known unit in its short form (`square feet` and `ft^2` are both `ft2`), "" for any other word."""
    tokens = re.sub(r"[.^{}]", "", words.lower()).split()
    if tokens and tokens[0] in ("square", "sq", "cubic", "cu"):
        power, tokens = ("2" if tokens[0].startswith("sq") else "3"), tokens[1:]
    if len(tokens) == 1 and tokens[0][-1:] in "23" and tokens[0][:-1] in _UNIT_OF:
        power, tokens = tokens[0][-1], [tokens[0][:-1]]
    if not tokens or tokens[0] not in _UNIT_OF or len(tokens) > 1:
        return "mph" if " ".join(tokens) == "miles per hour" else ""
    return _UNIT_OF[tokens[0]] + power
