"""Runs: what lies under WST_RUNS_DIR, how each learnt, what its teacher wrote, and its report."""

from __future__ import annotations

import asyncio
from typing import Any

import yaml
from fastapi import Request, Response
from starlette.responses import HTMLResponse

from evaluation import charts
from exchange.settings import SettingError
from server.console.address import HEADERS, policy_of
from server.console.page import console_router, page
from server.console.run_files import all_runs, arms_of, at, headline_of, number, report_of, run_of, samples_of, summary_of
from teacher.run_directory import RunDirectory, runs_dir

router = console_router()


@router.get("/ui/runs")
async def get_runs(request: Request) -> Response:
    """All of them."""
    return page(request, "runs.html", "Runs", runs=await asyncio.to_thread(all_runs), folder=runs_dir())


@router.get("/ui/runs/{name}")
async def get_run(name: str, request: Request) -> Response:
    """One run."""
    return page(request, "run.html", "Runs", **await asyncio.to_thread(_shown, run_of(name)))


@router.get("/ui/runs/{name}/report.html")
async def get_report(name: str) -> Response:
    """The run's report as it lies there: text of strangers, so it may load and run nothing, and its styles are let in by their sums."""
    html = await asyncio.to_thread(report_of, name)
    return HTMLResponse(html, headers={**HEADERS, "Content-Security-Policy": policy_of(html)})


def _shown(run: RunDirectory) -> dict[str, Any]:
    summary = summary_of(run)
    try:
        curves = run.curves()
        enough = len(curves["training"]) + len(curves["validation"]) > 1
        curve = charts.learning(curves["training"], curves["validation"], curves["second"]) if enough else None
    except (ValueError, KeyError, TypeError, ArithmeticError):  # not written by this version, or damaged
        curve = None
    try:
        config = yaml.safe_dump(run.config(), sort_keys=False)
    except SettingError:
        config = ""
    spent = {name: number(at(summary, "student", name)) for name in ("calls", "cache_hits", "cost_usd")}
    alarms = summary.get("alarms")
    return {
        "name": run.path.name, "summary": summary, "arms": arms_of(summary), "spent": None if None in spent.values() else spent,
        "wall_s": number(summary.get("wall_s")), "alarms": alarms if isinstance(alarms, list) else (),
        "headline": headline_of(run.path), "curve": curve, "config": config,
        "samples": samples_of(run), "report": (run.path / "report.html").is_file(), "step": run.last_step(),
    }  # fmt: skip
