"""What the dial's rows say: headline, the tables of docs/evidence.md and its figures, from `benchmarks/results/dial.json` alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from benchmarks.dial_worlds import WORLDS
from benchmarks.results_file import EVIDENCE, write_docs
from evaluation import charts
from evaluation.charts import WIDTH, Axis, line, text
from evaluation.headroom import Estimate
from evaluation.table import frontier_of

STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#333}.grid{stroke:#e4e4e4}.zero{stroke:#888}.identity{stroke:#888;stroke-dasharray:4 3}"
    ".whisker{stroke:#bbb}.dot{fill:#666}.best{fill:#2266aa;stroke:#2266aa}.null{fill:#cc6622}.greedy{fill:#338855}.name{font-weight:600}"
    "circle{opacity:.8}polyline{fill:none}.mark{font-weight:600}"
)
RIVALS = ("raw", "static", "majority", "best_static", "router", "blind", "sft")
"""What a user could do in place of training a teacher with RL, the cheapest first."""
EQUAL = 0.05
"""Differences whose interval lies within so much count as a tie."""
RESAMPLES = 1000
Rows = list[dict[str, Any]]


def bits(packed: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The questions of `dial.pack`: 1 right, 0 wrong."""
    return np.array([float(digit) for digit in bin(int(packed, 16))[3:]])


def spread(differences: Sequence[np.ndarray[Any, np.dtype[np.float64]]]) -> tuple[float, float, float]:
    """(mean, low, high) of paired differences, one row of questions a seed: percentile bootstrap over questions (rng seed 0), a question's
    seeds together."""
    rows = np.mean(differences, axis=0)
    draws = rows[np.random.default_rng(0).integers(0, len(rows), (RESAMPLES, len(rows)))].mean(axis=1)
    return float(rows.mean()), float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def of_kind(runs: Rows, kind: str) -> Rows:
    return [run for run in runs if run["kind"] == kind]


def told_of(run: dict[str, Any]) -> Estimate:
    """The predicted gain of a cell, as its probe said it."""
    return Estimate(**run["probe"]["predicted_gain"])


def half_learnt(runs: Rows) -> float:
    """K0 by least squares over the calibration's cells: realised = reachable x K / (K + K0 H), on a grid of tenths."""
    probes = [run["probe"] for run in runs]
    could, k, h = (np.array(row) for row in zip(*((p["reachable_gain"]["value"], p["solved"], p["lessons"]) for p in probes), strict=True))
    came = np.array([run["arms"]["trained"]["gain"][0] for run in runs])
    grid = np.arange(1, 1000) / 10
    return float(min(grid, key=lambda k0: float(((came - could * k / (k + k0 * h)) ** 2).sum())))


def fit(runs: Rows, told_by: Callable[[dict[str, Any]], float] = lambda run: told_of(run).value) -> dict[str, float]:
    """How well the prediction met what came: R² about the line predicted = realised (1 - SS_res / SS_tot), errors in points. A point a
    world, the mean of its seeds, so that a world that was run more often counts no more."""
    seeds = [[run for run in runs if run["world"] == world] for world in dict.fromkeys(run["world"] for run in runs)]
    told = np.array([statistics.fmean(told_by(run) for run in here) for here in seeds])
    came = np.array([statistics.fmean(run["arms"]["trained"]["gain"][0] for run in here) for here in seeds])
    errors = 100 * np.abs(told - came)
    total = float(((came - came.mean()) ** 2).sum())
    return {
        "r2": round(1 - float(((came - told) ** 2).sum()) / total, 4) if total else math.nan,
        "r2_of_a_line": round(float(np.corrcoef(told, came)[0, 1] ** 2), 4) if len(runs) > 2 and told.std() and came.std() else math.nan,
        "median_error_points": round(float(np.median(errors)), 2),
        "bias_points": round(100 * float((told - came).mean()), 2),
    }


