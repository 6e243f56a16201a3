"""Whether two mathematical answers are the same, as far as that can be said without computer algebra.

`compare` walks two forms side by side and asks `same_leaf` about single expressions. With `plain_leaf` (here: exact rational
arithmetic and spelling) it decides most answers in microseconds and says None for the rest; the grading worker runs the same walk with
a `same_leaf` that knows algebra (`rewards/symbolic.py`). The relation is symmetric and reflexive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from tasks.answer_form import parse
from tasks.answer_parts import INFINITY, Form
from tasks.latex_form import normal

SameLeaf = Callable[[Form, Form], bool | None]
MAX_DIGITS = 200
"""A longer number is compared by spelling."""

_DECIMAL = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_RATIONAL = re.compile(
    rf"(?P<sign>[-+]?)(?:\((?P<inner>[-+]?(?:{_DECIMAL}))\)|(?P<mixed>[0-9]+)(?: ?(?=\\frac)| (?=[0-9]+/))"
    rf"|(?P<number>{_DECIMAL})(?![0-9]*/)|)"
    rf"(?:\\frac\{{(?P<above>[-+]?(?:{_DECIMAL}))\}}\{{(?P<below>[-+]?(?:{_DECIMAL}))\}}"
    rf"|(?P<up>{_DECIMAL})/(?P<down>-?(?:{_DECIMAL}))|)"
    r"(?:(?:(?:\\times|\\cdot)? ?10\^\{(?P<power>[-+]?[0-9]{1,3})\})|[eE](?P<exponent>[-+]?[0-9]{1,3}))?"
)
_BASE = re.compile(r"\(?«?([0-9A-Z][0-9A-Z. ]*|[0-9a-f]+(?=»?\)?_\{\(?16))»?\)?_\{\(?«?([0-9]+|[a-z]+)»?\)?\}")
_CLOCK = re.compile(r"([0-9]{1,2})(?::([0-5][0-9])|(?=[ap]m))([ap]m)?")
_BASE_WORDS = {word: str(i) for i, word in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)}


def rational(text: str) -> Fraction | None:
    """The exact value of a plain number: integer, decimal, fraction, mixed number or scientific notation; None for anything else."""
    found = _RATIONAL.fullmatch(text) if len(text) <= MAX_DIGITS else None
    if not found or not any(found[name] for name in ("inner", "number", "above", "up")):
        return None
    plain = found["inner"] or found["number"]
    if plain and (found["above"] or found["up"]):
        return None  # a product such as 2.5\frac{1}{2}
    if found["above"] or found["up"]:
        below = Fraction(found["below"] or found["down"])
        if below == 0:
            return None
        value = Fraction(found["above"] or found["up"]) / below
        if found["mixed"]:
            value += int(found["mixed"])
    else:
        value = Fraction(plain)
    power = int(found["power"] or found["exponent"] or 0)
    if not (found["power"] or found["exponent"]) and plain is None and not (found["above"] or found["up"]):
        return None
    return (-value if found["sign"] == "-" else value) * Fraction(10) ** power


def units_clash(a: Form, b: Form) -> bool:
    """Whether both carry a known unit and these differ. A missing or unknown unit, and a percent sign, contradict nothing; a ratio is
    the fraction, but not a whole number."""
    for one, other in ((a, b), (b, a)):
        if one.unit == ":" != other.unit and not re.search(r"/|\\frac|\.", other.text):
            return True
    return bool(a.unit and b.unit and a.unit != b.unit and not {"%", ":"} & {a.unit, b.unit})


def letters(form: Form) -> str | None:
    """The letter of a form that is one letter."""
    return form.text.upper() if len(form.text) == 1 and form.text.isalpha() else None


def _same_time(a: tuple[str | None, ...], b: tuple[str | None, ...]) -> bool:
    """Whether two times of day (hour, minutes, half) are the same; one that does not say which half contradicts none."""
    return (int(a[0] or 0), a[1] or "00") == (int(b[0] or 0), b[1] or "00") and (a[2] == b[2] or not (a[2] and b[2]))


def by_spelling(a: Form, b: Form) -> bool | None:
    """Words, letters, units and numerals with a base: what algebra has no say in. None where both are expressions."""
    if any(clocks := (_CLOCK.fullmatch(a.text), _CLOCK.fullmatch(b.text))) and all(clocks):
        return _same_time(*(found.groups() for found in clocks if found))
    if "text" in (a.kind, b.kind):
        if letters(a) or letters(b):
            return letters(a) == letters(b)
        return re.sub(r"\W", "", a.text.lower()) == re.sub(r"\W", "", b.text.lower())
    if units_clash(a, b):
        return False
    bases = _BASE.fullmatch(a.text), _BASE.fullmatch(b.text)
    if any(bases):
        digits = [(found[1] if found else form.text).replace(" ", "").upper() for found, form in zip(bases, (a, b))]
        named = {_BASE_WORDS.get(found[2], found[2]) for found in bases if found}
        return digits[0] == digits[1] and len(named) == 1
    return None


def plain_leaf(a: Form, b: Form) -> bool | None:
    """Decides without algebra, or says None."""
    decided = by_spelling(a, b)
    if decided is not None:
        return decided
    if a.kind == b.kind == "leaf":
        values = rational(a.text), rational(b.text)
        if values[0] is not None and values[1] is not None:
            return same_value(a, b, values[0] == values[1], values[0] == 100 * values[1], 100 * values[0] == values[1])
    if a == b or (a.text.replace(" ", "") == b.text.replace(" ", "") and a.parts == b.parts and a.kind == b.kind):
        return True
    return None


def same_value(a: Form, b: Form, equal: bool, a_is_100_b: bool, b_is_100_a: bool) -> bool:
    """Equality of two values where one may be a percentage: 50% is 50 by the data sets' convention and 0.5 by its meaning."""
    return equal or (a.unit == "%" != b.unit and a_is_100_b) or (b.unit == "%" != a.unit and b_is_100_a)


