"""The log of an A/B test: what it may hold, and the arrays that the analysis works on.

One line, as the server writes it and `python -m evaluation.analyze` reads it:

    {"unit": "user-17", "arm": "teacher", "metric": "resolved", "value": 1, "covariate": 0.4, "time": 1763683200.5}

`value` null = exposed, no outcome. `covariate` (optional) is something about the unit that was known before its exposure, such as its
earlier mean. `time` is seconds since 1970 or ISO 8601 (UTC where no zone stands). `"forced": true` marks a unit that was put into its arm
by hand. Other fields are ignored. A million lines of half a million units take 370 MB and some six seconds.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exchange.settings import SettingError

LARGEST_VALUE = 1e15
"""Larger values are taken for a mistake (1e308, say): squares and sums must stay exact enough in 64 bits."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MetricTable:
    """One metric by unit; all arrays have one entry a unit with an outcome, in order of its first outcome."""

    unit: Ints
    """Index into the log's units."""
    total: Floats
    """Sum of the unit's values."""
    count: Floats
    """Number of its values."""
    covariate: Floats
    """The earliest covariate that the unit's lines of this metric hold; NaN where none does."""
    hits: Ints
    """Values that equal 1."""
    binary: bool
    """Whether every value of the metric is 0 or 1."""


@dataclass(frozen=True)
class AbLog:
    """A log, ready for analysis."""

    arms: tuple[str, ...]
    """Names in alphabetical order; arrays below hold indices into them."""
    arm_of: Ints
    """(units,) the arm in which each unit was first seen. Units stand in order of first line, by time."""
    metrics: dict[str, MetricTable]
    """By name, in alphabetical order."""
    moved_units: int
    """Units seen in more than one arm; they count in their first, with all that happened to them later (intention to treat)."""
    forced_lines: int
    """Lines left out because the unit was put into its arm by hand."""
    until: float
    """Time of the last line, seconds since 1970."""


class LogBuilder:
    """Takes rows one by one and keeps them as columns."""

    def __init__(self, arms: Iterable[str] = ()) -> None:
        self.units: dict[str, int] = {}
        self.arms = {arm: index for index, arm in enumerate(dict.fromkeys(arms))}
        self.metrics: dict[str, int] = {}
        self.columns = {"unit": array("q"), "arm": array("q"), "metric": array("q")}
        self.numbers = {"value": array("d"), "covariate": array("d"), "time": array("d")}
        self.forced_lines = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row. Raises ValueError with what is wrong with it."""
        unit, arm, metric = _unit(row), _name(row, "arm"), _name(row, "metric")
        value = _number(row, "value", or_null=True)
        covariate = _number(row, "covariate", or_null=True) if "covariate" in row else math.nan
        time = _time(row)
        forced = row.get("forced", False)
        if not isinstance(forced, bool):
            raise ValueError(f"forced is {forced!r}; it must be true or false")
        if forced:
            self.forced_lines += 1
            return
        self.columns["unit"].append(self.units.setdefault(unit, len(self.units)))
        self.columns["arm"].append(self.arms.setdefault(arm, len(self.arms)))
        self.columns["metric"].append(self.metrics.setdefault(metric, len(self.metrics)))
        self.numbers["value"].append(value)
        self.numbers["covariate"].append(covariate)
        self.numbers["time"].append(time)

    def __len__(self) -> int:
        """Lines that count."""
        return len(self.numbers["time"])

    def build(self, lines: int | None = None) -> AbLog:
        """The log in order of time (lines of one time keep their order), or as it stood after so many lines. Raises ValueError where
        nothing was added."""
        if not self.units:
            by_hand = f" but {self.forced_lines} of units that were put into their arm by hand" if self.forced_lines else ""
            raise ValueError(f"the log holds no exposures{by_hand}; there is nothing to analyse")
        times = np.frombuffer(self.numbers["time"])
        order = np.argsort(times, kind="stable")[:lines]
        unit, arm, metric = (np.frombuffer(column, dtype=np.int64)[order] for column in self.columns.values())
        value, covariate = (np.frombuffer(self.numbers[name])[order] for name in ("value", "covariate"))
        unit = _by_appearance(unit)
        _, first = np.unique(unit, return_index=True)
        names = tuple(sorted(self.arms))
        rank = np.array([names.index(name) for name in self.arms], dtype=np.int64)
        arm = rank[arm]
        arm_of = arm[first]
        moved = len(np.unique(unit[arm != arm_of[unit]]))
        tables = {}
        for name in sorted(self.metrics):
            mine = metric == self.metrics[name]
            tables[name] = _table(unit[mine], value[mine], covariate[mine])
        return AbLog(names, arm_of, tables, moved, self.forced_lines, float(times[order[-1]]))


def _by_appearance(labels: Ints) -> Ints:
    """Labels renumbered 0, 1, 2, … in order of first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _table(unit: Ints, value: Floats, covariate: Floats) -> MetricTable:
    """Sum one metric's rows, which stand in order of time, by unit."""
    with_covariate = ~np.isnan(covariate)
    holders, earliest = np.unique(unit[with_covariate], return_index=True)
    known = dict(zip(holders.tolist(), covariate[with_covariate][earliest].tolist(), strict=True))
    scored = ~np.isnan(value)
    value, unit = value[scored], unit[scored]
    local = _by_appearance(unit) if len(unit) else unit
    _, first = np.unique(local, return_index=True)
    owners, size = unit[first], len(first)
    return MetricTable(
        unit=owners,
        total=np.bincount(local, weights=value, minlength=size).astype(float),
        count=np.bincount(local, minlength=size).astype(float),
        covariate=np.array([known.get(owner, math.nan) for owner in owners.tolist()]),
        hits=np.bincount(local, weights=value == 1.0, minlength=size).astype(np.int64),
        binary=bool(np.all((value == 0.0) | (value == 1.0))),
    )