def headline(runs: Rows) -> dict[str, Any]:
    """The figures that others read. `null_gain`: mean realised gain of the cells without head-room, in points."""
    measured = of_kind(runs, "trained")
    found: dict[str, Any] = {
        "cells": len(measured),
        "worlds": len({run["world"] for run in measured}),
        "cells_planned": 3 * len(WORLDS),
        "rivals": len(of_kind(runs, "rivals")),
        "blind": len(of_kind(runs, "blind")),
    }
    if len(measured) > 1:
        found |= fit(measured)
        found |= {f"few_{name}": value for name, value in fit(measured, lambda run: float(run["probe"]["predicted_by_few"])).items()}
        found |= {f"forecast_{name}": value for name, value in fit(measured, lambda run: float(run["forecast"])).items()}
    if calibrated := of_kind(runs, "calibration"):
        found["half_learnt"] = half_learnt(calibrated)
    null = [run for run in measured if run["null"]]
    if null:
        gains = [run["arms"]["trained"]["gain"] for run in null]
        found |= {
            "null_gain": round(100 * statistics.fmean(gain[0] for gain in gains), 2),
            "null_cells": len(null),
            "null_says_do_not_train": sum(run["probe"]["verdict"].startswith("do not train") for run in null),
            "null_interval_holds_0": sum(low <= 0 <= high for _, low, high in gains),
        }
    rest = [run for run in measured if not run["null"]]
    if rest:
        found["others_told_not_to_train"] = sum(run["probe"]["verdict"].startswith("do not train") for run in rest)
    return found


