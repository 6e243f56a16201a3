"""What is kept of users: only where a key says so, redacted, for its days, and gone from every file and replica when a unit is deleted."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from exchange.settings import SettingError
from server.app import create_app
from server.privacy import redaction
from server.settings import ServerSettings
from store import Event, EventLog
from tests.redis_server import RedisServer, running_redis
from tests.server.fakes import FakePolicy, FakeTeacher
from tests.server.online import asked, created, online, told
from tests.server.test_access import Make, bearer, file, make, served
from tests.server.test_modes import switch, until
from tests.server.test_replicas import patient

__all__ = ["file", "make"]

SECRET = "canary-7f3a"


def texts(path: Path, topic: str = "texts/t") -> list[dict[str, Any]]:
    import asyncio

    async def read() -> list[Event]:
        log = EventLog(path)
        try:
            return await log.read_all(topic)
        finally:
            await log.aclose()

    return [event.content for event in asyncio.run(read())]


def test_texts_are_kept_for_the_keys_that_agreed(file: Path, make: Make, tmp_path: Path) -> None:
    agreed, silent = make(capture_text=True), make()
    with served(file, event_log=str(tmp_path / "events.db")) as client:
        for key, query in ((agreed, "kept"), (silent, SECRET)):
            assert client.post("/instruct", json={"query": query}, headers=bearer(key)).status_code == 200
    assert [one["query"] for one in texts(tmp_path / "events.db")] == ["kept"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_redaction.py").write_text(
        f"def strike(text):\n    if 'bad' in text:\n        raise ValueError(text)\n    return text.replace({SECRET!r}, '[name]')\n"
        "def number(text):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_redaction", raising=False)
    return "own_redaction"


def test_texts_are_redacted_before_they_are_kept(tmp_path: Path, module: str, caplog: pytest.LogCaptureFixture) -> None:
    history = [{"role": "user", "content": f"I am {SECRET}"}]
    with online(tmp_path, capture_text=True, redact=f"{module}:strike") as client:
        client.post("/instruct", json={"query": f"O {SECRET}", "system": SECRET, "history": history})
        assert client.post("/instruct", json={"query": f"bad {SECRET}"}).status_code == 200
        switch(client, "shadow")
        client.post("/instruct", json={"query": SECRET})
        until(lambda: bool(client.get("/modes/default/shadow").text))
        assert json.loads(client.get("/modes/default/shadow").text)["instruction"] == "Think about [name]"
    kept = texts(tmp_path / "events.db", "texts/")[0]
    assert [kept[name] for name in ("query", "system", "instruction")] == ["O [name]", "[name]", "Think about O [name]"]
    assert kept["history"] == [{"role": "user", "content": "I am [name]"}]
    assert SECRET not in caplog.text
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("events.db*"))


@pytest.mark.parametrize("name", ["nowhere:f", "own_redaction:none", "own_redaction", "own_redaction:number"])
def test_a_redaction_that_is_none_is_refused_at_the_start(module: str, name: str) -> None:
    with pytest.raises(SettingError, match=r"^redact="):
        create_app(ServerSettings(redact=name), FakeTeacher(FakePolicy()))
    assert redaction(None)("as it is") == "as it is"


def test_texts_go_after_their_days(tmp_path: Path) -> None:
    import asyncio

    async def write() -> None:
        log = EventLog(tmp_path / "events.db")
        old, new = time.time() - 31 * 86_400, time.time() - 29 * 86_400
        events = [
            Event(f"{topic}{at}", f"{topic}/t", "text", at, {"query": f"{SECRET} {i}"}, "u")
            for topic in ("texts", "shadow", "experiment")
            for i, at in enumerate((old, new))
        ]
        await log.append(events)
        await log.aclose()

    asyncio.run(write())
    with online(tmp_path, retention_days=30):
        until(lambda: len(texts(tmp_path / "events.db")) == 1 and len(texts(tmp_path / "events.db", "shadow/t")) == 1)
    assert texts(tmp_path / "events.db") == [{"query": f"{SECRET} 1"}]
    assert len(texts(tmp_path / "events.db", "experiment/t")) == 2


def test_a_deletion_touches_no_other_tenant(file: Path, make: Make, tmp_path: Path) -> None:
    keys = {tenant: make(tenant=tenant, capture_text=True, scopes=("admin",)) for tenant in ("a", "ab", "a/b", "b")}
    other = make()
    with served(file, event_log=str(tmp_path / "events.db")) as client:
        for key in keys.values():
            client.post("/instruct", json={"query": "q", "unit": "u"}, headers=bearer(key))
        assert client.delete("/units/u", headers=bearer(keys["a"])).json() == {"erased": 1}
        assert client.delete("/units/u", headers=bearer(other)).status_code == 403
    assert [len(texts(tmp_path / "events.db", f"texts/{tenant}")) for tenant in keys] == [0, 1, 1, 1]


@pytest.mark.redis
def test_a_deleted_unit_is_gone_from_every_replica_and_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    servers = running_redis("--appendonly", "yes", "--appendfsync", "always")
    redis: RedisServer = next(servers)
    settings: dict[str, Any] = {"store": redis.url, "capture_text": True}

    def lines(client: Any) -> list[str]:
        found: list[str] = client.get("/experiments/e1/log").text.splitlines()
        return found

    with online(tmp_path / "a", **settings) as a, online(tmp_path / "b", **settings) as b:
        created(a)
        for client, unit in ((a, SECRET), (a, "stays")):
            reply = asked(client, unit, query=f"I am {unit}")
            assert told(client, request_id=reply["request_id"], value=1).status_code == 200
            assert told(client, unit=unit, experiment="e1", value=1, idempotency_key=f"k-{len(unit)}").status_code == 200
        until(lambda: len(lines(b)) == 6)
        request_id = json.loads(lines(b)[0])["request_id"]
        assert b.delete(f"/units/{SECRET}").json() == {"erased": 4}  # a text, an exposure, two outcomes
        until(lambda: len(lines(a)) == 3 == len(lines(b)), "the other replica keeps it")
        assert SECRET not in a.get("/experiments/e1/log").text + b.get("/experiments/e1/log").text
        assert told(a, request_id=request_id, value=1).status_code == 404
        assert b.delete(f"/units/{SECRET}").json() == {"erased": 0}
        assert a.get("/experiments/e1/report").content == b.get("/experiments/e1/report").content
    assert SECRET.encode() not in _stream(redis.url)
    for name in ("a", "b"):
        assert SECRET.encode() not in b"".join(path.read_bytes() for path in (tmp_path / name).glob("events.db*")), name
    with online(tmp_path / "c", **settings) as fresh:  # what the stream tells a new replica
        until(lambda: fresh.get("/experiments/e1").status_code == 200 and len(lines(fresh)) == 3)
    servers.close()  # type: ignore[attr-defined]


def _stream(url: str) -> bytes:
    from redis import Redis

    with Redis.from_url(url) as client:
        found: Any = client.xrange("wst:{events}:stream")
        return b"".join(fields[b"event"] for _, fields in found)
