"""What `weak_to_strong.misfit` says and writes: the figures, each premise of the theorem, the ranking of several teachers, the plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from exchange.settings import SettingError
from teacher.run_directory import git_commit, write_json
from weak_to_strong.gain import Interval, Verdict
from weak_to_strong.misfit_plot import Point, gain_against_misfit

if TYPE_CHECKING:
    from weak_to_strong.misfit import Measured, MisfitConfig

CAUTION = (
    "Weak error takes labels. With labels on these very inputs, measure the student; the rule is for a weak error known from a hold-out",
    "of the teacher's own. It ranked a little better than weak error alone on random worlds and worse on real pairs: look at both columns.",
)
HOLDS = {True: "holds", False: "fails", None: "not checked"}
UNITS = {"squared": "squared error", "forward_kl": "nats", "reverse_kl": "nats"}


def prepare(folder: Path) -> Path:
    """The folder, made and writable. Raises SettingError, before anything was computed, where it is not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingError(f"out={str(folder)!r}: cannot be written ({error.strerror}); name another folder") from None
    return folder


def publish(folder: Path, config: MisfitConfig, measured: list[Measured], result: dict[str, Any], text: str) -> None:
    """summary.json, report.md, config.yaml and, where there is a gain, misfit.svg. Raises SettingError where the disk refuses."""
    try:
        resolved = {**config.model_dump(mode="json"), "git_commit": git_commit()}
        (folder / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
        (folder / "report.md").write_text(text + "\n", encoding="utf-8")
        points = [
            Point(one.found.misfit.value, one.found.gain.value, one.rows.name, low=one.found.gain.low, high=one.found.gain.high)
            for one in measured
            if one.found.gain is not None
        ]
        if points:
            svg = gain_against_misfit(points, "Gain against misfit", UNITS[config.loss])
            (folder / "misfit.svg").write_text(svg, encoding="utf-8")
        write_json(folder / "summary.json", result)
    except OSError as error:
        raise SettingError(f"out={str(folder)!r}: cannot be written ({error.strerror}); name another folder") from None


def markdown(config: MisfitConfig, measured: list[Measured], result: dict[str, Any]) -> str:
    """The report as a person reads it."""
    head = "the student's outputs as given" if measured[0].rows.features is None else f"a {config.head.kind} head on frozen features"
    where = f"{config.held_out:.0%} of the rows held out" if config.held_out else "measured on the fitting rows"
    lines = [f"{config.loss} loss, {head}, {where}", ""]
    for one in measured:
        lines += [f"## {one.rows.name} ({one.found.n} rows)", ""]
        lines += [f"| | {UNITS[config.loss]} | 95 % |", "|---|---|---|"]
        for name in ("weak_error", "student_error", "gain", "misfit", "slack"):
            interval: Interval | None = getattr(one.found, name)
            if interval is not None:
                lines.append(f"| {name.replace('_', ' ')} | {interval.value:.6g} | {interval.low:.6g} .. {interval.high:.6g} |")
        lines += ["", *verdict_lines(one.verdict, one.found.gain is not None), ""]
    if result.get("ranking"):
        lines += ["## Teachers, the best predicted student first", ""]
        lines += ["| teacher | weak error | misfit | weak error - misfit | student error |", "|---|---|---|---|---|"]
        for row in result["ranking"]:
            student = "" if row["student_error"] is None else f"{row['student_error']:.6g}"
            lines.append(f"| {row['name']} | {row['weak_error']:.6g} | {row['misfit']:.6g} | {row['predicted']:.6g} | {student} |")
        lines += ["", *CAUTION]
    elif len(measured) > 1:
        lines += ["No ranking: at least one teacher has neither truth nor weak_error, and misfit alone ranks nothing."]
    return "\n".join(lines).rstrip()


def verdict_lines(verdict: Verdict, has_truth: bool) -> list[str]:
    """Premise by premise, then what follows from them."""
    lines = [f"- {one.name}: {HOLDS[one.holds]} ({one.detail})" for one in verdict.conditions]
    if not has_truth:
        return [*lines, "- no truth: this is misfit and not a gain"]
    if verdict.theorem is None:
        lines.append("- theorem: none under these premises; misfit is no bound on the gain")
    else:
        allowed = f", allowance {verdict.allowance:.4g}" if verdict.allowance else ""
        lines.append(f"- theorem: {verdict.theorem}{allowed}")
    lines.append("- INEQUALITY VIOLATED: gain < misfit" if verdict.violated else "- inequality gain >= misfit: holds")
    if verdict.broken:
        lines.append(
            "- THE THEOREM ITSELF IS BROKEN: a premise is not what it is said to be (weak labels of other rows? a fit that stopped early?)"
        )
    return lines
