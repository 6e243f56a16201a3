"""The shape of a mathematical answer: tuple, interval, set, list, union, matrix, equation, range, or one expression with its unit.

    (-\\infty,3]\\cup[4,\\infty)   a union of two intervals
    x=3\\text{ or }x=-1           a list of two, in any order
    1\\pm\\sqrt{2}                the same kind of list
    -2<x\\le 5                    an interval
    18«cm»                        an expression with the unit cm

`parse` takes the one spelling that `latex_form.normal` gives. It never evaluates anything.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from tasks.answer_parts import CLOSE, INFINITY, NUMBER_WORDS, OPEN, Form, depth_of, split, split_keeping, word_form
from tasks.latex_form import ROW, matching
from tasks.units import is_bare_product, is_product, scale_of, unit_of, unscaled, words_behind

MAX_DEPTH = 40
"""Deeper nesting of brackets is no answer."""
MAX_PARTS = 60
_LEAD = re.compile(
    r"^(?:«?(?:approximately|about|approx\.?|roughly|exactly|around|is|equals|only"
    r"|therefore|thus|then|so|hence|finally|simply|just|also|(?:the )?answer(?: is|:))(?:»[ :]*|[ :]+)|\\approx ?|\\sim ?|=)",
    re.I,
)
_NAME = re.compile(
    r"^(?:«[^«»]*»|m?\\(?:angle|triangle|overline) ?\{?[A-Z]{1,4}\}?|[a-zA-Z]|\\[a-zA-Z]+|[A-Z]{2,4}"
    r"|\((?:[a-zA-Z]|\\[a-zA-Z]+)(?:,(?:[a-zA-Z]|\\[a-zA-Z]+))+\))(?:_\{[^{}]*\}|')*"
    r"(?:\([a-zA-Z0-9,]{1,8}\)|\^\{-1\}\([a-zA-Z]\))?$"
)
_SCALED = re.compile(r"([^,;=<>&⏎]{1,60}?)(?:\\(?:cdot|times))?((?:[(\[])?\\begin\{[pbB]?matrix\}.*\\end\{[pbB]?matrix\}(?:[)\]])?)")
_SIGN_PAIR = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_REALS = re.compile(r"«?(?:the )?(?:set of )?all (?:(non-?negative|non-?positive|positive|negative) )?(?:real numbers|reals)»?", re.I)
_REAL_LINE = {
    "": ("-" + INFINITY, INFINITY, (False, False)), "positive": ("0", INFINITY, (False, False)),
    "nonnegative": ("0", INFINITY, (True, False)), "negative": ("-" + INFINITY, "0", (False, False)),
    "nonpositive": ("-" + INFINITY, "0", (False, True)),
}  # fmt: skip
_ALL_BUT = re.compile(
    r"«?all (?:real numbers|reals) (?:except|but|other than)(?: for)?»?[ :]*(?:[a-z]=)?([^,;]{1,40}?)»?"
    r"|\\R ?(?:\\setminus|\\backslash|-)\\\{([^,;{}]{1,40})\\\}",
    re.I,
)
_NOTHING = re.compile(r"«?(?:there (?:is|are) )?no (?:real )?solutions?»?|«?(?:the )?empty set»?", re.I)
_OR_MORE = re.compile(
    r"([^,;]{1,60}?) ?«?(?:or|and) (more|greater|higher|above|less|fewer|lower|below)»?|«?at (least|most)»? ?([^,;]{1,60})", re.I
)
_SIGNS = r"\\(?:le|ge|ne|approx|equiv)(?![a-zA-Z])|<|>|="
_COMPOUND = re.compile(r"([0-9]+) ?«?([a-zA-Z]+)\.?(?:,|,? and)?»?,? ?(?:and )?([0-9]+) ?«?([a-zA-Z]+)»?")
"""`5 feet 6 inches`."""
_OF_DEGREES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)\(?[0-9.]+\^\\circ$")
"""`\\sin30^\\circ` is a value without a unit."""
_CURRENCY_OR_SIGN = re.compile(r"^([-+]?)\\\$ ?([-+]?)")


def parse(text: str) -> Form:
    """The form of an answer in the one spelling. Raises ValueError for one that is empty, nested or listed without end."""
    if not text or depth_of(text) > MAX_DEPTH or text.count(",") > MAX_PARTS:
        raise ValueError("empty, or nested too deep")
    text = re.sub(r",? (and|or)»(?=[-0-9\\(])", r"» \1 ", text)  # 3\text{ cm and }4\text{ cm}
    if r"\begin" not in text:
        text = re.sub(r" ?\\?& ?", " and ", text)
    return _parse(text.replace("«and»", " and ").replace("«or»", " or ").replace("«, and»", " and "), 0)


def _parse(text: str, level: int) -> Form:
    text = _stripped(text)
    if not text or level > 2 * MAX_DEPTH:
        raise ValueError("an empty part")
    compound = _COMPOUND.fullmatch(text)
    units = [unit_of(word, "") for word in compound.group(2, 4)] if compound else []
    if compound and all(units) and units[0] != units[1]:
        return Form("text", " ".join(number + unit for number, unit in zip(compound.group(1, 3), units)))
    reals = _REALS.fullmatch(text)
    if text == r"\R" or reals:
        kind = (reals.group(1) or "").replace("-", "") if reals else ""
        low, high, closed = _REAL_LINE[kind.lower()]
        return Form("interval", parts=(Form("leaf", low), Form("leaf", high)), closed=closed)
    if left_out := _ALL_BUT.fullmatch(text):
        return _parse(rf"x\ne {left_out[1] or left_out[2]}", level + 1)
    if _NOTHING.fullmatch(text):
        return Form("leaf", r"\emptyset")
    if text.startswith("«") and text.find("»") == len(text) - 1:
        return _words(text[1:-1], level)
    if bound := _OR_MORE.fullmatch(text):
        sign = r"\ge " if (bound[2] or bound[3]).lower() in ("more", "greater", "higher", "above", "least") else r"\le "
        return _parse(f"x{sign}{bound[1] or bound[4]}", level + 1)
    if named := re.fullmatch(r"\(?([A-J])\)[.:]?", text):
        return word_form(f"({named[1]})")
    both = _both_hold(text, level)
    if both is not None:
        return both
    pieces = split(text, r"\\cup")
    if len(pieces) > 1:
        return Form("union", parts=tuple(_parse(piece, level + 1) for piece in pieces))
    for separators in (r" ?;", r" ?, ?(?:and|or)\b| ?,|(?<![a-zA-Z\\]) ?\b(?:and|or)\b"):
        pieces = [piece for piece in split(text, separators) if piece.strip(" .")]
        if len(pieces) > 1:
            return Form("list", parts=_elements(pieces, level))
    relation = _relation(text, level)
    if relation is not None:
        return relation
    bracketed = _bracketed(text, level)
    if bracketed is not None:
        return bracketed
    if _SIGN_PAIR.search(text):
        ends = [re.sub(r"\\mp(?![a-zA-Z])", b, re.sub(r"\\pm(?![a-zA-Z])", a, text)) for a, b in (("+", "-"), ("-", "+"))]
        return Form("list", parts=tuple(_parse(end, level + 1) for end in ends))
    return _leaf(text)


def _stripped(text: str) -> str:
    """Without lead-in words, blanks and braces around the whole."""
    text = text.strip(" \"'").rstrip(" .")
    text = _LEAD.sub("", text, count=2).strip()
    while text.startswith("{") and matching(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _elements(pieces: list[str], level: int) -> tuple[Form, ...]:
    """The members of a list or set; `0,\\pm 2` has three."""
    parsed = [(piece, _parse(piece, level + 1)) for piece in pieces]
    return tuple(part for piece, form in parsed for part in (form.parts if form.kind == "list" and _SIGN_PAIR.search(piece) else (form,)))


def _words(content: str, level: int) -> Form:
    """What stood in `\\text{...}` alone: a choice letter, a list of letters, words, or a number written out."""
    if re.search(r"[0-9]", content) and not re.search(r"[A-Za-z]{3}|[ap]\.?m", re.sub(r"\b(?:and|or)\b", "", content), re.I):
        return _parse(content, level + 1)
    measured = re.fullmatch(r"\$?([0-9][0-9,./]*) +([a-zA-Z ]{1,30})", content.strip(" ."))
    if measured and (unit_of(measured[2], "") or re.search(r"(?<![su])s$", measured[2])):
        return _parse(f"{measured[1]}«{measured[2]}»", level + 1)
    if level < 3 and ("," in content or re.fullmatch(r"\(?(?:[A-Z]|[IVX]+)\)?(?: and \(?(?:[A-Z]|[IVX]+)\)?)+", content)):
        pieces = [piece for piece in re.split(r",\s*(?:and\s)?|\sand\s", content) if piece.strip()]
        if len(pieces) > 1:
            return Form("list", parts=tuple(_words(piece, level + 1) for piece in pieces))
    return word_form(content)


def _relation(text: str, level: int) -> Form | None:
    """Equations and inequalities. `x=5` and `f(x)=5` are the value 5 with a name, `2<x\\le 5` is an interval, `x\\in A` is A."""
    inside = split(text, r"\\in(?![a-zA-Z])")
    if len(inside) == 2 and _NAME.match(inside[0].strip()):
        return _parse(inside[1], level + 1)
    sides, signs = split_keeping(text, _SIGNS)
    if len(sides) < 2 or not all(side.strip() for side in sides):
        return None
    if all(sign in ("=", r"\approx", r"\equiv") for sign in signs):
        # The exact value stands before the first \\approx.
        exact = (
            sides[: signs.index(r"\approx") + 1]
            if r"\approx" in signs[1:] or (r"\approx" in signs and (sides[0].strip() == r"\pi" or not _NAME.match(sides[0])))
            else sides
        )
        if len(exact) == 1:
            return _parse(exact[0], level + 1)
        if _NAME.match(sides[0].strip()):
            value = _parse(exact[-1], level + 1)
            return Form(value.kind, value.text, value.parts, value.closed, value.columns, value.unit, sides[0].strip())
        if _plain(exact[-1]) and (len(exact) > 2 or _plain(exact[0])):
            return _parse(exact[-1], level + 1)
        return Form("equation", parts=(_leaf(sides[0]), _leaf(sides[-1]))) if len(sides) == 2 else _leaf(sides[-1])
    return _range([side.strip() for side in sides], signs, level)


def _both_hold(text: str, level: int) -> Form | None:
    """`x>3 and x<5` as the interval in which both hold, which is not empty; None for anything else."""
    halves = split(text, r" ?,? ?\band\b ?| ?, ?")
    sides = [split(half, _SIGNS) for half in halves]
    names = {name for pair in sides for name in (side.strip() for side in pair) if re.fullmatch(r"[a-zA-Z]|\\[a-zA-Z]+", name)}
    if len(halves) != 2 or any(len(pair) != 2 for pair in sides) or len(names) != 1:
        return None
    forms = [_relation(half.strip(), level + 1) for half in halves]
    bounds = [form for form in forms if form is not None and form.kind == "interval"]
    if len(bounds) != 2:
        return None
    below, above = sorted(bounds, key=lambda form: form.parts[0].text == "-" + INFINITY)
    if below.parts[0].text.lstrip("-") == above.parts[0].text.lstrip("-") or below.parts[1].text == above.parts[1].text:
        return _narrower(below, above) if " and" in text else None
    low, high = below.parts[0], above.parts[1]
    if INFINITY in (low.text.lstrip("-"), high.text):
        return None
    try:  # `x<1, x>3` says that one of them holds
        if Decimal(low.text) >= Decimal(high.text):
            return None
    except InvalidOperation:
        if " and" not in text:
            return None
    return Form("interval", parts=(low, high), closed=(below.closed[0], above.closed[1]))


def _narrower(a: Form, b: Form) -> Form | None:
    """Of two rays in one direction the one that lies in the other; None where their ends are no plain numbers, or the same."""
    end = 1 if a.parts[0].text == "-" + INFINITY else 0
    try:
        first, second = Decimal(a.parts[end].text), Decimal(b.parts[end].text)
    except InvalidOperation:
        return None
    return None if first == second else a if (first < second) == (end == 1) else b


def _plain(text: str) -> bool:
    """Whether a side is a value: digits and no variable."""
    return bool(re.search(r"[0-9]", text)) and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])", re.sub(r"«[^«»]*»", "", text))


def _range(sides: list[str], signs: list[str], level: int) -> Form | None:
    """An inequality in one name as the interval it is."""
    infinite = Form("leaf", INFINITY), Form("leaf", "-" + INFINITY)
    if len(sides) == 2:
        left, sign, right = sides[0], signs[0], sides[1]
        if not _NAME.match(left) and _NAME.match(right):
            left, right, sign = right, left, {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}.get(sign, sign)
        absolute = re.fullmatch(r"\|([a-zA-Z])\|", left)
        if absolute and _plain(right) and not right.startswith("-") and sign != r"\ne":
            name, turned = absolute[1], sign.replace(">", "<").replace("ge", "le")
            if turned == sign:
                return _range([f"-{right}", name, right], [sign, sign], level)
            return Form("union", parts=(_parse(f"{name}{turned}-{right}", level + 1), _parse(f"{name}{sign}{right}", level + 1)))
        if not _NAME.match(left):
            return None
        bound = _parse(right, level + 1)
        if sign in ("<", r"\le"):
            return Form("interval", parts=(infinite[1], bound), closed=(False, sign == r"\le"))
        if sign in (">", r"\ge"):
            return Form("interval", parts=(bound, infinite[0]), closed=(sign == r"\ge", False))
        return Form("union", parts=(Form("interval", parts=(infinite[1], bound)), Form("interval", parts=(bound, infinite[0]))))
    if len(sides) == 3 and _NAME.match(sides[1]):
        if all(sign in ("<", r"\le") for sign in signs):
            ends, closed = (sides[0], sides[2]), (signs[0] == r"\le", signs[1] == r"\le")
        elif all(sign in (">", r"\ge") for sign in signs):
            ends, closed = (sides[2], sides[0]), (signs[1] == r"\ge", signs[0] == r"\ge")
        else:
            return None
        return Form("interval", parts=tuple(_parse(end, level + 1) for end in ends), closed=closed)
    return None


def _closing(text: str) -> int | None:
    """Index of the bracket that closes the one `text` begins with, whatever its kind (intervals mix them)."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in OPEN) - (c in CLOSE)
        if depth == 0:
            return i
    return None


