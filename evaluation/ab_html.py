"""An online experiment's report as one self-contained page: no script, no address, no clock, so the same log gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation import charts
from evaluation.ab_text import level, signed, spanned
from evaluation.online import OnlineReport

if TYPE_CHECKING:
    from jinja2 import Template

WIDTH = 400
"""Of a plot, in its own units: 0 lies in the middle."""


@dataclass(frozen=True)
class Bar:
    """An interval in a plot, in its units."""

    low: float
    high: float
    middle: float


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def bars(report: OnlineReport, metric: str) -> dict[str, Bar]:
    """Arm -> its interval, all arms of a metric on one scale that shows 0; arms without an interval are left out."""
    known = {arm: one for arm, one in report.metrics[metric].vs_control.items() if one.low is not None and one.high is not None}
    widest = max((abs(end) for one in known.values() for end in (one.low or 0.0, one.high or 0.0)), default=0.0)
    scale = (WIDTH / 2 - 10) / widest if widest else 0.0

    def place(value: float | None) -> float:
        return round(WIDTH / 2 + scale * (value or 0.0), 2)

    return {arm: Bar(place(one.low), place(one.high), place(one.difference)) for arm, one in known.items()}


def journeys(report: OnlineReport) -> dict[str, str]:
    """Arm -> the plot of its confidence sequence on the deciding metric; arms with fewer than two intervals have none."""
    metric = report.metrics[report.metric]
    plots = {}
    for arm, path in report.paths.items():
        looks = [
            (look.units, look.difference, look.low, look.high)
            for look in path
            if look.difference is not None and look.low is not None and look.high is not None
        ]
        if len({units for units, *_ in looks}) < 2:
            continue
        dates = [datetime.fromtimestamp(path[i].time, UTC).strftime("%Y-%m-%d %H:%M") for i in (-len(looks), -1)]
        title = f"{arm} minus {report.control} on {report.metric}, and its interval, as the test went on"
        unit = f"{arm} − {report.control}" + (", points" if metric.binary else "")
        plots[arm] = charts.sequence(looks, title, unit, scale=100.0 if metric.binary else 1.0, ends=(dates[0], f"{dates[1]} UTC"))
    return plots


def page(report: OnlineReport) -> str:
    """The page's HTML."""
    return _rendered("ab_report.html", report)


def body(report: OnlineReport) -> str:
    """The same without what makes it a page of its own: from the verdict on, for a page that has styles of these names."""
    return _rendered("ab_body.html", report)


def _rendered(template: str, report: OnlineReport) -> str:
    plots = {metric: bars(report, metric) for metric in report.metrics}
    ordered = sorted(report.metrics, key=lambda name: (name != report.metric, name))
    helpers = {"level": level, "signed": signed, "spanned": spanned, "width": WIDTH}
    return _template(template).render(report=report, plots=plots, journeys=journeys(report), ordered=ordered, **helpers)
