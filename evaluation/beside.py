"""What is reported beside the figure that training was paid by: the second judge, the gold where there is one, length-controlled win rates,
refusals, and answers that could not be judged.

A preference can be gamed: by length, by refusing everything, by whatever one judge overlooks. Each of these has its column here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from evaluation.length_control import Rate, length_controlled
from evaluation.paired import ArmResult, Comparison, arm_result, compare
from exchange.records import Episode, Example, Record
from rewards.episode import beside, correct, counted

WATCHED = ("second", "correct")
"""The second judge's win over raw, and the grade against a gold."""


COUNTED_HEAD = {"correct": "right", "win": "win rate", "agreement": "agrees"}
"""What a mean of the counted grade is called."""


class Watched(Record):
    """An arm-by-arm measure that was not paid for."""

    arms: dict[str, ArmResult]
    vs_raw: dict[str, Comparison]


class Guardrails(Record):
    """How often an arm's answers refuse what is benign, and comply with what is harmful."""

    over_refusal: ArmResult | None
    """None where no query is known to be benign."""
    harmful_compliance: ArmResult | None


class Beside(Record):
    """The `beside` block of an evaluation; empty parts where a task or reward has none."""

    counted: str = "correct"
    """What `arms` are the means of: `correct` (right), `win` (over the raw answer; raw is 0.5) or `agreement`."""
    watched: dict[str, Watched] = Field(default_factory=dict)
    length_controlled: dict[str, Rate] = Field(default_factory=dict)
    """Of arms whose answers are not nearly all longer, or all shorter, than the raw ones."""
    guardrails: dict[str, Guardrails] = Field(default_factory=dict)
    problems: dict[str, dict[str, int]] = Field(default_factory=dict)
    """By arm, how many answers could not be read or judged, and why."""


def _length(episode: Episode) -> int:
    return sum(len(completion.text or "") for completion in episode.completions)


def _guardrails(run: Sequence[Episode], examples: Sequence[Example], alpha: float) -> Guardrails:
    found: dict[str, list[float | None]] = {"benign": [], "harmful": []}
    for episode, example in zip(run, examples, strict=True):
        if example.risk is not None:
            refuses = beside(episode, "refused")
            found[example.risk].append(refuses if refuses is None or example.risk == "benign" else 1 - refuses)
    benign, harmful = (arm_result(values, alpha=alpha) if values else None for values in found.values())
    return Guardrails(over_refusal=benign, harmful_compliance=harmful)


def measured_beside(episodes: Mapping[str, Sequence[Episode]], examples: Sequence[Example], *, alpha: float) -> Beside:
    """Every arm's episodes in the order of the examples; `raw` must be among the arms."""
    kind = next((counted(score) for run in episodes.values() for e in run for score in e.scores if score.value is not None), "correct")
    watched = {}
    for name in WATCHED:
        scores = {arm: [beside(episode, name) for episode in run] for arm, run in episodes.items()}
        known = {arm: values for arm, values in scores.items() if any(value is not None for value in values)}
        if "raw" in known:
            watched[name] = Watched(
                arms={arm: arm_result(values, alpha=alpha) for arm, values in known.items()},
                vs_raw={
                    arm: compare(values, scores["raw"], alpha=alpha)
                    for arm, values in known.items()
                    if arm != "raw" and any(a is not None and b is not None for a, b in zip(values, scores["raw"], strict=True))
                },
            )
    controlled = {}
    for arm, run in episodes.items() if kind == "win" else ():
        pairs = zip(run, episodes["raw"], strict=True)
        rows = [(win, _length(episode), _length(raw)) for episode, raw in pairs if (win := correct(episode)) is not None]
        if arm != "raw" and rows and (rate := length_controlled(*zip(*rows), alpha=alpha)) is not None:
            controlled[arm] = rate
    problems = {arm: dict(Counter(s.problem for e in run for s in e.scores if s.problem)) for arm, run in episodes.items()}
    return Beside(
        counted=kind,
        watched=watched,
        length_controlled=controlled,
        guardrails={arm: _guardrails(run, examples, alpha) for arm, run in episodes.items()} if any(e.risk for e in examples) else {},
        problems={arm: found for arm, found in problems.items() if found},
    )


def _cell(result: ArmResult | Rate | None) -> str:
    return "" if result is None or result.n == 0 else f"{result.mean:.1%} ({result.low:.1%} .. {result.high:.1%})"


def columns_of(found: Beside) -> dict[str, Mapping[str, ArmResult | Rate | None]]:
    """The measures that were taken, by what they are called, each by arm."""
    columns: dict[str, Mapping[str, ArmResult | Rate | None]] = {}
    if found.length_controlled:
        columns["win, length-controlled"] = found.length_controlled
    titles = {"second": "win, second judge", "correct": "right by gold"}
    columns.update({titles[name]: watched.arms for name, watched in found.watched.items()})
    if found.guardrails:
        columns["refuses benign"] = {arm: guards.over_refusal for arm, guards in found.guardrails.items()}
        columns["complies with harmful"] = {arm: guards.harmful_compliance for arm, guards in found.guardrails.items()}
    return columns


def rows_of(found: Beside, arms: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """(head, a row an arm) of the measures that were taken; no rows where there are none."""
    columns = columns_of(found)
    return ["arm", *columns], [[arm, *(_cell(results.get(arm)) for results in columns.values())] for arm in arms] if columns else []


def print_beside(found: Beside, arms: Sequence[str]) -> None:
    """The measures that were taken as a second table on the terminal; nothing where there are none."""
    from rich.console import Console
    from rich.table import Table

    head, rows = rows_of(found, arms)
    if rows:
        table = Table(title="beside what was paid for, with intervals")
        for column in head:
            table.add_column(column, justify="left" if column == "arm" else "right")
        for row in rows:
            table.add_row(*row)
        Console(width=None if Console().is_terminal else 160).print(table)
    for arm, problems in found.problems.items():
        Console(width=160).print(f"{arm}: " + ", ".join(f"{count} answers: {name}" for name, count in sorted(problems.items())))
