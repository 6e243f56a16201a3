"""Gain against misfit as one SVG file: a point a task or teacher, the line gain = misfit, and a line at no gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from evaluation.charts import WIDTH, Axis, line, text

HEIGHT = 330
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#333}.grid{stroke:#e4e4e4}.zero{stroke:#888}.identity{stroke:#888;stroke-dasharray:4 3}"
    ".s0{fill:#2266aa}.s1{fill:#cc6622}.s2{fill:#338855}.s3{fill:#aa3377}circle{opacity:.7}.whisker{stroke:#999}.name{font-weight:600}"
)


@dataclass(frozen=True)
class Point:
    """One measurement; `series` colours it and names it in the legend."""

    misfit: float
    gain: float
    series: str
    name: str = ""
    low: float | None = None
    high: float | None = None
    """Interval of the gain, drawn as a whisker where it is known."""


def gain_against_misfit(points: Sequence[Point], title: str, unit: str) -> str:
    """The SVG text. Both axes share one scale, so that the line gain = misfit is the diagonal."""
    ends = [value for p in points for value in (p.gain, p.low, p.high) if value is not None]
    most = max([p.misfit for p in points] + ends + [1e-12]) * 1.05
    least = min(0.0, *ends) * 1.05 if ends else 0.0
    across, up = Axis(0.0, most, 52, WIDTH - 14), Axis(least, most, HEIGHT - 62, 28)
    parts = []
    for tick in up.ticks():
        parts += [line(52, up.at(tick), WIDTH - 14, up.at(tick), "grid"), text(48, up.at(tick) + 4, f"{tick:g}", anchor="end")]
    parts += [text(across.at(tick), HEIGHT - 46, f"{tick:g}", anchor="middle") for tick in across.ticks()]
    parts += [line(52, up.at(0), WIDTH - 14, up.at(0), "zero"), line(across.at(0), up.at(0), across.at(most), up.at(most), "identity")]
    parts += [text(across.at(most) - 4, up.at(most) + 14, "gain = misfit", anchor="end")]
    parts += [text(WIDTH / 2 + 20, HEIGHT - 28, f"misfit, {unit}", anchor="middle", kind="name"), text(4, 18, f"gain, {unit}", kind="name")]
    series = list(dict.fromkeys(p.series for p in points))
    for p in points:
        x, kind = across.at(p.misfit), f"s{series.index(p.series) % 4}"
        if p.low is not None and p.high is not None:
            parts.append(line(x, up.at(p.low), x, up.at(p.high), "whisker"))
        parts.append(f'<circle cx="{x:g}" cy="{up.at(p.gain):g}" r="3" class="{kind}"><title>{escape(p.name or p.series)}</title></circle>')
    place = 52.0
    for i, name in enumerate(series):
        parts += [f'<circle cx="{place:g}" cy="{HEIGHT - 10}" r="4" class="s{i % 4}"/>', text(place + 8, HEIGHT - 6, name)]
        place += 26 + 6.2 * len(name)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(WIDTH, place):g} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
