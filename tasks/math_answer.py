"""The final answer of a mathematical text: what stands in the last `\\boxed{}`, after the last `####`, `A:` or "the answer is".

    "... so $x = \\boxed{\\frac{1}{2}}$."      ->  \\frac{1}{2}
    "The answer is $12$ apples."               ->  $12$ apples
    "... and therefore $a+b = 7$."             ->  7        (flexible: no marker, the last expression)

Strict extraction knows only the markers. Every search is linear in the text, of which the last MAX_TEXT characters are read.
"""

from __future__ import annotations

import re

from tasks.answer_form import parse
from tasks.latex_form import matching, normal

MAX_TEXT = 100_000
"""Characters from the end that are read: a final answer stands at the end."""
MAX_PHRASE = 300
"""Characters after a phrase such as "the answer is" that can still belong to the answer."""
MARKER = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*(?=\S))|(?P<hash>####)"
    r"|(?P<phrase>\b(?:[Tt]he|[Oo]ur|[Mm]y|[Ff]inal|[Cc]orrect)\s+(?:\w+\s+){0,2}?[Aa]nswer(?:\s+(?:to|for)\s[^.\n:]{1,80}?)?"
    r"\s*(?:\*\*|__)?\s*(?:is|was|would be|must be|equals|=|:)(?![a-z])"
    r"|(?:^|(?<=\n))[#* ]*(?:[Tt]he )?(?:[Ff]inal )?(?:[Aa]nswer|ANSWER)[:* ]*(?=\n)"
    r"|(?<![\w$])[Aa]nswer\s*(?:\*\*|__)?\s*(?::|is\b|=)|(?:^|(?<=\n))\s*\**A\s*:|答案\s*[是为]?\s*[:：]?)"
)
_MATH = re.compile(
    r"(?<!\\)\$\$((?:[^$\\]|\\.)+)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+)\$|\\\(((?:[^\\]|\\[^()\[\]])+)\\\)|\\\[((?:[^\\]|\\[^()\[\]])+)\\\]",
    re.DOTALL,
)
_JOINING = re.compile(r"[\s,;.$*]*(?:\\text\s*\{\s*)?(?:and|or|,|\\quad)?(?:\s*\})?[\s,;$*\\()]*(?:[a-zA-Z]\s*=\s*)?[\s$\\()]*")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z(\"'*]|\s*$)|\.\s|\n\s*\n|\n(?=\s*(?:[A-Z#*-]|$))")
_REASON = re.compile(
    r",?\s+(?:because|since|as\s|so\s|which|where|when|for which|by\s|after\s|if\s|i\.e\.|obtained|given|from\s)|\s\((?=[a-z]{2})"
    r"|,\s+(?:who|and not|not|rather than|instead of)\s"
)
_UNIT = re.compile(
    r"[ \t]*(?:\\?%|°|"
    r"(?!(?:since|because|as|so|where|which|when|if|and|or|for|by|from|is|in|at)\b)[a-z]+(?=[.,\s*]|$))"
)
"""What may stand behind mathematics as its unit: no word that begins another clause."""
_DENIED = re.compile(r"^[\s*:]*(?:not|neither)\s[^.\n]{1,80}?\bbut\s+(?:rather\s+)?", re.IGNORECASE)
"""`not 13 but` before 12."""
_BLANKS = re.compile(r"\s{3,}")
_RULES = re.compile(r"([#*=_.~$-])\1{4,}")
_SUM = re.compile(r"[a-zA-Z](?: *[-+] *[a-zA-Z])+")
_MEASURE = re.compile(r"\\?\$?[0-9][0-9,.]{0,20}[\s~\\,]*(?:\\(?:text|mathrm)\{[^{}]{1,30}\}|[a-zA-Z][a-zA-Z ]{0,30})(?:\^\{?[23]\}?)?")
_NUMBER = re.compile(r"(?<![\w.\\^_{])[-−]?\\?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?\\?%?")


