"""The report of an evaluation: report.html (one file, nothing loaded), report.md and report.json beside it, answers in evaluation.jsonl.

No time and no counter stands in any of them, so the same answers give the same bytes. Questions, instructions and answers are text that
strangers and models wrote: Jinja escapes all of it, and the page's own policy forbids scripts and every load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import charts
from evaluation.beside import COUNTED_HEAD
from evaluation.beside import rows_of as beside_rows
from evaluation.paired import ArmResult, Comparison
from evaluation.table import EvalSummary, notes
from exchange.records import Episode, Example, Record
from rewards.episode import correct

TEMPLATE = Path(__file__).parent / "templates" / "report.html"
SHOWN = 20
"""Questions of either kind that a report shows."""


class Facts(Record):
    """What a report says of itself, beside the figures."""

    task: str
    student: str
    teacher: str | None = None
    teacher_sha256: str | None = None
    seed: int = 0
    commit: str | None = None
    validation: tuple[tuple[int, float], ...] = ()
    """(step, share right) of the run's validations."""
    training: tuple[tuple[int, float], ...] = ()
    """(step, share right) of the run's training steps."""
    second: tuple[tuple[int, float], ...] = ()
    """(step, mean win by the second judge) of the run's validations, where one watches."""


def headline(summary: EvalSummary, arm: str = "trained") -> str:
    """The finding in one sentence."""
    if arm not in summary.vs_raw:
        return f"No {arm} arm was measured; raw is right on {summary.arms['raw'].mean:.1%} of {summary.n} questions."
    pair, raw, treated = summary.vs_raw[arm], summary.arms["raw"], summary.arms[arm]
    words = {"gain": "The teacher helps", "harm": "The teacher harms", "no gain": "No gain is shown", "unfit": "Unfit for a claim"}
    relative = ""
    if pair.relative_gain is not None and pair.relative_low is not None and pair.relative_high is not None:
        relative = f"; relative {pair.relative_gain:+.0%} ({pair.relative_low:+.0%} to {pair.relative_high:+.0%})"
    return (
        f"{words.get(summary.verdict or '', 'Measured')}: {treated.mean:.1%} right against {raw.mean:.1%} raw, a difference of "
        f"{100 * pair.difference:+.1f} points ({1 - summary.alpha:.0%} interval {100 * pair.low:+.1f} to {100 * pair.high:+.1f}){relative}."
    )


