"""Equality of two expressions by algebra: math-verify's LaTeX parser (latex2sympy2-extended), then high-precision values at fixed points.

Runs only in the grading worker (`rewards.math_worker`), which bounds its time and memory: importing it loads sympy, and nothing here
guards against an expression that takes for ever. Two expressions are equal where they have the same value, to 12 digits, at points that
have nothing special about them (Schwartz 1980 on identity testing); where a value cannot be had, math-verify's own comparison decides,
asked both ways round so that the relation stays symmetric.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from math_verify.grader import should_treat_as_complex, sympy_expr_eq

from tasks.answer_parts import INFINITY, Form
from tasks.latex_form import ROW
from tasks.math_equivalence import by_spelling, same_value

logging.getLogger("math_verify").setLevel(logging.CRITICAL)

CONVERSION = ConversionConfig(lowercase_symbols=False)
DIGITS = 30
TOLERANCE = sympy.Float("1e-12", DIGITS)
ZERO = sympy.Float("1e-12", DIGITS)
POINTS = (
    "0.7390851332151607",
    "-1.3247179572447460",
    "2.6854520010653064",
    "0.2614972128476428",
    "-0.5671432904097838",
    "3.3598856662431775",
)
FAR = "-5.4365636569180904"
"""Of the first symbol alone: below where `x+1` and its like turn negative."""
MAX_SYMBOLS = 8
CONSTANTS = {"e": sympy.E, "i": sympy.I}


class Unparsed(ValueError):
    """An expression that the parser does not take."""


@lru_cache(maxsize=64)
def expression(text: str) -> Any:
    """The sympy expression of a leaf. Raises Unparsed."""
    if re.fullmatch(r"\+?\\infty", text):
        return sympy.oo
    if text == "-" + INFINITY:
        return -sympy.oo
    latex = text.replace(ROW, r"\\").replace("°", "")
    latex = re.sub(r"(\\(?:sin|cos|tan|cot|sec|csc))\(?([0-9.]+)\^\\circ\)?", r"\1(\\frac{\2\\pi}{180})", latex)
    if "\\int" not in latex and "\\frac{d" not in latex:  # `dcba` is a product; the parser would read a differential
        latex = re.sub(r"\\[a-zA-Z]+|d(?=[a-zA-Z])", lambda found: found[0] if found[0] != "d" else "{d}", latex)
    if "\\mp" in latex:
        raise Unparsed(text)
    try:
        parsed = latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            convert_degrees=False,
            normalization_config=None,
            conversion_config=CONVERSION,
        )
    except Exception as error:  # the generated parser raises bare Exception for a syntax error
        raise Unparsed(text) from error
    if not isinstance(parsed, (sympy.Basic, sympy.MatrixBase)):
        raise Unparsed(text)
    if "\\sqrt[" in latex:  # the odd root of a negative number is the real one; `(-8)^{1/3}` keeps its principal value
        parsed = parsed.replace(
            lambda x: x.is_Pow and x.exp.is_Rational and x.exp.q % 2 == 1 and x.exp.q > 1 and bool(x.base.is_negative),
            lambda x: -((-x.base) ** x.exp) if x.exp.p % 2 else (-x.base) ** x.exp,
        )
    constants = {symbol: CONSTANTS[symbol.name] for symbol in parsed.free_symbols if symbol.name in CONSTANTS}
    return parsed.subs(constants) if constants else parsed


def _values(parsed: Any, names: Sequence[str]) -> list[Any]:
    """Values at the points, each symbol by its name at another one; None where there is no finite number."""
    found = []
    for i in range(4 if names else 1):
        places = {name: FAR if i == 3 and k == 0 else POINTS[(2 * i + k) % 6] for k, name in enumerate(names)}
        at = {symbol: sympy.Float(places[symbol.name], DIGITS) for symbol in parsed.free_symbols}
        value = parsed.subs(at).evalf(DIGITS) if at else parsed.evalf(DIGITS)
        found.append(value if value.is_number and value.is_finite else None)
    return found


def _close(a: Any, b: Any, floor: Any = ZERO) -> bool:
    """Equal to 12 digits, or both nothing but the rounding of a zero."""
    return bool(abs(a - b) <= TOLERANCE * max(abs(a), abs(b), floor))


def _sure(value: Any) -> bool:
    """Whether a small number is that number: sympy marks what may be the rounding of a zero by a precision of one bit."""
    return isinstance(value, sympy.Float) and value._prec > 1


def same_expression(a: Any, b: Any) -> bool:
    """Whether two sympy objects are the same value or function."""
    if a == b:
        return True
    if isinstance(a, sympy.Rational) and isinstance(b, sympy.Rational):
        return False
    plain = all(isinstance(x, sympy.Expr) and not x.has(sympy.core.function.AppliedUndef) for x in (a, b))
    symbols = sorted({symbol.name for x in (a, b) for symbol in getattr(x, "free_symbols", ())})
    if plain and len(symbols) <= MAX_SYMBOLS and not any(x.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan) for x in (a, b)):
        pairs = list(zip(_values(a, symbols), _values(b, symbols)))
        if all(x is not None and y is not None for x, y in pairs):
            if not symbols and _sure(pairs[0][0]) and _sure(pairs[0][1]):
                return _close(*pairs[0], floor=0)
            return all(_close(x, y) for x, y in pairs)
    elif plain and not symbols:
        return False  # an infinity beside something else
    return any(sympy_expr_eq(x, y, float_rounding=12, numeric_precision=15, strict=True) for x, y in ((a, b), (b, a)))


def _difference(form: Form) -> Any:
    """Left side minus right side of an equation, or of a value with a name."""
    left, right = (form.parts[0].text, form.parts[1].text) if form.kind == "equation" else (form.name, form.text)
    return expression(left) - expression(right)


def _same_equation(a: Form, b: Form) -> bool:
    """Whether two equations hold for the same values: the sides differ by a constant factor."""
    first, second = _difference(a), _difference(b)
    names = sorted({symbol.name for x in (first, second) for symbol in x.free_symbols})
    if len(names) > MAX_SYMBOLS:
        return False
    pairs = list(zip(_values(first, names), _values(second, names)))
    if any(x is None or y is None or _close(x, 0) or _close(y, 0) for x, y in pairs):
        return same_expression(first, second)
    return all(_close(x / y, pairs[0][0] / pairs[0][1]) for x, y in pairs)


def same_leaf(a: Form, b: Form) -> bool:
    """Whether two single expressions, words or equations are the same. Raises Unparsed."""
    decided = by_spelling(a, b)
    if decided is not None:
        return decided
    if "equation" in (a.kind, b.kind):
        if not all(form.kind == "equation" or form.name for form in (a, b)):
            return False
        return _same_equation(a, b)
    x, y = expression(a.text), expression(b.text)
    if "%" in (a.unit, b.unit):
        return same_value(a, b, same_expression(x, y), same_expression(x, 100 * y), same_expression(100 * x, y))
    return same_expression(x, y)