def visible(text: str) -> str:
    """The reply without the thinking before it, and its end where it is long. Long runs of blanks and rules are shortened: they say
    nothing and cost patterns that begin with a blank quadratic time."""
    text = _RULES.sub(r"\1\1\1\1", text[-MAX_TEXT:])
    text = _BLANKS.sub(lambda run: "\n\n" if run.group().count("\n") > 1 else "\n" if "\n" in run.group() else " ", text)
    shown = text.rpartition("</think>")[2]
    return shown if shown.strip() else text


def _box(text: str, start: int) -> tuple[str, int]:
    """(content of the box whose braces begin at `start`, where it ends); an unclosed one reaches to the end of its line."""
    if text[start] != "{":
        token = re.match(r"\\[a-zA-Z]+(?:\{[^{}\n]*\})*|[^\s$\\]+", text[start : start + 200])
        content = token.group() if token else ""
        return content, start + len(content)
    end = matching(text[: start + 20_000], start)
    if end is None:
        line = text[start + 1 :].split("\n", 1)[0]
        return line.rstrip(" .$}"), start + 1 + len(line)
    return text[start + 1 : end], end + 1


def boxes(text: str) -> list[str]:
    """Contents of the boxes at the end of `text` that read as one answer (`\\boxed{1} and \\boxed{2}`), in order."""
    group: list[str] = []
    last_end = inside_until = -1
    for marker in re.finditer(r"\\(?:boxed|fbox)\s*(?=\S)", text):
        if marker.start() < inside_until:  # a box in a box
            continue
        content, end = _box(text, marker.end())
        if not content.strip():
            continue
        joined = last_end >= 0 and marker.start() - last_end < 60 and _JOINING.fullmatch(text[last_end : marker.start()])
        group = [*group, content] if joined else [content]
        last_end = inside_until = end
    return group


def affirmed(text: str) -> str:
    """What an answer phrase affirms: `12` of `not 13 but 12`."""
    return _DENIED.sub("", text)


def _phrase(text: str) -> str | None:
    """What an answer phrase is followed by: its mathematics, with the unit behind it, or its words up to the end of the sentence."""
    if re.match(r"[ \t\n:]*\*\*", text):  # bold that ends within the phrase: `**5** apples`, not the power 5**a
        text = re.sub(r"\*\*(?=[\s.,;:!?)]|$)", "", text[:MAX_PHRASE].lstrip(" \t\n:*"), count=1)
    text = affirmed(text[:MAX_PHRASE])
    text = text[:MAX_PHRASE].lstrip(" \t\n*_:=>`-" if not text.lstrip(" *_:").startswith("-") else " \t\n*_:=>`")
    found = _MATH.match(text)
    if found:
        end = found.end()
        while more := _MATH.search(text, end):
            if not _JOINING.fullmatch(text[end : more.start()]) or not text[end : more.start()].strip():
                break
            end = more.end()
        unit = _UNIT.match(text[end:])
        return text[:end] + (unit.group() if unit else "")
    ends = (end.start() for end in _SENTENCE_END.finditer(text) if text.count("{", 0, end.start()) <= text.count("}", 0, end.start()))
    sentence = text[: next(ends, len(text))]
    maths = _MATH.search(sentence)
    if maths and not re.search(r"[0-9]", sentence[: maths.start()]):
        return maths.group()
    reason = _REASON.search(sentence)
    sentence = (sentence[: reason.start()] if reason and reason.start() > 0 else sentence).strip(" \t\n*_`").rstrip(" .")
    return sentence or None


def _after(text: str, marker: re.Match[str]) -> str | None:
    """The answer that a marker announces."""
    if marker["box"]:
        group = boxes(text[marker.start() :])
        return group[-1].strip() or None if group else None
    rest = text[marker.end() :]
    if marker["hash"]:
        line = rest.lstrip().split("\n", 1)[0].strip()
        return line or None
    return _phrase(rest)


