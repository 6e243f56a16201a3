"""Two replicas of the service that share a real Redis: one experiment, one log, one report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store import EventLog
from tests.redis_server import RedisServer, running_redis
from tests.server.online import asked, created, online, told
from tests.server.test_instruct import assert_error

pytestmark = pytest.mark.redis


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    yield from running_redis("--appendonly", "yes", "--appendfsync", "always")


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_replicas_serve_one_experiment(tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    with online(tmp_path / "a", store=redis.url) as a, online(tmp_path / "b", store=redis.url) as b:
        made = created(a)
        until(lambda: b.get("/experiments/e1").status_code == 200)
        assert b.get("/experiments/e1").json() == made
        for i in range(30):
            first, second = (a, b) if i % 2 else (b, a)
            reply = asked(first, f"u{i}")
            assert asked(second, f"u{i}")["experiment"] == reply["experiment"]
            # At once, at the replica that has not served it; and once more at the other.
            assert told(second, request_id=reply["request_id"], value=i % 3 == 0).json()["duplicate"] is False
            assert told(first, request_id=reply["request_id"], value=i % 3 == 0).json()["duplicate"] is True
            assert_error(told(first, request_id=reply["request_id"], value=i % 3 != 0), 409, "conflict")
        assert told(b, unit="u0", experiment="e1", value=1, idempotency_key="k").json()["duplicate"] is False
        assert_error(told(a, unit="u0", experiment="e1", value=0, idempotency_key="k"), 409, "conflict")
        until(lambda: len(a.get("/experiments/e1/log").text.splitlines()) == len(b.get("/experiments/e1/log").text.splitlines()) == 91)
        assert a.get("/experiments/e1/log").content == b.get("/experiments/e1/log").content
        assert a.get("/experiments/e1/report").content == b.get("/experiments/e1/report").content
        assert b.post("/experiments/e1/stop").json()["status"] == "stopped"
        until(lambda: a.get("/experiments/e1").json()["status"] == "stopped")
        assert asked(a, "late")["experiment"] is None
        report = a.get("/experiments/e1/report").content
    with online(tmp_path / "new", store=redis.url) as new:
        until(lambda: len(new.get("/experiments/e1/log").text.splitlines()) == 91)
        assert new.get("/experiments/e1/report").content == report


def test_redis_dies_and_nothing_else_does(tmp_path: Path, redis: RedisServer) -> None:
    with online(tmp_path, store=redis.url) as client:
        created(client)
        redis.kill()
        replies = [asked(client, f"u{i}") for i in range(10)]
        assert all(reply["experiment"] is not None for reply in replies)
        assert all(told(client, request_id=reply["request_id"], value=1).status_code == 200 for reply in replies)
        redis.start()

    async def pending() -> int:
        log = EventLog(tmp_path / "events.db", redis_url=redis.url, redis_timeout_s=10)
        try:
            await log.exchange()
            return await log.pending()
        finally:
            await log.aclose()

    assert asyncio.run(pending()) == 0


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loaded machine needs longer for is not what these tests are about."""

    def log(path: Path, redis_url: str | None) -> EventLog:
        return EventLog(path, redis_url=redis_url, redis_timeout_s=10)

    monkeypatch.setattr("server.experiments.EventLog", log)
