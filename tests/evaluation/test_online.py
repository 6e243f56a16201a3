"""From an experiment's events to its log, guardrails, verdict and page: exact answers on toys."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evaluation.ab import check_guardrail
from evaluation.ab_html import bars, page
from evaluation.ab_log import read_rows
from evaluation.ab_path import LOOKS
from evaluation.experiment import Arm, Experiment, Guardrail, Metric
from evaluation.online import ArmStop, GuardrailWatch, OnlineReport, analysis_rows, exported, guardrail_rows, report
from store import Event
from tests.requirements import need

RAW, TEXT = Arm(name="raw", raw=True, weight=0.5), Arm(name="text", text="Think.", weight=0.5)
EXPERIMENT = Experiment(
    id="e",
    arms=(RAW, TEXT),
    control="raw",
    metric=Metric(name="resolved", kind="binary"),
    metrics=(Metric(name="seconds", lower_is_better=True),),
    guardrails=(Guardrail(metric="fallback", margin=0.1), Guardrail(metric="errors", margin=0.02)),
    planned_n=400,
)


def exposure(unit: str, arm: str, at: float, *, forced: bool = False, degraded: str | None = None, covariate: float | None = None) -> Event:
    measured = {"fallback": float(degraded is not None), "latency_ms": 3.0, "injection": 0.0}
    content = {
        "request_id": f"r-{unit}-{at:g}", "experiment": "e", "unit": unit, "arm": arm, "forced": forced, "propensity": 0.5,
        "source": "static", "degraded": degraded, "teacher": None, "covariate": covariate, "measured": measured,
    }  # fmt: skip
    return Event(f"x-{unit}-{at:g}", "t", "forced" if forced else "exposure", at, content, unit)


def outcome(unit: str, arm: str, at: float, value: float, metric: str = "resolved", *, forced: bool = False) -> Event:
    content = {
        "request_id": None,
        "experiment": "e",
        "unit": unit,
        "arm": arm,
        "forced": forced,
        "metric": metric,
        "value": value,
        "key": None,
    }
    return Event(f"o-{unit}-{metric}-{at:g}", "t", "outcome", at, content, unit)


def test_events_become_lines_of_the_analysed_log() -> None:
    lines = [
        exposure("u", "raw", 1.0),
        outcome("u", "raw", 2.0, 1.0),
        exposure("v", "text", 3.0, degraded="timeout", covariate=0.25),
        outcome("v", "text", 4.0, 7.5, "seconds"),
        outcome("v", "text", 5.0, 1.0, "errors"),
        exposure("w", "raw", 6.0, forced=True),
        outcome("w", "raw", 7.0, 0.0, forced=True),
    ]
    rows = [json.loads(line) for line in exported(lines, EXPERIMENT).splitlines()]
    assert rows == [
        {"unit": "u", "arm": "raw", "metric": "resolved", "value": None, "request_id": "r-u-1", "source": "static", "time": 1.0},
        {"unit": "u", "arm": "raw", "metric": "resolved", "value": 1.0, "request_id": None, "time": 2.0},
        {
            "unit": "v", "arm": "text", "metric": "resolved", "value": None, "request_id": "r-v-3", "source": "static",
            "degraded": "timeout", "covariate": 0.25, "time": 3.0,
        },
        {"unit": "v", "arm": "text", "metric": "seconds", "value": 7.5, "request_id": None, "time": 4.0},
        {
            "unit": "w", "arm": "raw", "metric": "resolved", "value": None, "request_id": "r-w-6", "source": "static", "time": 6.0,
            "forced": True,
        },
        {"unit": "w", "arm": "raw", "metric": "resolved", "value": 0.0, "request_id": None, "time": 7.0, "forced": True},
    ]  # fmt: skip
    log = read_rows(rows)
    assert (log.arms, log.arm_of.tolist(), log.forced_lines) == (("raw", "text"), [0, 1], 2)
    assert analysis_rows(lines[4], EXPERIMENT) == []
    watched = [row for event in lines for row in guardrail_rows(event, EXPERIMENT)]
    assert [(row["unit"], row["metric"], row["value"], row["forced"]) for row in watched] == [
        ("u", "fallback", 0.0, False),
        ("v", "fallback", 1.0, False),
        ("v", "errors", 1.0, False),
        ("w", "fallback", 0.0, True),
    ]


def two_arms(units: int, hits: dict[str, int], *, degraded: dict[str, int] | None = None) -> list[Event]:
    """`units` in each arm; the first hits[arm] of them succeed, the first degraded[arm] fell back."""
    events = []
    for i in range(units):
        for index, arm in enumerate(("raw", "text")):
            at, fell = float(4 * i + 2 * index), (degraded or {}).get(arm, 0)
            events.append(exposure(f"{arm}{i}", arm, at, degraded="timeout" if i < fell else None))
            events.append(outcome(f"{arm}{i}", arm, at + 1.0, float(i < hits[arm])))
    return events


def test_the_report_counts_every_unit_in_its_arm() -> None:
    events = two_arms(150, {"raw": 60, "text": 120}, degraded={"text": 30})
    found = report(events, EXPERIMENT)
    assert found.metrics["resolved"].arms["raw"].mean == 0.4
    assert found.metrics["resolved"].arms["text"].mean == 0.8
    assert found.metrics["resolved"].vs_control["text"].verdict == "better"
    assert found.verdict.startswith("On resolved, text is better than raw: 80.0% against 40.0%, a difference of +40.00 points")
    assert {arm: (one.requests, one.fallback_share) for arm, one in found.traffic.items()} == {"raw": (150, 0.0), "text": (150, 0.2)}
    assert found.lines == 600
    assert report(list(events), EXPERIMENT) == found


def test_the_verdict_in_words() -> None:
    assert report(two_arms(20, {"raw": 10, "text": 10}), EXPERIMENT).verdict.startswith("On resolved, no difference between text and raw")
    worse = report(two_arms(150, {"raw": 120, "text": 60}), EXPERIMENT)
    assert worse.verdict.startswith("On resolved, text is worse than raw")
    stop = ArmStop(arm="text", metric="errors", margin=0.02, excess=0.25, low=0.1, binary=True)
    stopped = report(two_arms(20, {"raw": 10, "text": 10}), EXPERIMENT, status="stopped", stop_reason="guardrail", stopped={"text": stop})
    assert stopped.verdict == (
        "text was stopped by its guardrail: on errors it was worse than raw by more than 10 points for sure (25 points as measured), "
        "where 2 points are allowed."
    )
    lopsided = [event for event in two_arms(400, {"raw": 200, "text": 200}) if not (event.content["arm"] == "text" and event.time > 400)]
    assert report(lopsided, EXPERIMENT).verdict.startswith("Do not use this test: its arms do not hold their planned shares")


def test_several_arms_without_a_winner() -> None:
    third = Experiment(**{**EXPERIMENT.model_dump(), "arms": [{**RAW.model_dump(), "weight": 0.4}, *(
        {**TEXT.model_dump(), "name": name, "weight": 0.3} for name in ("a", "b")
    )], "guardrails": ()})  # fmt: skip
    events = [exposure(f"{arm}{i}", arm, float(i)) for i in range(5) for arm in ("raw", "a", "b")]
    events += [outcome(f"{arm}{i}", arm, 10.0 + i, float(i % 2)) for i in range(5) for arm in ("raw", "a")]
    found = report(sorted(events, key=lambda event: (event.time, event.id)), third)
    assert found.verdict == "On resolved, no arm is shown to be better than raw: a +0.00 points (undecided), b without outcomes (invalid)."


def test_a_guardrail_breaks_once_it_is_sure() -> None:
    watch = GuardrailWatch(EXPERIMENT)
    assert [(one.metric, one.arm, one.low, one.breached) for one in watch.reports()] == [
        ("fallback", "text", None, False), ("errors", "text", None, False),
    ]  # fmt: skip
    watch.add(two_arms(10, {"raw": 0, "text": 0}, degraded={"text": 3}))
    assert watch.breaches() == []
    watch.add(
        exposure(f"{arm}-{i}", arm, 1e3 + i, degraded="timeout" if arm == "text" else None) for i in range(40) for arm in ("raw", "text")
    )
    (stop,) = watch.breaches()
    assert (stop.arm, stop.metric, stop.margin, stop.excess) == ("text", "fallback", 0.1, 0.86)
    assert 0.1 < stop.low < 0.86


def test_a_guardrail_takes_planned_shares_that_fit_the_log() -> None:
    log = read_rows(row for event in two_arms(30, {"raw": 0, "text": 0}) for row in guardrail_rows(event, EXPERIMENT))
    shares = {"raw": 0.5, "text": 0.5}
    asked = {"control": "raw", "margin": 0.1}
    assert check_guardrail(log, "fallback", "text", weights=shares, **asked) == check_guardrail(log, "fallback", "text", **asked)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights leave out 'text'"):
        check_guardrail(log, "fallback", "text", weights={"raw": 1.0}, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "value", "refused"),
    [
        (Metric(name="m", kind="binary"), 1.0, False),
        (Metric(name="m", kind="binary"), 0.5, True),
        (Metric(name="m", kind="bounded", low=0, high=0.5), 0.5, False),
        (Metric(name="m", kind="bounded", low=-1, high=0), 0.1, True),
        (Metric(name="m", low=0), 1e15, False),
        (Metric(name="m", low=0), -0.1, True),
        (Metric(name="m"), -1e15, False),
    ],
)
def test_values_of_a_metric(metric: Metric, value: float, refused: bool) -> None:
    assert (metric.refusal(value) is not None) == refused


def test_which_metrics_take_outcomes() -> None:
    assert EXPERIMENT.reported_names() == ["resolved", "seconds", "errors"]
    assert [EXPERIMENT.reported_metric(name) is not None for name in ("resolved", "seconds", "errors", "fallback", "other")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    with pytest.raises(ValidationError, match="twice"):
        Experiment(**{**EXPERIMENT.model_dump(), "metrics": ["resolved"]})


def fields(found: OnlineReport, **changes: Any) -> OnlineReport:
    return found.model_copy(update=changes)


def test_the_page_holds_the_verdict_and_escapes_names() -> None:
    found = report(two_arms(150, {"raw": 60, "text": 120}), EXPERIMENT)
    html = page(found)
    assert page(found) == html
    assert found.verdict in html
    assert "<script" not in html
    assert not re.search(r'(?:src|href)="', html)
    hostile = page(fields(found, hypothesis="<img src=x onerror=alert(1)>", verdict="a < b & c"))
    assert "<img" not in hostile
    assert "a &lt; b &amp; c" in hostile


def test_a_plot_shows_no_difference_in_its_middle() -> None:
    found = report(two_arms(150, {"raw": 60, "text": 120}), EXPERIMENT)
    bar = bars(found, "resolved")["text"]
    one = found.metrics["resolved"].vs_control["text"]
    assert one.low is not None and one.high is not None and one.difference is not None
    assert bar.high == 390.0
    assert bar.low == round(200 + 190 * one.low / one.high, 2)
    assert bar.middle == round(200 + 190 * one.difference / one.high, 2)


def test_the_path_is_what_each_look_would_have_shown() -> None:
    """Every point equals the report of the log as it was then; the last one is the report's own."""
    events = two_arms(150, {"raw": 60, "text": 120})
    found = report(events, EXPERIMENT)
    path = found.paths["text"]
    assert len(path) == LOOKS == 40 and [look.units for look in path] == sorted(look.units for look in path)
    for look in (path[3], path[20], path[39]):
        then = report([event for event in events if event.time <= look.time], EXPERIMENT).metrics["resolved"]
        one = then.vs_control["text"]
        assert (look.difference, look.low, look.high) == (one.difference, one.low, one.high)
        assert look.units == sum(arm.units for arm in then.arms.values())
    assert path[-1].high == found.metrics["resolved"].vs_control["text"].high


