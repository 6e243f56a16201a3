"""The report's plots as inline SVG: labelled, no script, nothing loaded, the same bytes for the same numbers.

Every plot is drawn on a canvas 400 units wide, a phone's width, so that its letters stay readable there; on a desk it grows a little.
Colours are CSS classes of the report's template.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 400
ROW = 22
LABELS = 118
"""Units left of the bars for the arms' names."""


@dataclass(frozen=True)
class Axis:
    """A linear scale from data to canvas, with its ticks."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return round(self.start + (value - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start), 1)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers inside the scale."""
        raw = (self.high - self.low) / most or 1.0
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def svg(height: float, title: str, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{body}</svg>'


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<polyline points="{" ".join(f"{x:g},{y:g}" for x, y in points)}" class="{kind}"/>'


def percent(value: float) -> str:
    return f"{100 * value:g}"


def short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def frontier(points: Sequence[tuple[str, float, float, float, float]], on_it: Sequence[str], cost: str) -> str:
    """Cost against share right: (arm, cost, right, low, high). The arms on the frontier are joined; numbers refer to the list below it."""
    top = max(cost for _, cost, *_ in points) or 1.0
    across = Axis(0.0, top * 1.08, 44, WIDTH - 12)
    up = Axis(0.0, 1.0, 250, 24)
    parts = []
    for tick in up.ticks():
        parts += [line(44, up.at(tick), WIDTH - 12, up.at(tick), "grid"), text(40, up.at(tick) + 4, percent(tick), anchor="end")]
    parts += [text(across.at(tick), 266, f"{tick:g}", anchor="middle") for tick in across.ticks()]
    parts += [text(WIDTH / 2 + 16, 284, cost, anchor="middle", kind="name"), text(4, 11, "right, %", kind="name")]
    held = {name: (across.at(cost), up.at(right)) for name, cost, right, *_ in points}
    parts.append(path([held[name] for name in on_it if name in held], "best"))
    taken: list[tuple[float, float]] = []
    for number, (name, _, _, low, high) in enumerate(points, 1):
        x, y = held[name]
        kind = "dot best" if name in on_it else "dot"
        parts.append(line(x, up.at(low), x, up.at(high), "whisker"))
        parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="4" class="{kind}"><title>{escape(name)}</title></circle>')
        spots = [(x + dx, y + dy) for dx in (6, -16, 20, -30, 34, -44, 48, -58) for dy in (-5, 14) if 46 <= x + dx <= WIDTH - 16]
        free = [spot for spot in spots if all(abs(spot[0] - a) >= 15 or abs(spot[1] - b) >= 12 for a, b in taken)]
        spot = (free or spots)[0]
        taken.append(spot)
        parts.append(text(*spot, str(number), kind="mark"))
    return svg(290, "Cost against share right, by arm", parts)


def forest(rows: Sequence[tuple[str, float, float, float]], title: str, unit: str) -> str:
    """(name, value, low, high) as points with intervals around a line at zero, in points of a hundred."""
    low = min(-0.02, *(row[2] for row in rows))
    high = max(0.02, *(row[3] for row in rows))
    pad = (high - low) * 0.05
    across = Axis(low - pad, high + pad, LABELS, WIDTH - 12)
    bottom = 8 + ROW * len(rows)
    parts = [line(across.at(tick), 4, across.at(tick), bottom, "grid") for tick in across.ticks()]
    parts += [text(across.at(tick), bottom + 14, f"{100 * tick:+g}" if tick else "0", anchor="middle") for tick in across.ticks()]
    parts += [
        line(across.at(0), 4, across.at(0), bottom, "zero"),
        text((LABELS + WIDTH) / 2, bottom + 32, unit, anchor="middle", kind="name"),
    ]
    for i, (name, value, least, most) in enumerate(rows):
        y = 4 + ROW * (i + 0.5)
        kind = "better" if least > 0 else "worse" if most < 0 else ""
        parts += [text(LABELS - 8, y + 4, short(name), anchor="end"), line(across.at(least), y, across.at(most), y, f"bar {kind}")]
        parts.append(f'<circle cx="{across.at(value):g}" cy="{y:g}" r="4" class="dot {kind}"/>')
    return svg(bottom + 40, title, parts)


def sequence(looks: Sequence[tuple[int, float, float, float]], title: str, unit: str, *, scale: float, ends: tuple[str, str]) -> str:
    """(units, difference, low, high) by look, as a line in its band around a line at zero, times `scale`; `ends` are what the first and the
    last look are called. The first intervals of a test are too wide to show beside the last ones and are cut off."""
    settled = looks[len(looks) // 4 :] or looks
    low, high = min(0.0, *(look[2] for look in settled)), max(0.0, *(look[3] for look in settled))
    pad = 0.06 * ((high - low) or 1.0)
    across = Axis(looks[0][0], looks[-1][0], 56, WIDTH - 30)
    up = Axis(low - pad, high + pad, 210, 24)

    def spot(units: int, value: float) -> tuple[float, float]:
        return across.at(units), up.at(min(max(value, up.low), up.high))

    parts = []
    for tick in Axis(scale * up.low, scale * up.high, 210, 24).ticks():
        y = up.at(tick / scale)
        parts += [line(56, y, WIDTH - 30, y, "zero" if tick == 0 else "grid"), text(52, y + 4, f"{tick:+g}" if tick else "0", anchor="end")]
    band = [spot(look[0], look[3]) for look in looks] + [spot(look[0], look[2]) for look in reversed(looks)]
    parts.append(f'<polygon points="{" ".join(f"{x:g},{y:g}" for x, y in band)}" class="band"/>')
    parts.append(path([spot(look[0], look[1]) for look in looks], "best"))
    parts += [text(across.at(tick), 226, f"{tick:,g}", anchor="middle") for tick in across.ticks(4)]
    parts += [text(56, 260, ends[0], kind="name"), text(WIDTH - 30, 260, ends[1], anchor="end", kind="name")]
    parts += [text(WIDTH / 2 + 22, 243, "units with an outcome", anchor="middle", kind="name"), text(4, 11, unit, kind="name")]
    return svg(266, title, parts)


def timeline(
    lines: Sequence[tuple[str, Sequence[tuple[float, float | None]]]], title: str, unit: str, *, span: float, least: float = 1.0
) -> str:
    """Up to two named lines (kinds best, second) of (seconds before now, value) over the last `span` seconds; None breaks a line. The
    scale begins at 0 and reaches at least `least`."""
    values = [value for _, points in lines for _, value in points if value is not None]
    across, up = Axis(-span, 0.0, 44, WIDTH - 12), Axis(0.0, max(least, *values, 0.0) * 1.08, 130, 24)
    parts = []
    for tick in up.ticks(4):
        parts += [line(44, up.at(tick), WIDTH - 12, up.at(tick), "grid"), text(40, up.at(tick) + 4, f"{tick:g}", anchor="end")]
    for minutes in (span / 60, span / 120, 0.0):
        words = "now" if not minutes else f"−{minutes:g} min" if minutes >= 1 else f"−{60 * minutes:g} s"
        anchor = "start" if minutes == span / 60 else "middle" if minutes else "end"
        parts.append(text(across.at(-60 * minutes), 147, words, anchor=anchor, kind="name"))
    parts.append(text(4, 11, unit, kind="name"))
    for kind, points in lines:
        run: list[tuple[float, float]] = []
        for ago, value in (*points, (0.0, None)):
            if value is not None:
                run.append((across.at(-ago), up.at(value)))
            elif run:
                parts.append(
                    path(run, kind) if len(run) > 1 else f'<circle cx="{run[0][0]:g}" cy="{run[0][1]:g}" r="2" class="dot {kind}"/>'
                )
                run = []
    return svg(152, title, parts)


def help_and_harm(rows: Sequence[tuple[str, float, float]]) -> str:
    """(arm, help, harm) as bars to either side of a line, in points of a hundred."""
    reach = max(0.02, *(max(abs(helped), abs(harmed)) for _, helped, harmed in rows)) * 1.05
    across = Axis(-reach, reach, LABELS, WIDTH - 12)
    bottom = 8 + ROW * len(rows)
    parts = [line(across.at(tick), 4, across.at(tick), bottom, "grid") for tick in across.ticks()]
    parts += [text(across.at(tick), bottom + 14, f"{100 * abs(tick):g}", anchor="middle") for tick in across.ticks()]
    parts.append(text(across.at(-reach), bottom + 32, "harms, % of all", kind="name"))
    parts.append(text(across.at(reach), bottom + 32, "helps, % of all", anchor="end", kind="name"))
    for i, (name, helped, harmed) in enumerate(rows):
        y = 4 + ROW * i + 4
        for value, kind in ((-harmed, "worse"), (helped, "better")):
            left, right = sorted((across.at(0), across.at(value)))
            parts.append(f'<rect x="{left:g}" y="{y:g}" width="{right - left:.1f}" height="{ROW - 8}" class="fill {kind}"/>')
        parts.append(text(LABELS - 8, y + 11, short(name), anchor="end"))
    parts.append(line(across.at(0), 4, across.at(0), bottom, "zero"))
    return svg(bottom + 40, "Questions helped and harmed, by arm", parts)


def learning(
    training: Sequence[tuple[int, float]],
    validation: Sequence[tuple[int, float]],
    second: Sequence[tuple[int, float]] = (),
    *,
    unit: str = "right",
) -> str:
    """Share right, or what else is counted, by step: of the sampled instructions in training, of the greedy ones on validation questions;
    there also by a second judge, where one watches."""
    steps = [step for step, _ in (*training, *validation)]
    across = Axis(0, max(1, *steps) if len(steps) > 1 else 1, 44, WIDTH - 12)
    up = Axis(0.0, 1.0, 210, 24)
    parts = []
    for tick in up.ticks():
        parts += [line(44, up.at(tick), WIDTH - 12, up.at(tick), "grid"), text(40, up.at(tick) + 4, percent(tick), anchor="end")]
    parts += [text(across.at(tick), 226, f"{tick:g}", anchor="middle") for tick in across.ticks() if tick == int(tick)]
    parts += [text(WIDTH / 2 + 16, 244, "training step", anchor="middle", kind="name"), text(4, 11, f"{unit}, %", kind="name")]
    if training:
        parts.append(path([(across.at(step), up.at(right)) for step, right in training], "curve"))
    if validation:
        points = [(across.at(step), up.at(right)) for step, right in validation]
        parts.append(path(points, "best"))
        parts += [f'<circle cx="{x:g}" cy="{y:g}" r="4" class="dot best"/>' for x, y in points]
    if second:
        points = [(across.at(step), up.at(win)) for step, win in second]
        parts.append(path(points, "second"))
        parts += [f'<circle cx="{x:g}" cy="{y:g}" r="4" class="dot second"/>' for x, y in points]
        parts += [line(60, 158, 80, 158, "second"), text(86, 162, "validation, second judge")]
    parts += [line(60, 190, 80, 190, "curve"), text(86, 194, "training, sampled instructions")]
    parts += [line(60, 174, 80, 174, "best"), text(86, 178, "validation, greedy instructions")]
    return svg(250, f"{unit.capitalize()} during training", parts)
