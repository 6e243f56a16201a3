"""One spelling for the many ways to write a mathematical answer: the first step of comparing two of them.

    $\\dfrac12$        ->  \\frac{1}{2}
    10,\\!080\\text{ cm}  ->  10080«cm»
    x² − √3            ->  x^{2}-\\sqrt{3}

Text inside `\\text{...}` and its kin is kept apart from mathematics by «…», so that a unit is never taken for a product of variables.
Nothing here parses or evaluates; every rule is a linear pass over at most MAX_CHARS characters.
"""

from __future__ import annotations

import re
import unicodedata

MAX_CHARS = 1500
"""A longer answer is no answer (the longest gold of MATH has 159 characters); it is compared as it stands."""

ROW = "⏎"
"""Stands for the double backslash that ends a row."""
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
    "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ", "°": r"^\circ ", "º": r"^\circ ", "⟨": r"\langle ", "⟩": r"\rangle ", "∶": ":",
    "≈": r"\approx ", "“": '"', "”": '"', "‘": "'", "’": "'", "′": "'", "，": ",", "⋯": r"\cdots ",
    "∛": r"\sqrt[3]", "€": r"\$", "£": r"\$", "¥": r"\$", "₹": r"\$",
}  # fmt: skip
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|mathbb|operatorname\*?|boldsymbol|bm)\s*\{"
)
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "ln", "log", "exp", "gcd", "lcm"}
_DROPPED = re.compile(
    r"\\(?:left|right)\s*\.(?![0-9])"
    r"|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut|strut|bf|rm|it|boldmath|hfill|hline"
    r"|allowbreak|nobreak|[lL]arge|LARGE|[hH]uge|normalsize|small|checkmark|dots[bcm]?(?=\s*$))(?![a-zA-Z])"
    r"|\\(?:text)?color\s*\{[^{}]*\}|\\!|\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\\{])|\\[hv]space\*?\s*\{[^{}]*\}|\\(?:label|tag)\s*\{[^{}]*\}"
)
_SPACES = re.compile(r"\\[,;:> ]|\\q?quad(?![a-zA-Z])|\\thinspace(?![a-zA-Z])|(?<!\\)~|\u00a0|\u2009|\u202f")
_SAME = (
    (re.compile(r"(?<=[0-9a-zA-Z)}])\s*\*\*\s*(?=[0-9a-zA-Z({-])"), "^"),
    (re.compile(r"\{([^{}]{1,20})\\choose(?![a-zA-Z])([^{}]{1,20})\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\(wedge|land)(?![a-zA-Z])"), " and "),
    (re.compile(r"\\(vee|lor)(?![a-zA-Z])"), " or "),
    (re.compile(r"\\(?:d|t|c|nice|s)frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\leqs?lant(?![a-zA-Z])|\\leq(?![a-zA-Z])|<=|\\leqq(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\geqs?lant(?![a-zA-Z])|\\geq(?![a-zA-Z])|>=|\\geqq(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\neq(?![a-zA-Z])|!="), r"\\ne "),
    (re.compile(r"\\(?:varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"\\(?:lbrace|{)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\l?brack(?![a-zA-Z])"), "["),
    (re.compile(r"\\rbrack(?![a-zA-Z])"), "]"),
    (re.compile(r"\\lparen(?![a-zA-Z])"), "("),
    (re.compile(r"\\rparen(?![a-zA-Z])"), ")"),
    (re.compile(r"\\(?:degree|deg)(?![a-zA-Z])"), r"^\\circ "),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}"), r"^\\circ "),
    (re.compile(r"(?:\{\s*\}|(?<![\w)}\]]))\s*\^\s*\{?([0-9]+)\}?\s*/\s*_\s*\{?([0-9]+)\}?"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\mid(?![a-zA-Z])|\\[lr]?vert(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:colon|ratio)(?![a-zA-Z])"), ":"),
    (re.compile(r"\\(?:div)(?![a-zA-Z])"), "/"),
    (re.compile(r"\\(?:ast|star|bullet)(?![a-zA-Z])|(?<=[0-9a-zA-Z)}])\s*\*\*?(?!\*)\s*(?=[0-9a-zA-Z(\\])"), r"\\cdot "),
    (re.compile(r"\\(?:bmod|mod)(?![a-zA-Z])"), r"\\pmod "),
    (re.compile(r"\\(?:cdots|ldots|dots|dotsb)(?![a-zA-Z])|\.\.\.+"), r"\\ldots "),
)
_WORDS = (
    (re.compile(r"(?<![a-zA-Z])(?:US|USD|EUR|GBP|INR|Rs\.?) ?(?:\\\$)? ?(?=[0-9])"), r"\\$"),
    (re.compile(r"(?<=[0-9]) ?[xX] ?(?=10\s*\^)"), r"\\times "),
    (re.compile(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"√\s*([0-9]+(?:\.[0-9]+)?|[a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"√"), r"\\sqrt "),
    (re.compile(r"(?<![\\a-zA-Z])sqrt(?![a-zA-Z])"), r"\\sqrt "),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"(?<![\\a-zA-Z])(?:infinity|infty|inf|oo)(?![a-zA-Z])"), r"\\infty "),
    (re.compile(r"(?<![\\a-zA-Z])(?:sin|cos|tan|cot|sec|csc|ln|log)(?=\s*[(0-9\\^])"), r"\\\g<0>"),
    (re.compile(r"(?<![\w.\\])([0-9]+) ([0-9]+)/([0-9]+)(?![\w/])"), r"\1\\frac{\2}{\3}"),
    (re.compile(r"(?<=[0-9})a-zA-Z\s])(?<![\\])\bU\b(?=\s*[\[(])"), r"\\cup "),
)
_TOKEN = r"(?:[0-9a-zA-Z]|\\(?!frac|sqrt)[a-zA-Z]+)"
_ARGUMENTS = (
    (re.compile(rf"\\frac\s*({_TOKEN})"), r"\\frac{\1}"),
    (re.compile(rf"(\\frac\s*\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}})\s*({_TOKEN})"), r"\1{\2}"),
    (re.compile(rf"\\sqrt(\[[^\[\]{{}}]*\])?\s*({_TOKEN})"), r"\\sqrt\1{\2}"),
    (re.compile(r"\^\s*(-?[0-9]+|[a-zA-Z]|\\(?!circ|frac|sqrt)[a-zA-Z]+)"), r"^{\1}"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"_\s*([0-9]+|[a-zA-Z]|\\[a-zA-Z]+)"), r"_{\1}"),
)
_DIGIT_GROUPS = (
    re.compile(r"(?<=[0-9])(?:\{,\}|,\s*\\!|\\,)\s*(?=[0-9]{3}(?![0-9]))"),
    re.compile(r"(?<![0-9.,«_^])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])"),
)
_REPEATING = re.compile(r"([0-9]*)\.([0-9]{0,40})\\(?:overline|bar)\s*\{?([0-9]{1,40})\}?")


def matching(text: str, start: int) -> int | None:
    """Index of the brace that closes the one at `start`; None where it is never closed. Escaped braces do not count."""
    depth = 0
    i = start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return None


def _symbols(text: str) -> str:
    """Unicode to LaTeX: superscripts, vulgar fractions, operators, Greek; look-alikes of other scripts stay what they are."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)
    text = _VULGAR.sub(lambda m: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", m.group()).split("⁄")), text)
    text = "".join(_SYMBOLS.get(c, c) for c in text)
    return unicodedata.normalize("NFKC", text)


def _texts(text: str) -> str:
    """`\\text{...}` and its kin become «...»; function names become commands; one letter in a mathematical font stays mathematics."""
    parts: list[str] = []
    while found := _TEXT.search(text):
        end = matching(text, found.end() - 1)
        if end is None:
            break
        content = text[found.end() : end].strip().replace("«", "").replace("»", "")
        parts.append(text[: found.start()])
        if content in _FUNCTIONS or found.group().startswith("\\mathbb"):
            parts.append(f"\\{content} ")
        elif found.group().startswith(("\\math", "\\bo", "\\bm")) and len(content) == 1:
            parts.append(f"{content} ")
        elif re.fullmatch(r"[-+]?[0-9.,/\s$\\%^°{}]*[0-9][0-9.,/\s$\\%^°{}]*|.*[\\$].*", content):  # a number or mathematics in bold
            parts.append(f" {_texts(content)} ")
        else:
            parts.append(f"«{content}»")
        text = text[end + 1 :]
    return "".join(parts) + text


def _repeating(found: re.Match[str]) -> str:
    """0.1\\overline{6} as the fraction it is."""
    whole, fixed, cycle = found.group(1) or "0", found.group(2), found.group(3)
    below = 10 ** len(fixed) * (10 ** len(cycle) - 1)
    above = int(whole + fixed + cycle) - int(whole + fixed)
    return rf"\frac{{{above}}}{{{below}}}"


def _top_level_groups(text: str) -> str:
    """Thousands separators out of numbers, but not inside brackets, where `(1,234)` is a pair."""
    text = _DIGIT_GROUPS[0].sub("", text)

    def join(found: re.Match[str]) -> str:
        before = text[: found.start()]
        inside = sum(before.count(c) for c in "([") > sum(before.count(c) for c in ")]") or before.count("\\{") > before.count("\\}")
        return found.group() if inside else found.group().replace(",", "")

    return _DIGIT_GROUPS[1].sub(join, text)


def normal(text: str) -> str:
    """The one spelling of an answer; single blanks where they may matter (between words, in mixed numbers)."""
    if len(text) > MAX_CHARS:
        return text.strip()
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z{}%$])", r"\\", text)  # a reply that was escaped twice
    text = re.sub(r"\\\\(?:\[[^\]]{0,9}(?:pt|ex|em|mm)\])?", ROW, _symbols(text))
    text = re.sub(r"\\(?:boxed|fbox|ensuremath|mathopen|mathclose|underline|bold)(?![a-zA-Z])", "", text)
    text = re.sub(r"\\[()\[\]](?!\s*[0-9.]+\s*(?:ex|em|pt)\])", " ", text)  # \( \) \[ \], delimiters of mathematics
    text = _DROPPED.sub("", _DIGIT_GROUPS[0].sub("", text))
    text = _texts(text)
    text = re.sub(r"(?<!\\)\$", " ", text)
    text = _SPACES.sub(" ", text)
    for pattern, spelling in (*_SAME, *_WORDS, *_ARGUMENTS):
        text = pattern.sub(spelling, text)
    text = _REPEATING.sub(_repeating, _top_level_groups(text))
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s*([-+=<>/,;:|&(){}\[\]^_⏎])\s*", r"\1", text)
    text = re.sub(r"(\\[a-zA-Z]+) (?![a-zA-Z])", r"\1", re.sub(r" +(?=\\)", "", text))
    text = text.strip(" \t\n\"'`*")
    text = re.sub(r"(?<!\\)(?:[.,;:?⏎]|(?<=[a-z]{3})!)+$", "", text).strip(" *`")
    while text.startswith("{") and matching(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text