def every(outcomes: Sequence[bool | None]) -> bool | None:
    """All true; False where one is false, else None where one is undecided."""
    return False if False in outcomes else None if None in outcomes else True


def in_order(a: Sequence[Form], b: Sequence[Form], same_leaf: SameLeaf) -> bool | None:
    """Element by element."""
    if len(a) != len(b):
        return False
    outcomes: list[bool | None] = []
    for x, y in zip(a, b):
        outcomes.append(_same(x, y, same_leaf))
        if outcomes[-1] is False:
            return False
    return every(outcomes)


def in_any_order(a: Sequence[Form], b: Sequence[Form], same_leaf: SameLeaf) -> bool | None:
    """One to one. Undecided only where a decision could still make it true."""
    if len(a) != len(b):
        return False
    left, undecided = list(b), False
    for x in a:
        outcomes = []
        for y in left:
            outcomes.append(_same(x, y, same_leaf))
            if outcomes[-1]:
                break
        if outcomes[-1]:
            left.pop(len(outcomes) - 1)
        elif None in outcomes:
            undecided = True
        else:
            return False
    return None if undecided else True


def _infinite(form: Form) -> bool:
    return form.text.lstrip("+-") == INFINITY


def _same(a: Form, b: Form, same_leaf: SameLeaf) -> bool | None:
    kinds = {a.kind, b.kind}
    if kinds <= {"leaf", "text", "equation"}:
        return _same_single(a, b, same_leaf)
    if a.kind == b.kind == "matrix":
        return a.columns == b.columns and in_order(a.parts, b.parts, same_leaf)
    if a.kind == b.kind == "interval":
        closed = all(_infinite(x) or p == q for x, p, q in zip(a.parts, a.closed, b.closed))
        return closed and in_order(a.parts, b.parts, same_leaf)
    if kinds == {"tuple", "interval"}:
        interval = a if a.kind == "interval" else b
        return not any(interval.closed) and in_order(a.parts, b.parts, same_leaf)
    if kinds <= {"list", "set"} or kinds <= {"union"}:
        return in_any_order(a.parts, b.parts, same_leaf)
    if kinds == {"list", "union"}:
        pieces = (a if a.kind == "list" else b).parts
        return all(piece.kind in ("interval", "set") for piece in pieces) and in_any_order(a.parts, b.parts, same_leaf)
    if kinds <= {"tuple", "list"}:
        return _same_in_some_order(a, b, same_leaf)
    if kinds == {"tuple", "matrix"}:
        matrix = a if a.kind == "matrix" else b
        return matrix.columns in (1, len(matrix.parts)) and in_order(a.parts, b.parts, same_leaf)
    if "set" in kinds and kinds & {"leaf", "text"}:
        one, other = (a, b) if a.kind == "set" else (b, a)
        return len(one.parts) == 1 and _same(one.parts[0], other, same_leaf)
    return False


def _same_in_some_order(a: Form, b: Form, same_leaf: SameLeaf) -> bool | None:
    """A tuple beside a tuple or a list: in the order written. A list of named values (`y=2,x=1`) is a tuple in the order of the names the
    tuple carries; where it carries none, in the order written or that of the alphabet."""
    if a.kind == "list":
        a, b = b, a
    names = [part.name.lstrip("\\") for part in b.parts]
    if b.kind == "tuple" or not all(names) or len(set(names)) < len(names):
        return in_order(a.parts, b.parts, same_leaf)
    by_name = dict(zip(names, b.parts))
    wanted = [name.lstrip("\\") for name in a.name.strip("()").split(",")]
    orders = [wanted] if sorted(wanted) == sorted(names) else [names, sorted(names)]
    outcomes = [in_order(a.parts, [by_name[name] for name in order], same_leaf) for order in orders]
    return True if True in outcomes else None if None in outcomes else False


def _same_single(a: Form, b: Form, same_leaf: SameLeaf) -> bool | None:
    """Expressions, words and equations."""
    for one, other in ((a, b), (b, a)):
        if one.kind == "equation" and other.kind != "equation" and not other.name:
            return False
    if a.kind == b.kind == "leaf" and a.name != b.name and all(re.fullmatch(r"\\?[a-zA-Z]|\\[a-zA-Z]+", form.name) for form in (a, b)):
        return False
    return same_leaf(a, b)


def compare(gold: str, answer: str, same_leaf: SameLeaf) -> bool | None:
    """Whether two answers as written are the same. Raises ValueError where one has no form (empty, nested too deep)."""
    a, b = normal(gold), normal(answer)
    first, second = parse(a), parse(b)
    return _same(_choice(first, a, second), _choice(second, b, first), same_leaf)


def _choice(form: Form, text: str, other: Form) -> Form:
    """`(C) 42` is the letter C where the other side is a letter."""
    named = letters(other) and (other.kind == "text" or other.text in "ABCDEFGHJ")
    letter = re.match(r"«?\(?«?([A-J])»?\)[ :.»]*\S", text) if named else None
    return Form("text", letter[1]) if letter else form
