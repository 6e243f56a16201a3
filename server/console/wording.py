"""The API's errors as a reader of a form understands them: its labels for the fields' names, plain words for pydantic's."""

from __future__ import annotations

import re

LABELS = {
    "id": "Name",
    "planned_n": "Planned units",
    "enrolled": "Share taking part",
    "metric.name": "Metric",
    "arms": "Arms",
    "weight": "share",
    "text": "fixed text",
}
PLAIN = (
    (r", unable to parse string as an? \w+", ""),
    (r"input should be a valid number", "must be a number"),
    (r"input should be a valid integer", "must be a whole number"),
    (r"input should be", "must be"),
    (
        r"string should match pattern .*",
        "takes letters, digits, dots, hyphens and underscores, at most 100, a letter or digit first",
    ),
    (r"string should have at least 1 character", "must not be empty"),
    (r"tuple should have at least (\d+) items? after validation, not \d+", r"at least \1 are needed"),
    (r'write "raw": true for', "choose the raw messages for"),
    (r"weights sum to", "the arms' shares sum to"),
)


def sentence(message: str) -> str:
    """A message of the API, as a sentence."""
    field, colon, said = message.strip().partition(": ")
    if not colon or not re.fullmatch(r"[\w.-]+", field):
        field, said = "", message.strip()
    for pattern, plain in PLAIN:
        said = re.sub(pattern, plain, said)
    text = said if field in ("", "body") else f"{_label(field)}: {said}"
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _label(field: str) -> str:
    """`arms.1.weight` is the share of arm 2."""
    if found := re.fullmatch(r"(arm|guardrail)s\.(\d+)(?:\.(\w+))?", field):
        below = f", {LABELS.get(found[3], found[3])}" if found[3] else ""
        return f"{found[1].capitalize()} {int(found[2]) + 1}{below}"
    return LABELS.get(field, field)