def _bracketed(text: str, level: int) -> Form | None:
    """A form whose brackets enclose the whole text."""
    matrix = re.fullmatch(r"\\begin\{([pbBvV]?matrix|array|smallmatrix)\}(?:\{[lcr|]*\})?(.*?)\\end\{\1\}", text)
    if matrix and r"\begin" not in matrix.group(2):
        rows = [row.split("&") for row in matrix.group(2).split(ROW) if row.strip()]
        if rows and len({len(row) for row in rows}) == 1 and not matrix.group(1).startswith(("v", "V")):
            return Form("matrix", parts=tuple(_parse(cell, level + 1) for row in rows for cell in row), columns=len(rows[0]))
        return None
    scaled = _SCALED.fullmatch(text)
    if scaled:
        inner = _bracketed(scaled[2], level + 1)
        factor = scaled[1] if scaled[1] != "-" else "-1"
        if inner is not None and inner.kind == "matrix" and all(part.kind == "leaf" for part in inner.parts):
            cells = tuple(Form("leaf", rf"({factor})\cdot({part.text})") for part in inner.parts)
            return Form("matrix", parts=cells, columns=inner.columns)
    if text.startswith(r"\langle") and text.endswith(r"\rangle"):
        text = "(" + text[len(r"\langle") : -len(r"\rangle")] + ")"
    brackets = re.fullmatch(r"(\\\{)(.*)\\\}", text)
    if brackets and _closing(text[1:]) == len(text) - 2:
        body = split(brackets.group(2), r"\||:")
        if len(body) == 2 and (_NAME.match(body[0].strip()) or r"\in" in body[0]):  # the x for which a condition holds
            return _parse(body[1], level + 1)
        pieces = split(body[0] if len(body) == 1 else brackets.group(2), r" ?[,;] ?(?:and )?| and ")
        return Form("set", parts=_elements(pieces, level))
    if text[0] not in "([" or text[-1] not in ")]" or _closing(text) != len(text) - 1:
        return None
    inner = _bracketed(text[1:-1], level + 1) if text[1:].startswith(r"\begin") else None
    if inner is not None:
        return inner
    pieces = split(text[1:-1], r" ?[,;] ?")
    if len(pieces) == 1:
        if re.fullmatch(r"\([A-Za-z]\)", text):
            return word_form(text)
        return _parse(pieces[0], level + 1)
    parts = tuple(_parse(piece, level + 1) for piece in pieces)
    if len(parts) == 2 and text[0] + text[-1] != "()":
        return Form("interval", parts=parts, closed=(text[0] == "[", text[-1] == "]"))
    return Form("tuple", parts=parts)


