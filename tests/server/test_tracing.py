"""Spans as OpenTelemetry's own in-memory exporter sees them, around an unchanged service."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import server.__main__ as command
from exchange.command import run_command
from server.settings import read_settings
from tests.conftest import unused_port
from tests.redis_server import RedisServer
from tests.server.fakes import FakePolicy
from tests.server.online import asked, created, online
from tests.server.test_access import Make, bearer, file, make, served
from tests.server.test_proxy import _key, proxy, upstream
from tests.student_clients.faulty_server import FaultyServer, reply

__all__ = ["_key", "file", "make", "upstream"]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENDPOINT = "http://127.0.0.1:4318"
SECRET = "what is my secret 2+2?"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr("server.app.open_provider", lambda endpoint: provider)
    return kept


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def ask(address: str, **headers: str) -> httpx2.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": SECRET}]}
    return httpx2.post(f"{address}/v1/chat/completions", json=body, headers=headers, trust_env=False)


def about(spans: Sequence[ReadableSpan]) -> str:
    return " ".join(f"{span.name} {dict(span.attributes or {})} {[event.name for event in span.events]} {span.status}" for span in spans)


def test_a_proxied_request_is_one_trace_from_the_app_to_the_student(exporter: InMemorySpanExporter, upstream: FaultyServer) -> None:
    with proxy(upstream.url, FakePolicy(lambda example: "Add."), otel_endpoint=ENDPOINT) as address:
        assert ask(address, traceparent=f"00-{TRACE}-{PARENT}-01").status_code == 200
    spans = by_name(exporter)
    assert spans.keys() == {"POST /v1/chat/completions", "teacher", "student"}
    request = spans["POST /v1/chat/completions"]
    assert request.parent is not None and format(request.parent.span_id, "016x") == PARENT
    for span in spans.values():
        assert span.context is not None and format(span.context.trace_id, "032x") == TRACE
    for name in ("teacher", "student"):
        parent = spans[name].parent
        assert parent is not None and request.context is not None and parent.span_id == request.context.span_id
    student = spans["student"].context
    assert student is not None
    assert f"traceparent: 00-{TRACE}-{student.span_id:016x}-01" in upstream.heads[0].lower()
    attributes = dict(request.attributes or {})
    assert attributes["http.response.status_code"] == 200
    assert attributes["wst.source"] == "teacher"
    assert "secret" not in about(exporter.get_finished_spans())


def test_spans_tell_apart_the_methods_that_opentelemetry_knows(exporter: InMemorySpanExporter, upstream: FaultyServer) -> None:
    with proxy(upstream.url, FakePolicy(), otel_endpoint=ENDPOINT) as address:
        assert httpx2.request("PROPFIND", f"{address}/v1/models", trust_env=False).status_code == 405
        assert httpx2.get(f"{address}/v1/models", trust_env=False).status_code == 200
    spans = by_name(exporter)
    assert {name: (span.attributes or {})["http.request.method"] for name, span in spans.items()} == {
        "HTTP /v1/models": "_OTHER",
        "GET /v1/models": "GET",
    }


def test_failures_are_told_without_their_text(exporter: InMemorySpanExporter, upstream: FaultyServer) -> None:
    upstream.script = [reply(500, "secret")]

    def fails(example: Any) -> str:
        raise RuntimeError(example.query)

    with proxy(upstream.url, FakePolicy(fails), otel_endpoint=ENDPOINT) as address:
        assert ask(address).status_code == 500
    request = by_name(exporter)["POST /v1/chat/completions"]
    assert (request.attributes or {})["wst.degraded"] == "teacher_failed"
    assert not request.status.is_ok
    assert "secret" not in about(exporter.get_finished_spans())


def test_without_the_setting_a_traceparent_passes_by(upstream: FaultyServer) -> None:
    with proxy(upstream.url) as address:
        ask(address, traceparent=f"00-{TRACE}-{PARENT}-01")
    assert f"traceparent: 00-{TRACE}-{PARENT}-01" in upstream.heads[0].lower()


@pytest.mark.redis
def test_waits_for_the_store(exporter: InMemorySpanExporter, redis_server: RedisServer, file: Path, make: Make) -> None:
    key = make(requests_per_minute=100)
    with served(file, store=redis_server.url, otel_endpoint=ENDPOINT) as client:
        client.post("/instruct", json={"query": "no other test asks this"}, headers=bearer(key))
    assert {"store limits", "store cache", "teacher", "POST /instruct"} <= by_name(exporter).keys()


def test_the_wait_for_the_event_log(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    with online(tmp_path, otel_endpoint=ENDPOINT) as client:
        created(client)
        asked(client, "u")
    assert "store events" in by_name(exporter)


def test_a_collector_that_is_not_there_costs_nothing(upstream: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.tracing.FLUSH_S", 0.2)
    with proxy(upstream.url, otel_endpoint=f"http://127.0.0.1:{unused_port()}") as address:
        for _ in range(10):
            assert ask(address).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 5  # the end waits for it a moment


def test_the_sdk_is_asked_for_by_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setenv("WST_OTEL_ENDPOINT", ENDPOINT)
    assert run_command("server", lambda: command.main(["--check"])) == 2
    said = capsys.readouterr().err
    assert said == "server: WST_OTEL_ENDPOINT needs OpenTelemetry's SDK: pip install 'wst-teacher[otel]', or leave it out\n"


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://c:4317", "http://", "http://c/?a=b"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(Exception, match=r"^WST_OTEL_ENDPOINT.*must be the address of a collector"):
        read_settings({}, {"WST_OTEL_ENDPOINT": endpoint})
