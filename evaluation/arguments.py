"""Arguments of the A/B commands: numbers with a range and `name=number` lists, each error one line and exit 2."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from exchange.settings import SettingError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line like every other bad setting's; its own print the usage first."""

    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message}; --help lists the arguments")


def number(
    name: str, text: str, *, above: float = -math.inf, below: float = math.inf, least: float = -math.inf, most: float = math.inf
) -> float:
    """A finite number inside (above, below) and [least, most]. Raises SettingError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and above < value < below and least <= value <= most:
        return value
    bounds = [(above, "above"), (below, "below"), (least, "at least"), (most, "at most")]
    wanted = " and ".join(f"{word} {bound:g}" for bound, word in bounds if math.isfinite(bound))
    raise SettingError(f"{name}={text}: must be a finite number" + (f" {wanted}" if wanted else ""))


def whole(name: str, text: str, *, least: int) -> int:
    """A whole number of at least `least`, 1e6 and 10_000 included. Raises SettingError."""
    value = number(name, text, least=least, most=1e15)
    if value != int(value):
        raise SettingError(f"{name}={text}: must be a whole number")
    return int(value)


def named_numbers(name: str, text: str) -> dict[str, float]:
    """`raw=0.5,teacher=0.5` as a mapping. Raises SettingError."""
    found: dict[str, float] = {}
    for part in text.split(","):
        key, equals, value = part.rpartition("=")
        if not equals or not key.strip():
            raise SettingError(f"{name}={text}: write arm=weight,arm=weight; {part!r} is not that")
        if key.strip() in found:
            raise SettingError(f"{name}={text}: names {key.strip()!r} twice")
        found[key.strip()] = number(f"{name} {key.strip()}", value)
    return found
