"""What whoever runs the service sees of it: metrics, log lines, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from server.app import create_app
from server.metrics import MOST_ARMS, Metrics, route_of
from server.settings import ServerSettings
from server.students import ServedStudent
from tests.server.fakes import FakePolicy, FakeTeacher, fail
from tests.server.online import asked, created, online
from tests.server.test_command import ROOT, environment, post, running
from tests.student_clients.conftest import chat
from tests.student_clients.faulty_server import faulty_server, reply


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values in order of their names …) -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, *(sample.labels[name] for name in sorted(sample.labels))] = sample.value
    return found


def test_metrics_of_a_proxied_request(tmp_path: Path) -> None:
    with faulty_server() as upstream:
        upstream.script = [reply(200, chat("4"))]
        with online(tmp_path, students={"m": ServedStudent(base_url=upstream.url)}) as client:
            body = {"model": "m", "messages": [{"role": "user", "content": "secret"}]}
            for path in ("/v1/chat/completions", "/v1/chat/completions", "/nowhere/secret"):
                client.post(path, json=body)
            created(client)
            arm = asked(client, "secret-user")["experiment"]["arm"]
            got = client.get("/metrics")
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "secret" not in got.text
    found = samples(got.text)
    assert found["wst_requests_total", "/v1/chat/completions", "200"] == 2
    assert found["wst_requests_total", "other", "404"] == 1
    assert found["wst_overhead_seconds_count", "/v1/chat/completions"] == 2
    assert found["wst_student_seconds_count",] == 2
    assert found["wst_student_tokens_total", "completion", "m"] == 6
    assert found["wst_student_tokens_total", "prompt", "m"] == 14
    assert found["wst_arm_requests_total", arm, "e1", ""] == 1
    assert found["wst_draining",] == 0
    total = found["wst_overhead_seconds_sum", "/v1/chat/completions"]
    assert 0 < total < 2


def test_overhead_leaves_out_the_teacher_and_the_student() -> None:
    async def slow(examples: Any) -> Any:
        import asyncio

        await asyncio.sleep(0.3)
        return await FakePolicy().instruct(examples)

    class Slow:
        instruct = staticmethod(slow)

    with TestClient(create_app(ServerSettings(cache_entries=0), FakeTeacher(Slow()))) as client:
        for _ in range(3):
            assert client.post("/instruct", json={"query": "q"}).json()["source"] == "teacher"
        found = samples(client.get("/metrics").text)
    assert found["wst_teacher_seconds_sum",] > 0.9
    assert found["wst_overhead_seconds_count", "/instruct"] == 3
    assert found["wst_overhead_seconds_sum", "/instruct"] < 0.5


def test_reasons_and_cache_are_counted() -> None:
    with TestClient(create_app(ServerSettings(), FakeTeacher(FakePolicy(fail(RuntimeError()))))) as client:
        client.post("/instruct", json={"query": "q"})
        found = samples(client.get("/metrics").text)
    assert (found["wst_degraded_total", "teacher_failed"], found["wst_instructions_total", "passthrough"]) == (1, 1)
    assert (found["wst_cache_misses_total",], found["wst_teacher_queued",]) == (1, 0)


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for i in range(3 * MOST_ARMS):
        metrics.instructed("teacher", None, 0.1, ("t", f"e{i}", "a"))
        metrics.request(f"/p{i}", 404, 0.1, None)
    found = samples(metrics.text().decode())
    assert found["wst_arm_requests_total", "other", "other", "other"] == 2 * MOST_ARMS
    assert len([name for name in found if name[0] == "wst_arm_requests_total"]) == MOST_ARMS + 1
    assert found["wst_requests_total", "other", "404"] == 3 * MOST_ARMS
    assert [route_of(path) for path in ("/instruct", "/instruct/batch", "/instructor")] == ["/instruct", "/instruct/batch", "other"]


TWO_WORKERS = """
import os
from server.metrics import Metrics
now = lambda: [("wst_draining", "A flag.", 1.0), ("wst_teacher_queued", "A count.", 2.0), ("wst_cache_hits_total", "A counter.", 3.0)]
if child := os.fork():
    os.waitpid(child, 0)
    print(Metrics(now, shared=True).text().decode())
else:
    Metrics(now, shared=True).keep()
"""


def test_of_workers_counts_are_added_up_and_flags_are_not(tmp_path: Path) -> None:
    told = environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    printed = subprocess.run([sys.executable, "-c", TWO_WORKERS], cwd=ROOT, env=told, capture_output=True, text=True, check=True).stdout
    found = samples(printed)
    assert [found[name,] for name in ("wst_draining", "wst_teacher_queued", "wst_cache_hits_total")] == [1, 4, 6]


def test_json_lines_name_the_request_and_hold_no_body() -> None:
    # The folder is another program's, and one process needs none.
    with running(WST_LOG_FORMAT="json", PROMETHEUS_MULTIPROC_DIR="/nowhere") as (process, url):
        request = urllib.request.Request(f"{url}/instruct", b'{"query": "secret 2+2?"}')
        request.add_header("Content-Type", "application/json")
        request.add_header("X-Request-Id", "r-1")
        urllib.request.urlopen(request).read()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    lines = [json.loads(line) for line in stderr.splitlines() if not line.startswith("server: ")]
    (line,) = [line for line in lines if line.get("request_id") == "r-1"]
    assert line["message"].startswith("r-1 POST /instruct 200")
    assert [line[name] for name in ("level", "logger", "method", "path", "status")] == ["info", "wst.server", "POST", "/instruct", 200]
    assert (line["source"], line["degraded"]) == ("teacher", None)
    assert 0 <= line["overhead_ms"] <= line["ms"]
    assert "secret" not in stderr


def test_sigterm_takes_the_server_out_of_the_rota_before_it_stops_listening(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    policy = f"FileGatedPolicy(gate={str(gate)!r})"
    with running(policy, WST_DEADLINE_MS="20000", WST_DRAIN_DELAY_S="600", WST_LOG_LEVEL="warning") as (process, url):
        replies: list[Any] = []
        last = threading.Thread(target=lambda: replies.append(post(url, b'{"query": "last"}')))
        last.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + 30
        while _ready(url) != 503:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert post(url, b'{"query": "  "}')[0] == 422  # still served
        gate.touch()
        last.join()
        assert replies[0][1]["instruction"] == "Think about last"
        process.send_signal(signal.SIGTERM)  # again: now
        assert process.wait(30) == -signal.SIGTERM


def _ready(url: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/readyz") as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