def rows_of(episodes: Mapping[str, Sequence[Episode]], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """One row an answered question and arm, for evaluation.jsonl."""
    rows = []
    for name, run in episodes.items():
        for example, episode in zip(examples, run, strict=True):
            rows.append(
                {
                    "arm": name,
                    "id": example.id,
                    "query": example.query,
                    "gold": example.gold,
                    "instruction": episode.instruction.text,
                    "answers": [completion.text for completion in episode.completions],
                    "extracted": [score.extracted for score in episode.scores],
                    "score": correct(episode),
                    "prompt_tokens": sum(c.prompt_tokens for c in episode.completions),
                    "completion_tokens": sum(c.completion_tokens for c in episode.completions),
                    "error": episode.error,
                }
            )
    return rows


def extremes(episodes: Mapping[str, Sequence[Episode]], examples: Sequence[Example], arm: str, sign: int) -> list[dict[str, Any]]:
    """The questions that `arm` helped (sign 1) or harmed (sign -1) most against raw, in the order of the questions where they are alike."""
    found: list[tuple[float, int, Example, Episode, Episode]] = []
    for example, raw, treated in zip(examples, episodes["raw"], episodes[arm], strict=True):
        before, after = correct(raw), correct(treated)
        if before is not None and after is not None and sign * (after - before) > 0:
            found.append((-abs(after - before), len(found), example, raw, treated))
    return [
        {
            "id": example.id,
            "query": example.query,
            "gold": example.gold,
            "instruction": treated.instruction.text,
            "treated": answers(treated),
            "raw": answers(raw),
        }
        for _, _, example, raw, treated in sorted(found, key=lambda item: item[:2])[:SHOWN]
    ]


def answers(episode: Episode) -> str:
    """An episode's answers as one text."""
    return "\n---\n".join(completion.text or "(none)" for completion in episode.completions)


def span(low: float, high: float) -> str:
    return f"{100 * low:+.1f} .. {100 * high:+.1f}"


def tables(summary: EvalSummary) -> list[dict[str, Any]]:
    """Every table of the report: title, note, head, rows of text."""
    sure, counted = f"{1 - summary.alpha:.0%}", COUNTED_HEAD[summary.beside.counted]
    right = [
        [label(name, arm), f"{arm.mean:.1%}", f"{arm.low:.1%} .. {arm.high:.1%}", arm.n, arm.failed] for name, arm in summary.arms.items()
    ]
    use = []
    for name, arm in summary.arms.items():
        u = arm.use
        use.append(
            [name, f"{u.instruction_tokens:.1f}", f"{u.prompt_tokens:.1f}", f"{u.completion_tokens:.1f}",
             f"{u.usd_per_1000:.4g}" if u.usd_per_1000 is not None else "-", f"{arm.silence_rate:.1%}", f"{u.leak_rate:.1%}",
             f"{u.truncated_rate:.1%}", f"{u.refused_rate:.1%}", f"{u.cut_rate:.1%}"]
        )  # fmt: skip
    found = [
        {
            "title": f"Share {counted}" if counted == "right" else counted.capitalize(),
            "note": "",
            "head": ["arm", counted, f"{sure} interval (Wilson)", "n", "failed"],
            "rows": right,
        },
        versus("Against raw", "", summary.vs_raw, summary),
        versus("Trained against the others", "Positive: the trained arm is better.", summary.trained_vs, summary),
        {
            "title": "Cost and behaviour, by question",
            "note": "Tokens; a vote takes all of its answers. Leaks: the instruction hands the answer over. Cut: at the limit of tokens.",
            "head": ["arm", "instruction", "prompt", "answer", "$ / 1,000", "silent", "leaks", "truncated", "refused", "answers cut"],
            "rows": use,
        },
    ]
    head, measured = beside_rows(summary.beside, list(summary.arms))
    note = f"{sure} intervals. None of it was paid for, but for what is length-controlled."
    found.append({"title": "Beside what was paid for", "note": note, "head": head, "rows": measured})
    for kind, groups in summary.groups.items():
        names = list(summary.arms)
        rows = [[group, next(iter(arms.values())).n, *(cell(arms[name]) for name in names)] for group, arms in groups.items()]
        found.append(
            {"title": f"{counted.capitalize()} by {kind}", "note": f"{sure} intervals.", "head": [kind, "n", *names], "rows": rows}
        )
    return [table for table in found if table["rows"]]


def label(name: str, arm: ArmResult) -> str:
    return f"{name} (unfit)" if arm.unfit else name


def cell(arm: ArmResult) -> str:
    return f"{arm.mean:.0%} ({arm.low:.0%} .. {arm.high:.0%})" if arm.n else "-"


def versus(title: str, note: str, pairs: Mapping[str, Comparison], summary: EvalSummary) -> dict[str, Any]:
    """A table of paired comparisons."""
    rows, churned = [], summary.churn == "measured" and any(pair.churn for pair in pairs.values())
    for name, p in pairs.items():
        relative = "-"
        if p.relative_gain is not None and p.relative_low is not None and p.relative_high is not None:
            relative = f"{p.relative_gain:+.0%} ({p.relative_low:+.0%} .. {p.relative_high:+.0%})"
        net = [
            f"{100 * p.churn:.1f}",
            f"{100 * p.net_help_rate:.1f} ({span(p.net_help_low, p.net_help_high)})",
            f"{100 * p.net_harm_rate:.1f} ({span(p.net_harm_low, p.net_harm_high)})",
        ]
        rows.append(
            [name, f"{100 * p.difference:+.1f}", span(p.low, p.high), relative, f"{p.p_value:.2g}",
             f"{p.p_holm:.2g}" if p.p_holm is not None else "-", f"{p.p_equivalent:.2g}", f"{100 * p.detectable:.1f}",
             f"{100 * p.help_rate:.1f}", f"{100 * p.harm_rate:.1f}", *(net if churned else []), p.n]
        )  # fmt: skip
    head = ["arm", "points", f"{1 - summary.alpha:.0%} interval", "relative", "p", "p (Holm)", f"p (TOST ±{100 * summary.margin:g})",
            "detectable", "helps", "harms", *(["churn", "helps net", "harms net"] if churned else []), "n"]  # fmt: skip
    return {"title": title, "note": note, "head": head, "rows": rows}


def plots(summary: EvalSummary, facts: Facts) -> list[dict[str, str | list[str]]]:
    """The report's figures as SVG, each with caption, legend and note."""
    shown = {name: arm for name, arm in summary.arms.items() if name != "raw_again" and arm.n}
    cost = "dollars for 1,000 questions" if summary.cost == "usd" else "student tokens a question"
    points = [
        (name, (arm.use.usd_per_1000 or 0.0) if summary.cost == "usd" else arm.use.tokens, arm.mean, arm.low, arm.high)
        for name, arm in shown.items()
    ]
    made: list[dict[str, str | list[str]]] = [
        {"caption": "Cost and accuracy", "svg": charts.frontier(points, summary.frontier, cost), "legend": list(shown),
         "note": "The line joins the arms that no other beats in both; bars are intervals."}
    ]  # fmt: skip
    pairs = summary.vs_raw
    if pairs:
        rows = [(name, pair.difference, pair.low, pair.high) for name, pair in pairs.items()]
        made.append({"caption": "Difference to raw", "svg": charts.forest(rows, "Difference to raw, by arm", "points against raw")})
        bars = [(name, pair.net_help_rate, pair.net_harm_rate) for name, pair in pairs.items() if name != "raw_again"]
        net = " (net of the churn floor)" if summary.churn == "measured" else ""
        if bars:
            made.append({"caption": f"Helped and harmed{net}", "svg": charts.help_and_harm(bars)})
    if len(facts.training) + len(facts.validation) > 1:
        unit = COUNTED_HEAD[summary.beside.counted]
        made.append({"caption": "Learning curve", "svg": charts.learning(facts.training, facts.validation, facts.second, unit=unit)})
    return made


def html(
    title: str, facts: Facts, summary: EvalSummary, questions: Sequence[Mapping[str, Any]], more: Sequence[dict[str, Any]] = ()
) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    curves = ("validation", "training", "second")
    known = [(name.replace("_", " "), value) for name, value in facts.model_dump().items() if name not in curves]
    figures = [{"legend": [], "note": "", **plot, "svg": Markup(plot["svg"])} for plot in plots(summary, facts)]
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        title=title,
        headline=headline(summary),
        eval=summary,
        # The sum is whole in the JSON.
        facts=[(name, value[:12] if name == "teacher sha256" else value) for name, value in known if value is not None],
        notes=notes(summary),
        plots=figures,
        tables=[*tables(summary), *more],
        questions=questions,
    )