def _name(row: Mapping[str, Any], field: str) -> str:
    name = row.get(field)
    if not isinstance(name, str) or not name:
        raise ValueError(f"{field} is {_shown(name)}; it must be a text" if field in row else f"{field} is missing")
    if not name.isprintable():  # control characters and lone surrogates cannot stand in a report
        raise ValueError(f"{field} is {_shown(name)}; it holds characters that cannot be printed")
    return name


def _unit(row: Mapping[str, Any]) -> str:
    unit = row.get("unit")
    if isinstance(unit, int) and not isinstance(unit, bool):
        return str(unit)
    if not isinstance(unit, str) or not unit:
        raise ValueError(f"unit is {_shown(unit)}; it must be a text or a whole number" if "unit" in row else "unit is missing")
    return unit


def _number(row: Mapping[str, Any], field: str, *, or_null: bool = False) -> float:
    """A finite number of the row; true and false count as 1 and 0; NaN stands for null."""
    if field not in row:
        raise ValueError(f"{field} is missing" + ("; write null for an exposure without an outcome" if field == "value" else ""))
    number = row[field]
    if number is None and or_null:
        return math.nan
    if not isinstance(number, int | float):
        raise ValueError(f"{field} is {_shown(number)}; it must be a number" + (" or null" if or_null else ""))
    if not abs(number) <= LARGEST_VALUE:  # NaN too
        raise ValueError(f"{field} is {_shown(number)}; it must be a finite number of at most {LARGEST_VALUE:g} in size")
    return float(number)


def _time(row: Mapping[str, Any]) -> float:
    stamp = row.get("time")
    if not isinstance(stamp, str):
        return _number(row, "time")
    try:
        moment = datetime.fromisoformat(stamp)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"time is {_shown(stamp)}; it must be seconds since 1970 or ISO 8601") from None


def _shown(value: Any) -> str:
    """A bad value in an error: short, on one line, in ASCII."""
    try:
        text = ascii(value)
    except ValueError:  # a whole number of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _parse(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except ValueError:
        raise ValueError("a number of thousands of digits") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {_shown(row)}")
    return row


def read_rows(rows: Iterable[Mapping[str, Any]], *, arms: Iterable[str] = ()) -> AbLog:
    """A log from rows in memory; `arms` that no row names are there without units. Raises ValueError that names the row, from 1."""
    builder = LogBuilder(arms)
    for number, row in enumerate(rows, start=1):
        try:
            builder.add(row)
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None
    return builder.build()


def read_log(path: Path) -> AbLog:
    """A log from a JSONL file. Raises SettingError with file and line for the first thing that is wrong."""
    builder = LogBuilder()
    try:
        with path.open("rb") as stream:  # bytes split at newlines only; text would also break at U+2028 inside a name
            for number, raw in enumerate(stream, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    if line:
                        builder.add(_parse(line))
                except UnicodeDecodeError as error:
                    raise SettingError(f"{path}:{number}: not UTF-8 text ({error.reason} at byte {error.start + 1} of the line)") from None
                except ValueError as error:
                    raise SettingError(f"{path}:{number}: {error}") from None
    except OSError as error:
        raise SettingError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return builder.build()
    except ValueError as error:
        raise SettingError(f"{path}: {error}") from None
