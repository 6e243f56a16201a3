"""The console in a real Chromium, in front of a server with keys, a real teacher and the lab's student: every flow, as a person goes it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from lab.serve import lab_server
from server.app import create_app
from server.keys import Key, change, new_secret
from server.settings import ServerSettings
from server.students import ServedStudent
from server.teachers import TeacherSource, load
from tests.browser import Page, chromium
from tests.server.running import running_app
from tests.server.test_reload import add_run, other_words

pytestmark = [pytest.mark.slow, pytest.mark.chromium]

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
SERIOUS = """axe.run().then(found => found.violations.filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => v.id + ": " + v.nodes.map(n => n.target + " " + n.failureSummary).join("; ")))"""
QUERY = "Ruth has 8 stamps but needs 47. How many stamps are missing?"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs with different teachers; the newer one evaluated."""
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    for name in ("20260101-000000-first", "20260102-000000-second"):
        add_run(tmp_path / "runs", name, other_words)
        (tmp_path / "runs" / name / "config.yaml").write_text("task: {name: lab_arithmetic}\nalgorithm: grpo\nseed: 0\n")
    run = tmp_path / "runs" / "20260102-000000-second"
    rows = [{"step": i, "right_rate": 0.3 + i / 20} for i in range(10)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    episode = {"example_id": "q", "error": None, "step": 9,
               "instruction": {"text": "<b>Count</b> on."}, "messages": [{"role": "user", "content": "2 + 2?"}],
               "completions": [{"text": "4"}], "scores": [{"value": 1.0}]}  # fmt: skip
    (run / "episodes.jsonl").write_text(json.dumps(episode) + "\n")
    (run / "report.json").write_text(json.dumps({"headline": "The teacher helps."}))
    (run / "report.html").write_text(
        "<!doctype html><html lang='en'><title>r</title><style>p { color: rgb(1, 2, 3) }</style><p>The report of the run.</p>"
    )
    return tmp_path / "runs"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with chromium(tmp_path / "profile") as browser:
        yield browser.page()


@pytest.fixture
def service(tmp_path: Path, runs: Path) -> Iterator[tuple[str, str]]:
    """(address, an admin's key)"""
    text, secret = new_secret("0" * 12)
    key = Key(tenant="t", secrets=(secret,), scopes=("admin",), created=datetime.now(UTC))
    change(tmp_path / "keys.json", lambda known: known.update({"0" * 12: key}))
    with lab_server("arithmetic", "student", seed=0) as student:
        price = {"input": 0.15, "output": 0.6, "as_of": "2026-11-20"}
        one = ServedStudent.model_validate({"base_url": student.url, "model": student.student.name, "price": price})
        settings = ServerSettings(
            keys=str(tmp_path / "keys.json"), teacher=str(runs / "20260101-000000-first"), deadline_ms=30_000, students={"lab": one}
        )
        teacher = load(TeacherSource(folder=settings.teacher), "default", batch_size=32, threads=1, timeout_s=30)
        with running_app(create_app(settings, teacher)) as url:
            yield url, text


def good(page: Page) -> None:
    """Nothing in the console, nothing serious by axe at a desk by day and on a phone by night, and nothing wider than the phone."""
    page.run(AXE)
    for width, dark in ((390, True), (1280, False)):
        page.look(width=width, dark=dark)
        assert page.run(SERIOUS) == [], (page.run("location.pathname"), width)
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), (page.run("location.pathname"), width)
    assert page.complaints == []


def traffic(url: str, key: str, experiment: str, units: int) -> None:
    """An app's users: the taught ones solve more."""
    rng = random.Random(0)
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        for i in range(units):
            body = {"query": f"Ruth has {i % 3 + 8} stamps but needs 47. How many are missing?", "unit": f"u{i}", "experiment": experiment}
            arm = client.post("/instruct", json=body).raise_for_status().json()["experiment"]["arm"]
            value = int(rng.random() < (0.1 if arm == "raw" else 0.95))
            told = {"unit": f"u{i}", "experiment": experiment, "metric": "resolved", "value": value}
            client.post("/outcomes", json=told).raise_for_status()