def markdown(title: str, facts: Facts, summary: EvalSummary, more: Sequence[dict[str, Any]] = ()) -> str:
    """The tables as Markdown, for an issue or a wiki."""
    lines = [f"# {plain(title)}", "", headline(summary), ""]
    lines.append(
        f"Task {facts.task}, student {facts.student}, teacher {facts.teacher or 'none'}, seed {facts.seed}, commit {facts.commit}."
    )
    lines += ["", *(f"- {plain(note)}" for note in notes(summary))]
    for table in [*tables(summary), *more]:
        lines += ["", f"## {table['title']}", "", "| " + " | ".join(plain(cell) for cell in table["head"]) + " |"]
        lines.append("|" + "---|" * len(table["head"]))
        lines += ["| " + " | ".join(plain(cell) for cell in row) + " |" for row in table["rows"]]
    return "\n".join(lines) + "\n"


def plain(value: object) -> str:
    """A cell that cannot break its table or open a tag."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def write_report(
    folder: Path,
    title: str,
    facts: Facts,
    summary: EvalSummary,
    examples: Sequence[Example],
    episodes: Mapping[str, Sequence[Episode]],
    more: Sequence[dict[str, Any]] = (),
) -> None:
    """Write the four files, each whole or not at all. `more` are further tables as `tables` makes them. Raises OSError."""
    arm = "trained" if "trained" in episodes else None
    questions = []
    if arm is not None:
        questions = [
            {"title": f"The {SHOWN} questions helped most", "rows": extremes(episodes, examples, arm, 1)},
            {"title": f"The {SHOWN} questions harmed most", "rows": extremes(episodes, examples, arm, -1)},
        ]
    data = {
        "title": title,
        "headline": headline(summary),
        **facts.model_dump(mode="json"),
        "notes": notes(summary),
        "eval": summary.model_dump(mode="json"),
        "questions": questions,
        **({"tables": list(more)} if more else {}),
    }
    texts = {
        "evaluation.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(episodes, examples)),
        "report.json": json.dumps(data, indent=1, ensure_ascii=False) + "\n",
        "report.md": markdown(title, facts, summary, more),
        "report.html": html(title, facts, summary, questions, more),
    }
    for name, content in texts.items():
        temporary = folder / (name + ".tmp")
        # A model's answer can hold half a surrogate pair, which UTF-8 cannot.
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
        temporary.replace(folder / name)
