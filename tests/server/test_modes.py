"""Modes on a running service: switched live and on every replica, a canary that climbs and one that is rolled back, a holdback that raises
its alarm, a student or a teacher that changes under it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.modes import ModeSetting
from server.students import ServedStudent
from tests.redis_server import RedisServer, running_redis
from tests.server.fakes import FakePolicy, FakeTeacher, fail
from tests.server.online import online, told
from tests.server.test_access import Make, bearer, file, make, served
from tests.server.test_instruct import assert_error
from tests.student_clients.conftest import chat
from tests.student_clients.faulty_server import faulty_server, reply

__all__ = ["file", "make"]


def until(condition: Callable[[], bool], what: str = "") -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def switch(client: TestClient, mode: str, key: str = "default", **fields: Any) -> dict[str, Any]:
    got = client.put(f"/modes/{key}", json={"mode": mode, **fields})
    assert got.status_code == 200, got.text
    found: dict[str, Any] = got.json()
    return found


def mode_of(client: TestClient, key: str = "default") -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/modes/{key}").json()
    return found


def plain(client: TestClient, unit: str) -> dict[str, Any]:
    got = client.post("/instruct", json={"query": "2+2?", "unit": unit})
    assert got.status_code == 200
    reply: dict[str, Any] = got.json()
    return reply


def many(client: TestClient, units: range) -> list[dict[str, Any]]:
    """The replies to a unit each."""
    found: list[dict[str, Any]] = []
    for at in range(units.start, units.stop, 50):
        items = [{"query": "2+2?", "unit": f"u{i}"} for i in range(at, min(at + 50, units.stop))]
        found += client.post("/instruct/batch", json={"items": items}).json()["items"]
    return found


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with online(tmp_path) as client:
        yield client


def test_a_key_is_switched_live(client: TestClient) -> None:
    assert (mode_of(client)["mode"], mode_of(client)["reason"]) == ("on", "nobody set it")
    assert plain(client, "u")["source"] == "teacher"
    switch(client, "off")
    reply = plain(client, "u")
    assert (reply["source"], reply["degraded"], reply["messages"]) == ("passthrough", "mode_off", [{"role": "user", "content": "2+2?"}])
    switch(client, "shadow")
    reply = plain(client, "u")
    assert (reply["source"], reply["degraded"], reply["instruction"]) == ("passthrough", "mode_shadow", "")
    until(lambda: bool(client.get("/modes/default/shadow").text))
    (line,) = [json.loads(line) for line in client.get("/modes/default/shadow").text.splitlines()]
    assert (line["request_id"], line["instruction"], line["teacher"]) == (reply["request_id"], "Think about 2+2?", "ab" * 32)
    assert "query" not in line
    on = switch(client, "on", holdback=0.25)
    assert on["instructed_share"] == 0.75
    arms = [given["experiment"]["arm"] for given in many(client, range(400))]
    assert 60 < arms.count("raw") < 140  # 100 ± 4.6 standard deviations
    assert {plain(client, f"u{i}")["experiment"]["arm"] for i in range(20) if arms[i] == "raw"} == {"raw"}
    canary = switch(client, "canary", steps=[0.05, 0.5])
    assert canary["instructed_share"] == 0.05
    replies = many(client, range(400))
    assert 3 < sum(reply["source"] == "teacher" for reply in replies) < 42
    assert {reply["degraded"] for reply in replies if reply["experiment"] is None} == {"canary"}
    assert client.get(f"/experiments/{on['experiment']}").json()["stop_reason"] == "mode: by hand"
    assert [one["mode"] for one in client.get("/modes").json()["modes"]] == ["canary"]


def test_a_mode_outlives_the_service(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        before = switch(client, "on", holdback=0.5)
        arms = {f"u{i}": plain(client, f"u{i}")["experiment"]["arm"] for i in range(20)}
    with online(tmp_path) as client:
        assert mode_of(client) == before
        assert {unit: plain(client, unit)["experiment"]["arm"] for unit in arms} == arms


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"mode": "of"}, "mode: input should be 'off', 'shadow', 'canary' or 'on'"),
        ({"mode": "canary", "steps": [0.1, 0.6]}, "steps: must grow"),
        ({"mode": "on", "holdback": 0}, "holdback: input should be greater than 0"),
        ({"mode": "on", "metric": {"name": "latency_ms"}}, "'latency_ms' is measured by the service"),
        ({"mode": "on", "hold": 0.1}, "hold: no such field"),
    ],
)
def test_a_bad_setting_changes_nothing(client: TestClient, body: dict[str, Any], message: str) -> None:
    switch(client, "off")
    assert_error(client.put("/modes/default", json=body), 422, "invalid_field", message)
    assert mode_of(client)["mode"] == "off"
    assert_error(client.put("/modes/other", json={"mode": "off"}), 404, "not_found", "/modes/default")


def test_only_an_admin_of_the_tenant_switches_a_key(file: Path, make: Make, tmp_path: Path) -> None:
    mine, theirs = make(tenant="a"), make(tenant="b")
    admin = make(tenant="a", scopes=("admin",))
    ids = [key.split("_")[1] for key in (mine, theirs)]
    with served(file, event_log=str(tmp_path / "events.db")) as client:

        def put(key: str, by: str) -> int:
            return client.put(f"/modes/{key}", json={"mode": "off"}, headers=bearer(by)).status_code

        assert [put(ids[0], mine), put(ids[1], admin), put("0" * 12 + "f", admin), put(ids[0], admin)] == [403, 404, 404, 200]
        sources = [client.post("/instruct", json={"query": "q"}, headers=bearer(key)).json()["source"] for key in (mine, theirs)]
        assert sources == ["passthrough", "teacher"]


@pytest.mark.redis
def test_every_replica_follows_within_a_second(tmp_path: Path) -> None:
    servers = running_redis("--appendonly", "yes")
    redis: RedisServer = next(servers)
    with online(tmp_path / "a", store=redis.url) as a, online(tmp_path / "b", store=redis.url) as b:
        took = []
        for mode in ("off", "shadow", "on") * 2:
            switch(a, mode)
            began = time.monotonic()
            until(lambda mode=mode: mode_of(b)["mode"] == mode)  # type: ignore[misc]
            took.append(time.monotonic() - began)
        assert sorted(took)[2] < 1.0, took  # of a loaded machine the better half
        assert mode_of(a) == mode_of(b)
        switch(b, "off")
        until(lambda: plain(a, "u")["degraded"] == "mode_off")
    servers.close()  # type: ignore[attr-defined]


def test_a_canary_is_rolled_back_by_its_guardrail(tmp_path: Path) -> None:
    with online(tmp_path, policy=FakePolicy(fail(RuntimeError())), guardrail_period_s=0.1) as client:
        canary = switch(client, "canary", steps=[0.5], guardrails=[{"metric": "fallback", "margin": 0.05}])
        many(client, range(200))
        until(lambda: mode_of(client)["mode"] == "off", "the canary was not rolled back")
        found = mode_of(client)
        assert found["reason"].startswith("rolled back from canary: instructed was stopped by its guardrail: on fallback")
        assert client.get(f"/experiments/{canary['experiment']}").json()["stopped_arms"].keys() == {"instructed"}
        assert plain(client, "u")["degraded"] == "mode_off"


def test_a_canary_climbs_and_is_switched_on(tmp_path: Path) -> None:
    with online(tmp_path, guardrail_period_s=0.05) as client:
        switch(client, "canary", steps=[0.1, 0.5], step_s=0, step_units=20, holdback=0.1)
        shares = [mode_of(client)["instructed_share"]]
        for i in range(2000):
            plain(client, f"u{i}")
            now = mode_of(client)
            if now["instructed_share"] != shares[-1]:
                shares.append(now["instructed_share"])
            if now["mode"] == "on":
                break
        assert shares == [0.1, 0.5, 0.9]
        assert mode_of(client)["reason"] == "the canary came through its last step of 50%"


def test_the_holdback_shows_a_benefit_and_raises_an_alarm_when_it_is_gone(tmp_path: Path) -> None:
    with online(tmp_path, guardrail_period_s=0.1) as client:
        switch(client, "on", holdback=0.5, planned_n=100, guardrails=[])

        def serve(instructed: float, begin: int, end: int) -> None:
            for i, given in enumerate(many(client, range(begin, end)), begin):
                arm = given["experiment"]["arm"]
                right = i % 10 < (10 * instructed if arm == "instructed" else 5)
                assert told(client, request_id=given["request_id"], metric="success", value=right).status_code == 200

        serve(1.0, 0, 150)
        until(lambda: bool(mode_of(client)["benefit"]), "the benefit was not seen")
        assert mode_of(client)["alarm"] is None
        serve(0.0, 150, 350)
        until(lambda: mode_of(client)["alarm"] is not None, "no alarm")
        assert mode_of(client)["alarm"].startswith("instructions are no more surely worth anything: -")
        assert switch(client, "on")["alarm"] is None  # a new epoch


def test_another_version_of_the_student_re_opens_the_question(tmp_path: Path) -> None:
    with faulty_server() as upstream:
        upstream.script = [reply(200, {**chat("4"), "model": "m-2026-01", "system_fingerprint": "fp1"})]
        with online(tmp_path, students={"m": ServedStudent(base_url=upstream.url)}) as client:
            first = switch(client, "on")

            def ask() -> None:
                body = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
                assert client.post("/v1/chat/completions", json=body).status_code == 200

            for _ in range(5):
                ask()
            assert mode_of(client)["experiment"] == first["experiment"]
            upstream.script = [reply(200, {**chat("4"), "model": "m-2026-01", "system_fingerprint": "fp2"})]
            ask()
            until(lambda: mode_of(client)["experiment"] != first["experiment"], "not re-opened")
            second = mode_of(client)
            assert second["reason"] == "student m answers as m-2026-01 fp2 now"
            assert (second["mode"], second["benefit"], second["alarm"]) == ("on", False, None)
            upstream.script = [reply(200, {**chat("4"), "model": "m-2026-01", "system_fingerprint": "fp1"})]
            ask()  # a version that is known: replicas of a provider take turns
            assert mode_of(client)["experiment"] == second["experiment"]


def test_another_teacher_re_opens_the_question(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        first = switch(client, "on")
    with online(tmp_path, guardrail_period_s=0.05) as client:
        teachers: Any = client.app.state.teachers  # type: ignore[attr-defined]
        from server.cache import InstructionCache
        from server.reload import make_desk
        from server.settings import ServerSettings

        desk = make_desk(ServerSettings(), FakeTeacher(FakePolicy(), sha256="cd" * 32), InstructionCache(most=0, ttl_s=1))
        teachers.replace("default", desk)
        until(lambda: mode_of(client)["experiment"] != first["experiment"], "not re-opened")
        assert mode_of(client)["reason"] == f"the teacher is {'cd' * 6} now"
        assert plain(client, "u")["experiment"]["id"] == mode_of(client)["experiment"]


def test_a_setting_makes_the_experiment_that_it_says() -> None:
    made = ModeSetting(mode="canary", steps=(0.01, 0.25)).experiment("mode-x-1", "ab" * 32)
    assert (made.enrolled, [arm.weight for arm in made.arms]) == (0.02, [0.5, 0.5])
    assert [arm.weight for arm in ModeSetting(mode="on").experiment("mode-x-1", "ab" * 32).arms] == [0.05, 0.95]