def test_the_path_leaves_out_looks_at_which_an_arm_had_no_outcome() -> None:
    late = [exposure("a", "raw", 0.0), outcome("a", "raw", 1.0, 1.0), exposure("b", "text", 2.0), outcome("b", "text", 90.0, 0.0)]
    assert [look.time for look in report(late, EXPERIMENT).paths["text"]] == [90.0]
    assert report(late[:3], EXPERIMENT).paths == {"text": ()}


def test_the_page_plots_the_sequence_with_its_scale() -> None:
    drawn = page(report(two_arms(150, {"raw": 60, "text": 120}), EXPERIMENT))
    assert 'aria-label="text minus raw on resolved, and its interval, as the test went on"' in drawn
    assert "text − raw, points" in drawn and "units with an outcome" in drawn and "1970-01-01 00:09 UTC" in drawn
    points = re.search(r'<polygon points="([^"]+)" class="band"', drawn)
    assert points is not None and len(points[1].split()) == 2 * LOOKS
    assert 'class="band"' not in page(report(two_arms(1, {"raw": 1, "text": 1}), EXPERIMENT)), "one look is no path"


@pytest.mark.slow
@pytest.mark.chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_a_real_browser_shows_the_page_within_its_width(tmp_path: Path, width: int) -> None:
    """Plots have a size, tables scroll inside of the page, and nothing is written to the console."""
    probe = (
        "<script>const box = e => e.getBoundingClientRect();"
        "document.title = [document.documentElement.scrollWidth <= window.innerWidth, box(document.getElementById('verdict')).height > 20,"
        " [...document.querySelectorAll('svg')].every(e => box(e).width > 100 && e.getAttribute('aria-label'))].join()</script>"
    )
    path = tmp_path / "report.html"
    path.write_text(page(report(two_arms(150, {"raw": 60, "text": 120}), EXPERIMENT)).replace("</body>", probe + "</body>"))
    frame = tmp_path / "frame.html"  # the window itself cannot be narrower than 500 px
    frame.write_text(f"<iframe src='report.html' style='width:{width}px;height:900px;border:0' id=f></iframe>")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    script = "<script>onload = () => document.title = document.getElementById('f').contentDocument.title</script>"
    frame.write_text(frame.read_text() + script)
    command = [str(need("chromium")), *flags, "--enable-logging=stderr", "--window-size=1400,1000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>true,true,true</title>" in done.stdout
    assert "CONSOLE" not in done.stderr
