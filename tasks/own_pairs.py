"""A user's own preference pairs: JSON lines with a preferred and a refused answer.

One row in each of the three forms:

    {"prompt": "How do I boil an egg?", "chosen": "Seven minutes in boiling water.", "rejected": "No idea."}
    {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": "\\n\\nHuman: ...\\n\\nAssistant: ..."}
    {"chosen": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "rejected": [...]}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from exchange.records import Message
from exchange.settings import SettingError
from tasks.hh_rlhf import Pair, pair_of, turns
from tasks.source import read_lines, text_of


def _dialogue(row: dict[str, Any], field: str, where: str) -> list[Message]:
    value = row.get(field)
    if not isinstance(value, list):
        return turns(text_of(row, field, where), where)
    try:
        messages = [Message.model_validate(turn) for turn in value]
    except ValidationError:
        raise SettingError(f"{where}: field {field!r} is no list of {{role, content}}") from None
    if not messages or messages[0].role == "assistant":
        raise SettingError(f"{where}: the dialogue does not open with a human turn")
    return messages


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file in its order, rows without a common question left out. Raises SettingError naming file and line."""
    if not path.is_file():
        raise SettingError(f"{path}: no such file; give JSON lines with chosen and rejected")
    pairs: list[Pair] = []
    for number, row in read_lines(path):
        where, name = f"{path}:{number}", f"{path.stem}-{number}"
        if "prompt" in row:
            asked = (Message(role="user", content=text_of(row, "prompt", where)),)
            pair: Pair | None = Pair(name, asked, text_of(row, "chosen", where), text_of(row, "rejected", where), path.stem)
        else:
            pair = pair_of(_dialogue(row, "chosen", where), _dialogue(row, "rejected", where), name, path.stem)
        if pair is not None:
            pairs.append(pair)
    if not pairs:
        raise SettingError(f"{path}: holds no pair")
    return pairs
