"""The instruction in a file: plain text, a program that DSPy saved, or a result of GEPA.

{"predict": {"signature": {"instructions": "Solve ...", "fields": [...]}, "demos": [...]}, "metadata": {...}}      dspy: program.save(...)
{"candidates": [{"system_prompt": "..."}, ...], "val_aggregate_scores": [0.4, ...], "best_idx": 3, ...}            gepa: result.to_dict()
{"system_prompt": "Solve ..."}                                                                                     gepa: best_candidate
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exchange.settings import SettingError


def read_prompt(path: Path, setting: str) -> str:
    """The instruction. Raises SettingError, naming `setting`, where the file cannot be read or holds no or several instructions."""
    if not path.is_file():
        raise SettingError(f"{setting}={str(path)!r}: no such file")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise SettingError(f"{setting}={str(path)!r}: not UTF-8 text ({error.reason})") from None
    if path.suffix == ".json":
        try:
            data = json.loads(text)
        except ValueError as error:
            raise SettingError(f"{setting}={str(path)!r}: not JSON ({error})") from None
        found = list(dict.fromkeys(_instructions(data)))
        if len(found) != 1:
            wanted = "a program saved by DSPy with one predictor, or a result or best candidate of GEPA with one component"
            raise SettingError(f"{setting}={str(path)!r}: holds {len(found)} instructions; expected {wanted}")
        text = found[0].strip()
    if not text:
        raise SettingError(f"{setting}={str(path)!r}: the file is empty")
    return text


def _instructions(data: Any) -> Iterator[str]:
    """The texts of a saved program or candidate."""
    if not isinstance(data, dict):
        return
    candidates = data.get("candidates")
    if isinstance(candidates, list) and candidates:
        scores = data.get("val_aggregate_scores")
        best = data.get("best_idx")
        if not isinstance(best, int) and isinstance(scores, list) and len(scores) == len(candidates):
            best = max(range(len(scores)), key=scores.__getitem__)
        if isinstance(best, int) and 0 <= best < len(candidates):
            yield from _instructions(candidates[best])
        return
    if data and all(isinstance(value, str) for value in data.values()):
        yield from data.values()
        return
    yield from _signatures(data)


def _signatures(data: dict[str, Any]) -> Iterator[str]:
    """The instructions of every predictor of a DSPy program."""
    signature = data.get("signature")
    if isinstance(signature, dict) and isinstance(signature.get("instructions"), str):
        yield signature["instructions"]
        return
    for value in data.values():
        if isinstance(value, dict):
            yield from _signatures(value)