def _leaf(text: str) -> Form:
    """One expression, its unit taken off."""
    text = re.sub(r"^«([0-9A-Z]+)»(?=_\{)", r"\1", re.sub(r"_\{«(\w+)»\}", r"_{\1}", text.strip()))
    text = re.sub(r"^([0-9]+)(?:st|nd|rd|th)$", r"\1", text)
    if re.fullmatch(r"[0-9]{1,2}(?::[0-5][0-9])? ?[ap]\.? ?m\.?", text, re.I):
        return word_form(text)
    text = re.sub(r" ?\(?\\pmod ?\{?[0-9a-z]+\}?\)?$", "", text)
    unit, scale = "", 1
    found = words_behind(text)
    if found and r"\times" in found[0] and re.match(r"(?:matri|grid|board|array|rectang)", found[1].strip()):
        return word_form(text.replace(r"\times", " x ").replace("«", " ").replace("»", " "))  # a size, not a product
    if found and not re.search(r"\b(?:pi|sqrt)\b", found[1]):
        if re.match(r"[ap]\.?m\b", found[1].strip(), re.I):
            return word_form(text.replace("«", " ").replace("»", " "))
        scale = scale_of(found[1])
        unit, text = unit_of(unscaled(found[1]), found[2]), found[0]
    if text.endswith((r"\%", "%")):
        unit, text = "%", text.removesuffix("%").removesuffix("\\").strip()
    elif text.endswith(r"^\circ") and not _OF_DEGREES.search(text):
        unit, text = "deg", text.removesuffix(r"^\circ").strip()
    text = _CURRENCY_OR_SIGN.sub(r"\1\2", text).removesuffix(r"\$").strip()
    if not text:
        raise ValueError("a unit without a value")
    text = re.sub(r"^([-+]?[0-9.]+)[eE]([-+]?[0-9]{1,3})$", r"\1\\times10^{\2}", text)
    if re.fullmatch(r"[0-9.]+:[0-9.]+", text) and len(text.split(":")[1]) > 0 and not re.fullmatch(r"[0-9]{1,2}:[0-5][0-9]", text):
        unit, text = ":", r"\frac{{{}}}{{{}}}".format(*text.split(":"))
    if scale != 1:
        text = f"{Decimal(text) * scale:f}" if re.fullmatch(r"[-+]?[0-9]{1,20}(?:\.[0-9]{1,20})?", text) else rf"({text})\cdot{scale}"
    mathematical = re.sub(r"\\[a-zA-Z]+", "", text)
    run = re.fullmatch(r"[-+]?([0-9.]*)([a-z]{3,})", text)
    if run and run[2] not in NUMBER_WORDS and (is_product(run[2]) if run[1] else is_bare_product(run[2])):
        return Form("leaf", text, unit=unit)
    if re.search(r"[A-Za-z]{3,}|[A-Za-z]{2,} |«", mathematical) and not re.search(r"[\\^_+=*/{}]", text.replace("«", "").replace("»", "")):
        return word_form(text.replace("«", " ").replace("»", " "))
    return Form("leaf", re.sub(r"«[^«»]*»", "", text).strip() or text, unit=unit)
