"""An A/B report in words: a table for whoever reads numbers, a sentence a comparison for whoever decides."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.ab import AbReport, ArmComparison, MetricReport
from evaluation.sample_ratio import SRM_ALPHA
from evaluation.sequences import BURN_IN_EACH_WAY, BURN_IN_UNITS


def print_report(report: AbReport) -> None:
    """The table and the sentences, to the terminal or 120 columns wide."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    interval = f"{1 - report.alpha:.6g} interval"
    table = Table(title=f"A/B against {report.control}" if report.control.isascii() else "A/B")
    for column in ("metric", "arm", "units", "outcomes", "mean", "difference", interval, "p", "p (Holm)", "verdict"):
        table.add_column(column, justify="left" if column in ("metric", "arm", "verdict") else "right")
    for name, metric in report.metrics.items():
        for arm, summary in metric.arms.items():
            row = [name, arm, f"{summary.units:,}", f"{summary.n:,}", "" if summary.mean is None else level(summary.mean, metric)]
            found = metric.vs_control.get(arm)
            if found is not None:
                row += [
                    signed(found.difference, metric),
                    spanned(found, metric),
                    f"{found.p_value:.2g}",
                    f"{found.p_holm:.2g}",
                    found.verdict,
                ]
            table.add_row(*(Text(cell) for cell in row))  # Text: a name in brackets is not taken for a style
    console = Console(width=None if Console().is_terminal else 120, highlight=False, markup=False)
    console.print(table)
    for line in sentences(report):
        console.print(line, soft_wrap=True)


def sentences(report: AbReport) -> list[str]:
    """First what is wrong with the test itself, then one sentence a comparison."""
    lines = []
    if not report.srm.ok:
        total = sum(report.srm.units.values())
        shares = ", ".join(f"{arm} {count / total:.1%} of {report.srm.planned[arm]:.1%} planned" for arm, count in report.srm.units.items())
        lines.append(f"Do not use this test: its arms do not hold their planned shares of units ({shares}; p = {report.srm.p_value:.2g}).")
    elif report.srm.lowest_p_value <= SRM_ALPHA:
        lines.append(f"The split was off for a while (p = {report.srm.lowest_p_value:.2g}) and is right now: find out what happened then.")
    if report.moved_units:
        lines.append(f"{report.moved_units:,} unit(s) were seen in more than one arm; each counts in its first.")
    if report.forced_lines:
        lines.append(f"{report.forced_lines:,} line(s) of units that were put into their arm by hand are left out.")
    comparisons = sum(len(metric.vs_control) for metric in report.metrics.values())
    for name, metric in report.metrics.items():
        for arm, found in metric.vs_control.items():
            lines.append(f"{name}: {sentence(report, metric, arm, found, comparisons)}")
    return lines


def headline(report: AbReport, metric: str, stopped: Mapping[str, str] | None = None) -> str:
    """The verdict on the metric that decides. `stopped`: arms that a guardrail stopped, each with the sentence about it."""
    if not report.srm.ok:
        return sentences(report)[0]
    stopped, found = stopped or {}, report.metrics[metric]
    compared = {arm: one for arm, one in found.vs_control.items() if arm not in stopped}
    comparisons = sum(len(other.vs_control) for other in report.metrics.values())
    better = [arm for arm in compared if compared[arm].verdict == "better"]
    said = list(stopped.values())
    if better or len(compared) == 1:
        best = max(better or compared, key=lambda arm: abs(compared[arm].difference or 0.0))
        said.append(f"On {metric}, {sentence(report, found, best, compared[best], comparisons)}")
    elif compared:
        each = ", ".join(f"{arm} {signed(one.difference, found) or 'without outcomes'} ({one.verdict})" for arm, one in compared.items())
        said.append(f"On {metric}, no arm is shown to be better than {report.control}: {each}.")
    return " ".join(said)


def sentence(report: AbReport, metric: MetricReport, arm: str, found: ArmComparison, comparisons: int) -> str:
    """One comparison as a product owner would say it."""
    control, sure = report.control, f"{1 - report.alpha:.6g}"
    if found.verdict == "invalid":
        return f"no claim about {arm}: {'; '.join(found.notes)}."
    difference = signed(found.difference, metric)
    adjusted = " (adjusted for what was known of the units before)" if found.covariate_correlation is not None else ""
    tail = "".join(f" Note: {note}." for note in found.notes)
    if found.low is None or found.high is None:
        return f"too early to say anything about {arm}: {'; '.join(found.notes)}."
    if found.verdict in ("better", "worse"):
        means = [metric.arms[name].mean for name in (arm, control)]
        against = " against ".join(level(mean, metric) for mean in means if mean is not None)
        how = "" if not metric.lower_is_better else " (less is better)"
        return (
            f"{arm} is {found.verdict} than {control}{how}: {against}, a difference of {difference}{adjusted}, with probability {sure} "
            f"between {signed(found.low, metric)} and {signed(found.high, metric)}; looking often does not weaken this.{tail}"
        )
    start = f"no difference between {arm} and {control} is shown yet: {difference} so far"
    if found.method == "exact e-value":
        return (
            f"{start}, on few outcomes (an exact test until each arm has {BURN_IN_UNITS} units with {BURN_IN_EACH_WAY} outcomes of either "
            f"kind); anything from {signed(found.low, metric)} to {signed(found.high, metric)} is possible.{tail}"
        )
    if found.p_value <= report.alpha:
        return f"{start}; alone it would count, but with {comparisons} comparisons at once one like it is to be expected by chance.{tail}"
    return (
        f"{start}, and anything from {signed(found.low, metric)} to {signed(found.high, metric)} is still possible. "
        f"Let it run on, or accept that the truth lies in that range.{tail}"
    )


def level(value: float, metric: MetricReport) -> str:
    """A mean: per cent for 0/1 metrics, else the number."""
    return f"{value:.1%}" if metric.binary else f"{value:.4g}"


def signed(value: float | None, metric: MetricReport) -> str:
    """A difference: points for 0/1 metrics, else the number; empty where there is none."""
    if value is None:
        return ""
    return f"{100 * value:+.2f} points" if metric.binary else f"{value:+.4g}"


def spanned(found: ArmComparison, metric: MetricReport) -> str:
    """An interval, without the word for points."""
    if found.low is None or found.high is None:
        return "none yet"
    ends = (found.low, found.high)
    return " .. ".join(f"{100 * end:+.2f}" if metric.binary else f"{end:+.3g}" for end in ends)
