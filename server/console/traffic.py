"""Live traffic: what the counters said in the last minutes, what it cost, and how each key is served."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from evaluation import charts
from server.console.inside import call
from server.console.page import caller_of, console_router, form_of, may, page, piece
from server.console.wording import sentence
from server.modes import EVERYBODY, ModeSetting
from server.traffic import Traffic, dollars

router = console_router()

DEFAULTS = {name: field.default for name, field in ModeSetting.model_fields.items()}


@router.get("/ui/traffic")
async def get_traffic(request: Request) -> Response:
    """The page; its figures fetch themselves again."""
    modes = await _modes(request) if may(request, "admin") else []
    return page(request, "traffic.html", "Traffic", now=await _now(request), modes=modes, defaults=DEFAULTS, message="", kind="")


@router.get("/ui/traffic/now")
async def get_now(request: Request) -> Response:
    """The figures and plots as they are now."""
    return piece("traffic_now.html", now=await _now(request))


@router.post("/ui/traffic/modes/{key}")
async def post_mode(key: str, request: Request) -> Response:
    """Switch a key's mode; the fields that the form leaves out stay as they were."""
    form = await form_of(request)
    before = (await call(request, "GET", f"/modes/{key}")).json["setting"] or {}
    changes: dict[str, Any] = {name: form[name] for name in ("mode", "holdback", "metric", "planned_n") if form.get(name)}
    if "metric" in changes:  # a name; the metric of before keeps its kind
        held = before.get("metric") or DEFAULTS["metric"].model_dump()
        changes["metric"] = held if held["name"] == changes["metric"] else {"name": changes["metric"], "kind": "binary"}
    try:
        reply = (await call(request, "PUT", f"/modes/{key}", {**before, **changes})).json
    except HTTPException as error:
        modes = await _modes(request)
        return piece("modes.html", status=error.status_code, modes=modes, defaults=DEFAULTS, message=sentence(error.detail), kind="error")
    message = f"{reply['key']} is {reply['mode']} now."
    return piece("modes.html", modes=await _modes(request), defaults=DEFAULTS, message=message, kind="done")


async def _modes(request: Request) -> list[dict[str, object]]:
    """Every key of the tenant as it is served, with what it has spent of its budgets today."""
    keys = request.app.state.keys
    known = {EVERYBODY: None} if keys is None else keys.of(caller_of(request).tenant)
    rows = []
    for key_id, key in known.items():
        reply = (await call(request, "GET", f"/modes/{key_id}")).json
        limited = key is not None and (key.tokens_per_day is not None or key.dollars_per_day is not None)
        spent = await request.app.state.budgets.spent(key_id) if limited else None
        rows.append({"reply": reply, "key": key, "limited": limited, "spent": spent})
    return rows


async def _now(request: Request) -> dict[str, object]:
    traffic: Traffic = request.app.state.traffic
    totals, rates = traffic.now()
    span = traffic.span_s()
    points = traffic.points(span)
    plots = [
        ("Requests", charts.timeline([("best", [(ago, one.requests_s) for ago, one, _ in points])], "Requests a second", "a second",
                                     span=span), ()),
        ("Wait for the teacher", charts.timeline(
            [("second", [(ago, _ms(one.teacher_p95_s)) for ago, one, _ in points]),
             ("best", [(ago, _ms(one.teacher_p50_s)) for ago, one, _ in points])],
            "Wait for the teacher in milliseconds, median and 95th percentile", "ms", span=span), (("", "median"), ("second", "95 %"))),
        ("Fallbacks and cache", charts.timeline(
            [("second", [(ago, _percent(one.cache_share)) for ago, one, _ in points]),
             ("best", [(ago, _percent(one.fallback_share)) for ago, one, _ in points])],
            "Share of requests that fell back, and that the cache answered", "% of requests", span=span),
         (("", "fell back"), ("second", "from the cache"))),
        ("Queue", charts.timeline([("best", [(ago, queued) for ago, _, queued in points])], "Requests that wait for the teacher", "waiting",
                                  span=span), ()),
    ]  # fmt: skip
    students = request.app.state.settings.students
    spent = dollars(totals.tokens, {name: student.price for name, student in students.items()})
    reasons = sorted(totals.reasons.items(), key=lambda item: -item[1])
    return {"totals": totals, "rates": rates, "plots": plots, "spent": spent, "reasons": reasons}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