def _last_expression(text: str) -> list[str]:
    """Flexible: the last expression of the text (what an equation ends with, then the equation), or its last number where that comes
    later."""
    text = text[-20_000:]
    found = max(_MATH.finditer(text), key=re.Match.start, default=None)
    numbers = list(_NUMBER.finditer(text, found.end() if found else 0))
    if found is None and "\n" not in text.strip() and len(text) <= MAX_PHRASE and not re.search(r"(?:[a-zA-Z]{2,}\s+){3}", text):
        return [text.strip()] if text.strip() else []  # a bare answer
    if numbers:
        return [numbers[-1].group()]
    if found is None:
        return []
    content = next(group for group in found.groups() if group is not None)
    end = re.split(r"(?<![<>!\\])=|\\approx|\\implies|\\Rightarrow", content)[-1].strip(" ,;&").rstrip(" .")
    return [reading for reading in dict.fromkeys((end, content.strip())) if reading]


def _overrules(answer: str) -> bool:
    """Whether a phrase after a box gives another answer ("no, the answer is 4") and is no remark ("the answer is correct")."""
    return bool(re.match(r"[$\\0-9(\[+-]", answer)) and not re.search(r"=.*=|\w\s*=|:", answer)


def candidates(text: str, *, strict: bool = False) -> list[str]:
    """Readings of the final answer, the likeliest first: the last box alone, then the boxes of its sentence together. [] = none found."""
    found = _readings(visible(text), strict)
    # 2\sqrt{17} \approx 8.25: the exact value is the answer, but the gold may be the other.
    approximate = [reading.rpartition("\\approx")[2] for reading in found if reading.count("\\approx") == 1 and len(reading) < 200]
    return [*found, *approximate, *(other for reading in found if (other := _other_side(reading)))]


def _other_side(reading: str) -> str | None:
    """`600 minutes = 10 hours` read as 600 minutes, and `a+b = 7` as 7; None for any other equation."""
    left, _, right = (side.strip() for side in reading[:200].partition("="))
    if _MEASURE.fullmatch(left) and _MEASURE.fullmatch(right):
        return left
    return right if _SUM.fullmatch(left) and re.fullmatch(r"[-+]?[0-9.]+|\\d?frac\{\d+\}\{\d+\}", right) else None


def _readings(text: str, strict: bool) -> list[str]:
    """The readings as they stand."""
    markers = list(MARKER.finditer(text))
    inside = -1
    outer: list[re.Match[str]] = []
    for marker in markers:  # a phrase or a box inside a box announces nothing
        if marker.start() < inside:
            continue
        outer.append(marker)
        if marker["box"]:
            inside = _box(text, marker.end())[1]
    boxed = [marker for marker in outer if marker["box"]][-1:]
    for marker in reversed(outer[-1:] if strict and not boxed else sorted({*boxed, *outer[-8:]}, key=re.Match.start)):
        answer = _after(text, marker)
        if answer is None or (not marker["box"] and not _overrules(answer) and any(other["box"] for other in outer)):
            continue
        if marker["box"]:
            group = boxes(text)
            return [answer, ", ".join(group)] if len(group) > 1 and group[-1].strip() == answer else [answer]
        bare = re.fullmatch(r"\$\$?([^$]+)\$\$?|\\\(([^\\]+)\\\)", answer)
        return [(bare[1] or bare[2]).strip() if bare else answer]
    if strict:
        return []
    return _last_expression(text)


def gold_expression(gold: str) -> str | None:
    """The gold as an expression: bare LaTeX, in `$` or `\\boxed{}`, or a solution that ends in either. None where it has none."""
    if re.search(r"\\(?:boxed|fbox)\s*\S", gold):
        group = boxes(gold)
        gold = group[-1] if group else ""
    elif "####" in gold:
        gold = gold.rpartition("####")[2]
    spelled = normal(gold)
    if not spelled or not _balanced(spelled):
        return None
    try:
        parse(spelled)
    except ValueError:
        return None
    return gold.strip()


def _balanced(text: str) -> bool:
    """Whether every brace is closed."""
    plain = re.sub(r"\\[{}]", "", text)
    depth = 0
    for c in plain:
        depth += (c == "{") - (c == "}")
        if depth < 0:
            return False
    return depth == 0