def test_every_flow_of_the_console(service: tuple[str, str], page: Page) -> None:
    url, key = service
    policy = httpx2.get(url + "/ui/login").headers["content-security-policy"]
    assert "unsafe" not in policy and policy.startswith("default-src 'none'")

    page.look(width=1280)
    page.open(url)  # no key: the log-in
    assert page.run("location.pathname") == "/ui/login"
    good(page)
    page.fill("#key", key)
    page.click("main button")
    page.until("location.pathname === '/' && document.querySelector('#query')")
    assert page.run("document.cookie") == ""

    # Playground, by keyboard: from the query the Tab key reaches the button.
    page.fill("#query", QUERY)
    page.run("document.querySelector('#query').focus()")
    for _ in range(6):
        page.press("Tab")
        if page.run("document.activeElement.textContent") == "Instruct":
            break
    page.press("Enter")
    page.until("document.querySelectorAll('.answer').length === 2")
    assert page.run("[...document.querySelectorAll('.answer')].map(e => e.textContent.includes('#### 39'))") == [True, False]
    assert page.run("document.querySelector('#instruction').textContent.length") > 10
    good(page)

    # Teachers: load the second run's, and back.
    page.open(url + "/ui/teachers")
    first = page.run("document.querySelector('dl code').textContent")
    page.run("document.querySelector('#run-1').value = '20260102-000000-second'")
    page.click("form[hx-post$='load'] button")
    page.until("document.querySelector('.message.done')?.textContent.includes('serves now')")
    assert page.run("document.querySelector('dl code').textContent") != first
    assert page.run("document.querySelector('#teachers').textContent.includes('The teacher helps.')")
    good(page)
    page.click("form[hx-post$='rollback'] button")
    page.until(f"document.querySelector('dl code').textContent === '{first}' && document.querySelector('.message.done')")

    # Experiment: from the form to the verdict, which comes to a page that stands open.
    page.open(url + "/ui/experiments")
    good(page)
    page.fill("#id", "advice-1")
    page.fill("#hypothesis", "<script>alert(1)</script>")
    page.fill("#planned_n", "100")
    page.click("form[hx-post='/ui/experiments'] > div > button")
    page.until("location.pathname === '/ui/experiments/advice-1' && document.querySelector('#live')")
    assert "No verdict yet" in page.run("document.querySelector('#live').textContent")
    app = threading.Thread(target=traffic, args=(url, key, "advice-1", 60))
    app.start()
    page.until("document.querySelector('#verdict')?.textContent.includes('is better than raw')")
    app.join()
    page.until("document.querySelector('svg .band')")
    good(page)
    page.click("form[hx-post$='ramp'] button")
    page.until("document.querySelector('#ramped').textContent.includes('100 %')")
    page.click("form[hx-post$='stop'] button")
    page.until("document.querySelector('#live .tag')?.textContent === 'stopped' && !document.querySelector('form[hx-post$=stop]')")

    # Traffic and modes.
    page.open(url + "/ui/traffic")
    page.fill("#mode-1", "off")
    page.click("form[hx-post*='modes'] button")
    page.until("document.querySelector('#modes .message.done')?.textContent.includes('is off now')")
    page.until("document.querySelectorAll('#now polyline').length > 0")
    assert page.run("document.querySelector('#now').textContent.includes('$0.0')")
    good(page)
    page.open(url)
    page.fill("#query", QUERY)
    page.click("main button")
    page.until("document.querySelector('#answer .error')?.textContent.includes('mode of this key is off')")
    page.until("document.querySelectorAll('.answer').length === 1")

    # Runs, and a report that is styled by its own sheet under a policy that lets in nothing else.
    page.open(url + "/ui/runs")
    good(page)
    page.click("td a")
    page.until("document.querySelector('h1')?.textContent === '20260102-000000-second'")
    page.run("document.querySelector('details').open = true")
    assert page.run("document.querySelector('svg .curve') !== null && document.body.textContent.includes('<b>Count</b> on.')")
    good(page)
    page.click("a[href$='report.html']")
    page.until("document.querySelector('p')?.textContent === 'The report of the run.'")
    assert page.run("getComputedStyle(document.querySelector('p')).color") == "rgb(1, 2, 3)"
    assert page.complaints == []

    # A poll that is refused, by whoever and in whatever shape, leaves the page as it is and says so, until one is answered.
    page.open(url + "/ui/traffic")
    for path, said in (("/v1/models", True), ("/ui/traffic/now", False)):
        page.run(f"htmx.ajax('GET', '{path}', {{target: '#now', swap: 'outerHTML'}}).then(() => {{ window.asked = '{path}' }})")
        page.until(f"window.asked === '{path}'")
        assert page.run("document.querySelectorAll('#now dl').length") == 1
        assert page.run("!document.querySelector('#offline').hidden") is said
