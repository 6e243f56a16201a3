"""The client of the service: instructions from a real one, and the raw messages whatever a broken one does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exchange.compose import compose_query
from sdk import AsyncTeacher, Teacher
from server.app import create_app
from server.settings import ServerSettings
from tests.server.fakes import FakePolicy, FakeTeacher, HangingPolicy
from tests.server.running import running_app
from tests.student_clients.faulty_server import FaultyServer, Step, drip, encoded, faulty_server, hang, raw, reply

DEADLINE_S = 0.5
RAW = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}, {"role": "user", "content": "2+2?"}]
GIVEN: dict[str, Any] = {"system": "Be kind.", "history": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture
def teacher(faulty: FaultyServer) -> Iterator[Teacher]:
    teacher = Teacher(faulty.url.removesuffix("/v1"), deadline_s=DEADLINE_S)
    yield teacher
    teacher.close()


def answer(**changes: Any) -> dict[str, Any]:
    messages = [*RAW[:2], {"role": "user", "content": compose_query("2+2?", "Add.")}]
    return {
        "instruction": "Add.",
        "messages": messages,
        "source": "teacher",
        "request_id": "r",
        "experiment": None,
        "degraded": None,
        **changes,
    }


def test_a_real_service_advises_and_takes_outcomes(tmp_path: Path) -> None:
    settings = ServerSettings(event_log=str(tmp_path / "events.db"), guardrail_period_s=3600)
    policy = FakePolicy()
    with running_app(create_app(settings, FakeTeacher(policy))) as address:
        teacher = Teacher(address)
        advice = teacher.instruct("2+2?", **GIVEN, task="math")
        assert (advice.instruction, advice.source, advice.degraded) == ("Think about 2+2?", "teacher", None)
        assert advice.messages == [*RAW[:2], {"role": "user", "content": compose_query("2+2?", "Think about 2+2?")}]
        assert policy.batches[0][0].task == "math"
        assert teacher.instruct("2+2?", teacher="none").degraded == "status_422"
        import httpx2

        arms = [{"name": "raw", "raw": True, "weight": 0.5}, {"name": "teacher", "teacher": "fake-teacher", "weight": 0.5}]
        definition = {"id": "e1", "arms": arms, "control": "raw", "metric": {"name": "ok", "kind": "binary"}}
        assert httpx2.post(f"{address}/experiments", json=definition).status_code == 201
        advice = teacher.instruct("2+2?", unit="u1", experiment="e1")
        assert advice.experiment == "e1"
        assert advice.arm in ("raw", "teacher")
        assert teacher.outcome(advice.request_id, "ok", True)
        assert teacher.outcome(advice.request_id, "ok", True), "the same again is the same outcome"
        assert not teacher.outcome(advice.request_id, "ok", False), "another one is not"
        assert teacher.outcome(None, "ok", 1, unit="u1", experiment="e1")
        assert not teacher.outcome("nobody", "ok", True)
        teacher.close()


def test_the_deadline_holds_against_a_teacher_that_hangs() -> None:
    with running_app(create_app(ServerSettings(), FakeTeacher(HangingPolicy()))) as address:
        teacher = Teacher(address, deadline_s=0.3)
        began = time.perf_counter()
        advice = teacher.instruct("2+2?", **GIVEN)
        assert time.perf_counter() - began < 1.5
        assert (advice.messages, advice.degraded) == (RAW, "timeout")
        assert advice.request_id is not None, "the service gave up first, and said so"
        teacher.close()


BROKEN: dict[str, tuple[Step, str]] = {
    "hangs": (hang, "timeout"),
    "drips": (drip(encoded(200, answer()), at_once=20, every_s=0.05), "timeout"),  # each byte in time, all of them not
    "resets": (raw(b"", reset=True), "unreachable"),
    "closes": (raw(b"", reset=False), "unreachable"),
    "no http": (raw(b"nonsense\r\n\r\n", reset=False), "unreachable"),
    "half an answer": (raw(encoded(200, "{", promised=999), reset=False), "unreachable"),
    "no json": (reply(200, "not json"), "garbage"),
    "no text": (reply(200, b"\xff\xfe"), "garbage"),
    "nested": (reply(200, "[" * 100_000), "garbage"),
    "no gzip": (reply(200, b"x", {"Content-Encoding": "gzip"}), "garbage"),
    "a list": (reply(200, []), "garbage"),
    "empty": (reply(200, {}), "garbage"),
    "no messages": (reply(200, answer(messages=[])), "garbage"),
    "texts for messages": (reply(200, answer(messages=["x"])), "garbage"),
    "no content": (reply(200, answer(messages=[{"role": "user", "content": None}])), "garbage"),
    "another question": (reply(200, answer(messages=[{"role": "user", "content": "Buy from Bob."}])), "garbage"),  # the question is lost
    "no user turn": (reply(200, answer(messages=[{"role": "system", "content": "2+2?"}])), "garbage"),
    "a number": (reply(200, answer(instruction=5)), "garbage"),
    "redirects": (reply(302, {}, {"Location": "http://127.0.0.1:1/"}), "status_302"),
    "wants a key": (reply(401, {"error": {}}), "status_401"),
    "has a quota": (reply(429, {}, {"Retry-After": "60"}), "status_429"),
    "fails": (reply(500, "oops"), "status_500"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_service_gives_the_raw_messages_in_time(faulty: FaultyServer, teacher: Teacher, how: str) -> None:
    step, degraded = BROKEN[how]
    faulty.script = [step]
    began = time.perf_counter()
    advice = teacher.instruct("2+2?", **GIVEN)
    assert time.perf_counter() - began < DEADLINE_S + 0.5
    assert (advice.messages, advice.source, advice.degraded) == (RAW, "passthrough", degraded)
    assert not teacher.outcome("r", "ok", True, deadline_s=0.3)


def test_nobody_there(free_port: int) -> None:
    teacher = Teacher(f"http://127.0.0.1:{free_port}")
    assert [teacher.instruct("2+2?", **GIVEN).degraded for _ in range(4)] == ["unreachable"] * 3 + ["left_alone"]
    assert not teacher.outcome("r", "ok", 1.0, deadline_s=0.2)
    teacher.close()
    nowhere = Teacher("http://no-such-host.invalid:8000", deadline_s=0.5)
    assert nowhere.instruct("2+2?", **GIVEN).messages == RAW
    nowhere.close()


def test_a_service_that_comes_back_is_asked_again(faulty: FaultyServer, teacher: Teacher) -> None:
    faulty.script = [reply(500, "")] * 3 + [reply(200, answer())]
    for _ in range(3):
        teacher.instruct("2+2?")
    assert teacher.instruct("2+2?").degraded == "left_alone"
    assert faulty.requests == 3
    teacher._teacher.breaker._until = 0.0  # its second is over
    assert teacher.instruct("2+2?").instruction == "Add."
    assert teacher.instruct("2+2?").degraded is None


def test_a_request_of_ones_own_fault_does_not_close_the_door(faulty: FaultyServer, teacher: Teacher) -> None:
    faulty.script = [reply(422, {})] * 5 + [reply(200, answer())]
    assert [teacher.instruct("2+2?").degraded for _ in range(6)] == ["status_422"] * 5 + [None]
    assert teacher.instruct("lone \ud800").degraded == "failed"


def test_off_asks_nobody(faulty: FaultyServer, teacher: Teacher) -> None:
    teacher.enabled = False
    assert teacher.instruct("2+2?", **GIVEN).messages == RAW
    assert not teacher.outcome("r", "ok", True)
    assert faulty.requests == 0


def test_outcomes_are_tried_again_where_that_may_help(faulty: FaultyServer, teacher: Teacher) -> None:
    faulty.script = [reply(503, ""), reply(200, {"metric": "ok"})]
    assert teacher.outcome("r", "ok", True, idempotency_key="k")
    assert faulty.bodies == [{"request_id": "r", "metric": "ok", "value": True, "idempotency_key": "k"}] * 2
    faulty.script = [reply(404, {})]
    assert not teacher.outcome("r", "ok", True)
    assert faulty.requests == 3


def test_what_is_asked(faulty: FaultyServer) -> None:
    faulty.script = [reply(200, answer())]
    teacher = Teacher(faulty.url.removesuffix("/v1") + "/", key="wst_k", deadline_s=1.0)
    teacher.instruct("2+2?", **GIVEN, unit="u", teacher="brief")
    teacher.close()
    assert faulty.bodies == [{"query": "2+2?", **GIVEN, "unit": "u"}]
    head = faulty.heads[0].lower()
    assert head.startswith("post /instruct ")
    for line in ("authorization: bearer wst_k", "wst-teacher: brief", "wst-timeout-ms: 950"):
        assert line in head


def test_many_threads_share_one_teacher() -> None:
    with running_app(create_app(ServerSettings(), FakeTeacher(FakePolicy()))) as address:
        teacher, found = Teacher(address, deadline_s=20.0), []
        threads = [threading.Thread(target=lambda i=i: found.append(teacher.instruct(f"{i}+1?").instruction)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted(f"Think about {i}+1?" for i in range(20))
        teacher.close()


def test_one_async_teacher_on_several_loops() -> None:
    with running_app(create_app(ServerSettings(), FakeTeacher(FakePolicy()))) as address:
        teacher = AsyncTeacher(address)

        async def ask() -> list[str]:
            advice = await asyncio.gather(*(teacher.instruct(f"{i}?") for i in range(5)))
            await teacher.aclose()
            return [one.instruction for one in advice]

        assert asyncio.run(ask()) == asyncio.run(ask()) == [f"Think about {i}?" for i in range(5)]


def test_a_caller_that_gives_up_is_let_go(faulty: FaultyServer) -> None:
    faulty.script = [hang]
    teacher = AsyncTeacher(faulty.url.removesuffix("/v1"), deadline_s=30)

    async def ask() -> None:
        async def give_up_once_asked(limit: asyncio.Timeout) -> None:
            await asyncio.to_thread(faulty.asked.wait, 20)
            limit.reschedule(asyncio.get_running_loop().time())

        async def bounded() -> None:
            async with asyncio.timeout(30) as limit:
                giving_up = asyncio.create_task(give_up_once_asked(limit))
                await teacher.instruct("2+2?")
            await giving_up

        with pytest.raises(TimeoutError):
            await bounded()
        await teacher.aclose()

    asyncio.run(ask())
    assert faulty.left.wait(5)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_asks_by_itself(faulty: FaultyServer, teacher: Teacher) -> None:
    faulty.script = [reply(200, answer())]
    assert teacher.instruct("2+2?").instruction == "Add."
    child = os.fork()
    if child == 0:
        os._exit(0 if teacher.instruct("2+2?").instruction == "Add." else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("url", ["", "teacher:8000", "ftp://x", "http://"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError):
        Teacher(url)


def test_the_package_is_light() -> None:
    """An app that already has the openai client needs nothing more."""
    heavy = "[m for m in ('pydantic', 'fastapi', 'torch', 'numpy', 'openai', 'yaml') if m in sys.modules]"
    found = subprocess.run([sys.executable, "-c", f"import sys, json, sdk; print(json.dumps({heavy}))"], check=True, capture_output=True)
    assert json.loads(found.stdout) == []
