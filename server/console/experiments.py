"""Experiments: from the definition to the verdict. The report is the API's own, drawn into the page."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from fastapi import Request, Response
from starlette.responses import HTMLResponse

from evaluation.ab_html import body as report_body
from server.console.address import HEADERS, policy_of
from server.console.inside import call
from server.console.page import caller_of, console_router, form_of, gone_to, page, piece, said
from server.experiments import Experiments, Running

router = console_router()

MOST_ARMS = 4
LEAST_PERIOD_S = 3


@router.get("/ui/experiments")
async def get_experiments(request: Request) -> Response:
    """The list, the newest first, and the form for another one."""
    known = (await call(request, "GET", "/experiments")).json["experiments"]
    teachers = request.app.state.teachers.loaded()
    return page(request, "experiments.html", "Experiments", experiments=known[::-1], teachers=teachers, arms=range(1, MOST_ARMS + 1))


@router.post("/ui/experiments")
async def post_experiments(request: Request) -> Response:
    """Start one, and go to its page."""
    name = (await call(request, "POST", "/experiments", definition_of(await form_of(request)))).json["id"]
    return gone_to(f"/ui/experiments/{name}")


@router.get("/ui/experiments/{name}")
async def get_experiment(name: str, request: Request) -> Response:
    """One experiment; what changes fetches itself again."""
    await call(request, "GET", f"/experiments/{name}")
    return page(request, "experiment.html", "Experiments", **await _live(request, name))


@router.get("/ui/experiments/{name}/live")
async def get_live(name: str, request: Request) -> Response:
    """What changes."""
    return piece("experiment_live.html", **await _live(request, name))


@router.get("/ui/experiments/{name}/report")
async def get_report(name: str, request: Request) -> Response:
    """The API's page of it; its styles are let in by their sums."""
    reply = await call(request, "GET", f"/experiments/{name}/report", headers={"accept": "text/html"})
    return HTMLResponse(reply.content, headers={**HEADERS, "Content-Security-Policy": policy_of(reply.content.decode())})


@router.post("/ui/experiments/{name}/ramp")
async def post_ramp(name: str, request: Request) -> Response:
    """Let more units take part."""
    reply = (await call(request, "POST", f"/experiments/{name}/ramp", {"enrolled": (await form_of(request)).get("enrolled", "")})).json
    return said(f"{100 * reply['enrolled']:g} % of the units take part now.")


@router.post("/ui/experiments/{name}/stop")
async def post_stop(name: str, request: Request) -> Response:
    """End it."""
    reason = (await form_of(request)).get("reason") or "by hand"
    await call(request, "POST", f"/experiments/{name}/stop", {"reason": reason})
    return gone_to(f"/ui/experiments/{name}")


def definition_of(form: dict[str, str]) -> dict[str, Any]:
    """The definition that a form means; the API checks it. Arms without a name are left out, the first one is the control."""
    arms = []
    for number in range(1, MOST_ARMS + 1):
        arm: dict[str, Any] = {"name": form.get(f"name-{number}", "").strip(), "weight": form.get(f"weight-{number}", "")}
        if not arm["name"]:
            continue
        kind = form.get(f"kind-{number}", "raw")
        if kind == "raw":
            arm["raw"] = True
        elif kind == "text":
            arm["text"] = form.get(f"text-{number}", "")
        else:
            arm["teacher"] = kind
        arms.append(arm)
    guardrails = [
        {"metric": metric, "margin": form[f"guard-{metric}"]} for metric in ("fallback", "latency_ms") if form.get(f"guard-{metric}")
    ]
    given = {name: form[name] for name in ("id", "planned_n", "enrolled", "hypothesis") if form.get(name)}
    metric = {"name": form.get("metric", ""), "kind": form.get("metric-kind", "binary"), "lower_is_better": "lower" in form}
    return {"id": "", **given, "arms": arms, "control": arms[0]["name"] if arms else "", "metric": metric, "guardrails": guardrails}


@dataclass
class Look:
    """The latest report of an experiment, drawn: one for all pages that stand open, made again when the log has grown."""

    held: asyncio.Lock = field(default_factory=asyncio.Lock)
    of: tuple[Running, tuple[int, int]] | None = None
    drawn: str | None = None
    problem: str = ""
    period_s: int = LEAST_PERIOD_S


async def _live(request: Request, name: str) -> dict[str, Any]:
    experiments: Experiments = request.app.state.experiments
    running: Running = experiments.named(caller_of(request).tenant, name)
    look: Look = request.app.state.looks.setdefault((running.tenant, name), Look())
    async with look.held:
        began = perf_counter()
        of = (running, await experiments.events.version(running.topic))
        if look.of != of:
            try:
                report = await experiments.report(running)
            except ValueError as error:  # nothing was logged yet
                look.drawn, look.problem = None, str(error)
            else:
                look.drawn, look.problem = await asyncio.to_thread(report_body, report), ""
            look.of = of
            # Of a log of millions a report takes seconds: at most a tenth of the time goes into looking.
            look.period_s = max(LEAST_PERIOD_S, math.ceil(10 * (perf_counter() - began)))
        shown = {"report": look.drawn, "problem": look.problem, "period_s": look.period_s}
    return {"running": running, "one": running.definition, **shown}
