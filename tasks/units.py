"""Units of measurement in an answer: the many spellings of one unit, so that a wrong one is told from a missing one; and whether letters
behind a number are a unit, a word or a product of variables (`5 apples`, `5kg`, `5ab`)."""

from __future__ import annotations

import re

_UNITS = {
    "cm": "cm centimeter centimeters centimetre centimetres cms", "mm": "mm millimeter millimeters", "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres kms", "ft": "ft foot feet", "in": "in inch inches", "yd": "yd yard yards",
    "mi": "mi mile miles", "g": "g gm gram grams", "kg": "kg kilogram kilograms kgs", "lb": "lb lbs pound pounds", "oz": "oz ounce ounces",
    "s": "s sec secs second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours", "day": "day days",
    "week": "week weeks", "year": "year years yr yrs", "dollar": "dollar dollars usd", "cent": "cent cents", "rad": "radian radians rad",
    "l": "l liter liters litre litres", "ml": "ml milliliter milliliters", "gal": "gallon gallons gal", "mph": "mph",
    "mpg": "mpg", "rpm": "rpm", "month": "month months", "deg": "degree degrees deg", "cup": "cup cups", "tsp": "tsp teaspoon teaspoons",
    "tbsp": "tbsp tablespoon tablespoons", "pint": "pint pints", "quart": "quart quarts", "ton": "ton tons",
}  # fmt: skip
_COUNTED = set("unit units men man box cat dog hat car pie pies egg ways way bag bags cake cakes part parts bar bars can jar".split())
"""Words that are neither measures nor products, as short as they are: `\\frac{1}{2} pie`."""
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_TRAILING_WORDS = re.compile(r"(?<=[0-9})\]%°c]) *«([^«»]*)»(?:\^\{?([23])\}?)?$")
_UNIT_AFTER_LETTER = re.compile(r"(?<=[a-zA-Z]) *«([^«»]*)»(?:\^\{?([23])\}?)?$")
"""`12\\pi«cm»^{2}`, whose exponent is the unit's; words behind a letter that are no unit belong to it."""
_PER = re.compile(r"(?<=[0-9})]) ((?:k?m|cm|ft|mi|k?g|L|l)/(?:s|h|hr|min|sec|cm|m|ml|L|l))(?:\^\{?([23])\}?)?$")
_AFTER_PI = re.compile(r"(?<=\\pi) ([a-zA-Z]{2,}\.?(?: [a-zA-Z]+){0,2})(?:\^\{?([23])\}?)?$")
_PLAIN_WORDS = re.compile(r"(?<=[0-9})\]])( ?)([a-zA-Z]{2,}\.?(?:[ /][a-zA-Z][a-zA-Z.]*){0,5})(?:\^\{?([23])\}?)?$")
_UNIT_LETTER = re.compile(r"(?<=[0-9]) ([mgshlL])(?:\^\{?([23])\}?)?$")


def is_product(letters: str) -> bool:
    """Whether a run of lower-case letters reads as a product of variables: `xyz` and `pqrs`, but not `apples`."""
    vowels = re.search("[aeiou]", letters)
    ascending = len(letters) == 4 and letters[-1] != "s" and list(letters) == sorted(set(letters))
    return letters.islower() and (len(letters) <= 3 or ascending or (len(letters) <= 5 and not vowels))


def is_bare_product(letters: str) -> bool:
    """The same of letters that are the whole answer, where a word is likelier: products are letters that are neighbours in the alphabet
    (`bca`), the usual names (`axy`), or such as nobody could pronounce. `cat` and `most` are words."""
    neighbours = len(set(letters)) == len(letters) and ord(max(letters)) - ord(min(letters)) == len(letters) - 1
    return letters.islower() and (neighbours or set(letters) <= set("abcdxyz") or (len(letters) <= 5 and not re.search("[aeiou]", letters)))


def _is_words(words: str, after_blank: bool) -> bool:
    """Whether bare letters behind a number are words. Three letters behind a blank are a word (`5 men`) where they could be pronounced
    and do not stand in the order of the alphabet (`5 abc`)."""
    tokens = re.split(r"[ /]+", words.strip(" ."))
    if (
        all(unit_of(token, "") or token in _SCALES or token in _COUNTED for token in tokens)
        or unit_of(words, "")
        or re.match(r"[ap]\.?m\b", words, re.I)
    ):
        return True
    pronounced = after_blank and any(
        len(token) == 3 and re.search("[aeiou]", token) and list(token) != sorted(set(token)) for token in tokens
    )
    return pronounced or any(len(token) > 3 and not is_product(token.lower()) for token in tokens)


def words_behind(text: str) -> tuple[str, str, str] | None:
    """(the value, the words behind it, their exponent or "") of an expression that ends in words; None for one that does not."""
    behind_letter = _UNIT_AFTER_LETTER.search(text)
    if behind_letter and not (unit_of(behind_letter[1], "") or scale_of(behind_letter[1]) != 1):
        behind_letter = None
    found = behind_letter or _TRAILING_WORDS.search(text) or _UNIT_LETTER.search(text)
    if found:
        return text[: found.start()].strip(), found[1], found[2] or ""
    after_pi = _AFTER_PI.search(text)
    if found := _PER.search(text) or (after_pi if after_pi and (unit_of(after_pi[1], "") or after_pi[1] == "units") else None):
        return text[: found.start()].strip(), found[1], found[2] or ""
    bare = _PLAIN_WORDS.search(text)
    if bare and _is_words(bare[2], bool(bare[1])):
        return text[: bare.start()].strip(), bare[2], bare[3] or ""
    return None


def scale_of(words: str) -> int:
    """What the words multiply a value by: `million dollars` 1000000, `dozen` 12, `apples` 1."""
    scale = 1
    for word in words.lower().split():
        if word not in _SCALES:
            break
        scale *= _SCALES[word]
    return scale


def unscaled(words: str) -> str:
    """The words behind those that multiply: `dollars` of `million dollars`."""
    tokens = words.split()
    while tokens and tokens[0].lower() in _SCALES:
        tokens.pop(0)
    return " ".join(tokens)


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