def beside(runs: Rows, world: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm -> seed -> its measures in a world; what does not depend on the seed stands under each seed of the trained arm."""
    arms: dict[str, dict[int, dict[str, Any]]] = {}
    here = [run for run in runs if run["world"] == world]
    seeds = [run["seed"] for run in of_kind(here, "trained")]
    for run in here:
        for name, arm in run["arms"].items():
            if run["kind"] == "rivals":
                if name != "raw":
                    arms[name] = dict.fromkeys(seeds, arm)
            else:
                arms.setdefault(name, {})[run["seed"]] = arm
    return arms


def against(arms: dict[str, dict[int, dict[str, Any]]], rival: str) -> tuple[float, float, float] | None:
    """Trained minus a rival on the same questions, over the seeds that both have; None where there is none."""
    both = sorted(set(arms.get("trained", {})) & set(arms.get(rival, {})))
    return spread([bits(arms["trained"][seed]["bits"]) - bits(arms[rival][seed]["bits"]) for seed in both]) if both else None


def outcome(difference: tuple[float, float, float]) -> str:
    """wins or loses where the interval excludes 0; ties where it lies within +-EQUAL; else open."""
    _, low, high = difference
    if low > 0:
        return "wins"
    if high < 0:
        return "loses"
    return "ties" if low > -EQUAL and high < EQUAL else "open"


def percent(arms: dict[str, dict[int, dict[str, Any]]], name: str) -> str:
    found = [arm["right"][0] for arm in arms.get(name, {}).values()]
    return f"{100 * statistics.fmean(found):.0f}" if found else "–"


def points(estimate: Sequence[float]) -> str:
    value, low, high = (100 * part for part in estimate)
    return f"{value:+.0f} ({low:+.0f} .. {high:+.0f})"


def surface(runs: Rows) -> str:
    """A line a world."""
    columns = "world|seeds|raw|static|majority|best_static|router|blind|sft|trained|oracle|predicted gain|realised gain (95 %)|probe"
    shown = (*RIVALS[:6], "sft", "trained", "oracle")
    lines = ["| " + " | ".join([*columns.split("|"), "against the best rival (95 %)"]) + " |", "|" + "---|" * 15]
    for world in WORLDS:
        here = [run for run in of_kind(runs, "trained") if run["world"] == world.name]
        if not here:
            continue
        arms = beside(runs, world.name)
        told = 100 * statistics.fmean(told_of(run).value for run in here)
        says = "; ".join(sorted({run["probe"]["verdict"].split(":")[0] for run in here}))
        means = {name: statistics.fmean(arm["right"][0] for arm in arms[name].values()) for name in RIVALS if name in arms}
        best = max(means, key=lambda name: means[name])
        gain, rival = against(arms, "raw"), against(arms, best)
        assert gain is not None and rival is not None
        cells = [world.name, str(len(here)), *(percent(arms, name) for name in shown), f"{told:+.0f}", points(gain), says]
        lines.append("| " + " | ".join([*cells, f"{best}: {points(rival)}, {outcome(rival)}"]) + " |")
    return "\n".join(lines)


def tally(runs: Rows) -> str:
    """Where the trained teacher wins, ties and loses against each rival, over worlds with head-room and without."""
    lines = ["| rival | worlds | wins | ties | open | loses | mean difference, points |", "|---|---|---|---|---|---|---|"]
    for rival in RIVALS:
        found = [d for world in WORLDS if (d := against(beside(runs, world.name), rival)) is not None]
        if not found:
            continue
        counts = [sum(outcome(d) == name for d in found) for name in ("wins", "ties", "open", "loses")]
        mean = 100 * statistics.fmean(d[0] for d in found)
        lines.append(f"| {rival} | {len(found)} | " + " | ".join(map(str, counts)) + f" | {mean:+.1f} |")
    return "\n".join(lines)


def borrowing(runs: Rows) -> str:
    """A line a world in which both were measured on seed 0: the training without borrowed instructions (`alone`) and as shipped."""
    columns = "world|router|alone|trained|difference (95 %)|against the router, alone|trained|calls of the warm start, alone|trained"
    lines = ["| " + " | ".join(columns.split("|")) + " |", "|" + "---|" * 9]
    rows: list[tuple[float, float, float]] = []
    for world in WORLDS:
        here = [run for run in runs if run["world"] == world.name and run["seed"] == 0]
        asked = {name: calls for run in here for name, calls in run["requests"].items()}
        arms = beside(here, world.name)
        if not {"trained", "alone", "router"} <= set(arms):
            continue
        right = {name: bits(arm[0]["bits"]) for name, arm in arms.items()}
        gain, before, after = (
            spread([right[a] - right[b]]) for a, b in (("trained", "alone"), ("alone", "router"), ("trained", "router"))
        )
        rows.append((gain[0], before[0], after[0]))
        verdicts = [f"{points(one)}, {outcome(one)}" for one in (before, after)]
        shares = [percent(arms, name) for name in ("router", "alone", "trained")]
        calls = [f"{asked[name]:,}" for name in ("alone_sft", "sft")]
        lines.append("| " + " | ".join([world.name, *shares, points(gain), *verdicts, *calls]) + " |")
    if rows:
        mean = [f"{100 * statistics.fmean(column):+.1f}" for column in zip(*rows, strict=True)]
        lines.append(f"| mean of {len(rows)} |  |  |  | {mean[0]} | {mean[1]} | {mean[2]} |  |  |")
    return "\n".join(lines)


def summary(runs: Rows) -> str:
    """The headline as a table."""
    found = headline(runs)
    null = f"{found.get('null_says_do_not_train', 0)} of {found.get('null_cells', 0)}"
    holds = f"{found.get('null_interval_holds_0', 0)} of {found.get('null_cells', 0)}"
    wanted = [
        ("cells measured", f"{found['cells']} of {found['cells_planned']}, in {found['worlds']} of {len(WORLDS)} worlds", "all"),
        ("R² of predicted against realised gain", f"{found.get('r2', math.nan):.3f}", "0.9"),
        ("median error, points", f"{found.get('median_error_points', math.nan):.1f}", "5"),
        ("predicted minus realised, mean, points", f"{found.get('bias_points', math.nan):+.1f}", ""),
        ("by a probe of a twentieth of each run's calls: R²", f"{found.get('few_r2', math.nan):.3f}", ""),
        ("its median error, points", f"{found.get('few_median_error_points', math.nan):.1f}", ""),
        ("as said before training, by the estimators of the time: R²", f"{found.get('forecast_r2', math.nan):.3f}", ""),
        ("its median error, points", f"{found.get('forecast_median_error_points', math.nan):.1f}", ""),
        ("no head-room: the probe says do not train", null, "90 %"),
        ("no head-room: the gain's interval holds 0", holds, "all"),
        ("no head-room: mean gain, points", f"{found.get('null_gain', math.nan):+.1f}", "0"),
        ("head-room, and the probe says do not train", f"{found.get('others_told_not_to_train', 0)} cells", "0"),
    ]
    return "\n".join(["| | measured | wanted |", "|---|---|---|", *(f"| {name} | {value} | {aim} |" for name, value, aim in wanted)])


def standing(drawn: str) -> str:
    """A chart of `evaluation.charts` as a file of its own."""
    style = f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace("</title>", f"</title>{style}", 1) + "\n"


def predicted_figure(runs: Rows) -> str:
    """A point a cell: predicted gain across, realised gain up, with both intervals."""
    measured, found = of_kind(runs, "trained"), headline(runs)
    across, up = Axis(-0.15, 1.0, 52, WIDTH - 14), Axis(-0.15, 1.0, 320, 40)
    parts = []
    for tick in up.ticks():
        parts += [line(52, up.at(tick), WIDTH - 14, up.at(tick), "grid"), text(48, up.at(tick) + 4, charts.percent(tick), anchor="end")]
        parts.append(text(across.at(tick), 336, charts.percent(tick), anchor="middle"))
    parts += [line(52, up.at(0), WIDTH - 14, up.at(0), "zero"), line(across.at(-0.15), up.at(-0.15), across.at(1), up.at(1), "identity")]
    for run in measured:
        told, (gain, low, high) = told_of(run), run["arms"]["trained"]["gain"]
        x, y = across.at(told.value), up.at(gain)
        parts += [line(x, up.at(low), x, up.at(high), "whisker"), line(across.at(told.low), y, across.at(told.high), y, "whisker")]
    for run in measured:
        kind = "null" if run["null"] else "best" if run["ceiling"] is not None else "greedy"
        x, y = across.at(told_of(run).value), up.at(run["arms"]["trained"]["gain"][0])
        title = escape(f"{run['world']}, seed {run['seed']}")
        parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="3" class="{kind}"><title>{title}</title></circle>')
    fitted = (
        f"R² {found.get('r2', math.nan):.2f}, median error {found.get('median_error_points', math.nan):.1f} points, {len(measured)} cells"
    )
    parts += [text(WIDTH / 2 + 16, 354, "gain predicted before training, points", anchor="middle", kind="name")]
    parts += [text(4, 14, "realised gain, points", kind="name"), text(WIDTH - 14, 14, fitted, anchor="end")]
    for place, kind, name in ((52, "best", "headers"), (130, "greedy", "other students"), (250, "null", "no head-room")):
        parts += [f'<circle cx="{place}" cy="370" r="4" class="{kind}"/>', text(place + 8, 374, name)]
    return standing(charts.svg(382, "Gain predicted before training against realised gain", parts))


def frontier_figures(runs: Rows) -> dict[str, tuple[str, str]]:
    """File name -> (figure, legend): mean share right over the worlds in which every arm is measured, against the student's tokens a query
    and against student calls before the first query. No arm is left out."""
    arms = (*RIVALS, "trained")
    held = {world.name: beside(runs, world.name) for world in WORLDS}
    full = [name for name, found in held.items() if set(arms) <= set(found)]
    if not full:
        return {}
    asked = {"raw": 0.0, "static": 0.0, "majority": 0.0}
    for name in ("best_static", "router", "blind", "sft", "trained"):
        asked[name] = statistics.fmean(run["requests"][name] for run in runs if run["world"] in full and name in run["requests"])
    right, low, high, tokens = {}, {}, {}, {}
    for name in arms:
        rows = np.array([np.mean([bits(arm["bits"]) for arm in held[world][name].values()], axis=0) for world in full])
        right[name] = float(rows.mean())
        half = 1.96 * math.sqrt(float((rows.var(axis=1) / rows.shape[1]).sum())) / len(full)
        low[name], high[name] = right[name] - half, right[name] + half
        tokens[name] = statistics.fmean(arm["tokens"] for world in full for arm in held[world][name].values())
    made = {}
    for file, cost, axis in (
        ("dial-cost.svg", tokens, "student tokens a query"),
        ("dial-calls.svg", asked, "student calls before the first"),
    ):
        best = frontier_of({name: (cost[name], right[name]) for name in arms})
        drawn = charts.frontier([(name, cost[name], right[name], low[name], high[name]) for name in arms], best, axis)
        listed = "; ".join(f"{i} {name} ({cost[name]:,.0f}, {100 * right[name]:.1f} %)" for i, name in enumerate(arms, 1))
        made[file] = (standing(drawn), f"{len(full)} worlds. {listed}. On the frontier: {', '.join(best)}.")
    return made


def write_page(runs: Rows) -> None:
    """Figures and tables of docs/evidence.md."""
    if not of_kind(runs, "trained"):
        return
    folder = EVIDENCE.parent / "figures"
    folder.mkdir(exist_ok=True)
    (folder / "dial-predicted.svg").write_text(predicted_figure(runs), encoding="utf-8")
    figure = "\n\n![Gain predicted before training against realised gain](figures/dial-predicted.svg)"
    write_docs("dial_summary", summary(runs) + figure, page=EVIDENCE)
    write_docs("dial", surface(runs), page=EVIDENCE)
    write_docs("dial_tally", tally(runs), page=EVIDENCE)
    write_docs("dial_borrowing", borrowing(runs), page=EVIDENCE)
    drawn = frontier_figures(runs)
    shown = []
    for file, (figure, legend) in drawn.items():
        (folder / file).write_text(figure, encoding="utf-8")
        shown += [f"![Share right against cost, every arm](figures/{file})", "", legend, ""]
    write_docs("dial_frontier", "\n".join(shown) or "No world has every arm measured yet.", page=EVIDENCE)
