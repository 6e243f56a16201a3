"""What a key may spend a day: never passed together, told to who asks for it, kept over restarts, and closed where it cannot be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from server.budgets import Budgets, Held
from server.keys import Caller
from server.students import ServedStudent
from store import MemoryStore, RedisStore, Store
from student_clients.budget import Price
from tests.redis_server import RedisServer
from tests.server.fakes import FakePolicy
from tests.server.test_access import Make, bearer, file, make, served
from tests.student_clients.conftest import chat
from tests.student_clients.faulty_server import faulty_server, raw, reply

__all__ = ["file", "make"]


@pytest.fixture(autouse=True)
def _own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path))


ASKED = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "q"}]}
PRICE = Price(input=0.0, output=1000.0, as_of=date(2026, 11, 1))
"""A tenth of a cent an answer token."""
USAGE = {"prompt_tokens": 7, "completion_tokens": 300, "total_tokens": 307}


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def open_one(request: pytest.FixtureRequest) -> Callable[[], Store]:
    if request.param == "memory":
        return MemoryStore
    server: RedisServer = request.getfixturevalue("redis_server")
    return lambda: RedisStore(server.url, namespace=f"b{id(request)}", timeout_s=10)


def test_a_budget_is_never_passed_by_those_who_spend_together(open_one: Callable[[], Store]) -> None:
    async def body() -> None:
        day = [datetime(2026, 11, 21, 23, 59, 30, tzinfo=UTC)]
        budgets = Budgets(open_one(), timeout_s=10, now=lambda: day[0])
        caller = Caller(id="k", dollars_per_day=1.0, tokens_per_day=1000)
        held = await asyncio.gather(*(budgets.reserve(caller, tokens=10, nano=300_000_000) for _ in range(10)))
        assert [one.refused for one in held if one].count(None) == 3
        assert {one.refused for one in held if one} == {None, "over_budget"}
        assert budgets.retry_after_s() == 30
        for one in [one for one in held if one and one.refused is None]:  # whichever came first
            budgets.settle(one, tokens=5, nano=100_000_000)  # they cost a third of what they might have
        await budgets.owed.aclose()
        again = [await budgets.reserve(caller, tokens=10, nano=300_000_000) for _ in range(3)]
        assert [one.refused for one in again if one] == [None, None, "over_budget"]
        assert (await budgets.store.totals("spent/k/2026-11-21/tokens"))["tokens"] == 3 * 5 + 2 * 10  # a refused one sets nothing aside
        day[0] = datetime(2026, 11, 22, tzinfo=UTC)
        fresh = await budgets.reserve(caller, tokens=10, nano=999_000_000)
        assert fresh == Held("k", "2026-11-22", 10, 999_000_000)
        assert await budgets.reserve(Caller(id="free"), tokens=10**9) is None
        await budgets.aclose()

    asyncio.run(body())


@pytest.mark.parametrize("on_failure", ["error", "passthrough"])
def test_dollars_by_the_students_price(file: Path, make: Make, on_failure: str) -> None:
    """0.3 dollars each, and a dollar may be set aside for each: of 1.5 dollars two fit whole and a third one may not begin."""
    key, policy = make(dollars_per_day=1.5, on_failure=on_failure), FakePolicy()
    with faulty_server() as upstream:
        upstream.script = [reply(200, {**chat("4"), "usage": USAGE})]
        students = {"m": ServedStudent(base_url=upstream.url, price=PRICE), "free": ServedStudent(base_url=upstream.url)}
        replies = []
        for _ in range(2):  # a server that starts again has forgotten nothing
            with served(file, policy, students=students) as client:
                replies += [client.post("/v1/chat/completions", json=ASKED, headers=bearer(key)) for _ in range(2)]
                unpriced = client.post("/v1/chat/completions", json={**ASKED, "model": "free"}, headers=bearer(key))
                assert (unpriced.status_code, "students.NAME.price" in unpriced.text) == (403, True)
    if on_failure == "error":
        assert [one.status_code for one in replies] == [200, 200, 429, 429]
        assert replies[2].json()["error"]["type"] == "quota"
        assert 1 <= int(replies[2].headers["retry-after"]) <= 86_400
        assert len(upstream.bodies) == 2
    else:
        assert [one.status_code for one in replies] == [200] * 4
        assert [one.headers.get("wst-degraded") for one in replies] == [None, None, "over_budget", "over_budget"]
        assert upstream.bodies[2:] == [ASKED, ASKED]


def test_what_was_not_billed_is_given_back(file: Path, make: Make) -> None:
    key = make(dollars_per_day=1.01, on_failure="error")
    with faulty_server() as upstream:
        upstream.script = [reply(400, {"error": {"message": "no"}})] * 4 + [
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", reset=True)
        ]
        with served(file, students={"m": ServedStudent(base_url=upstream.url, price=PRICE)}) as client:
            got = [client.post("/v1/chat/completions", json=ASKED, headers=bearer(key)).status_code for _ in range(4)]
    # Two refusals; then one breaks off in the middle, which may have been billed: what it had set aside stays.
    assert got == [400, 400, 502, 429]


def test_tokens_a_day_of_instructions(file: Path, make: Make) -> None:
    soft, hard = make(tokens_per_day=20), make(tokens_per_day=20, on_failure="error")
    policy = FakePolicy(lambda example: "Think about " + "y" * len(example.query))
    with served(file, policy, cache_entries=0) as client:

        def ask(key: str) -> Any:
            return client.post("/instruct", json={"query": "x" * 29}, headers=bearer(key))

        assert [ask(hard).status_code for _ in range(3)] == [200, 429, 429]
        got = [ask(soft) for _ in range(2)]
        assert [(one.json()["source"], one.headers.get("wst-degraded")) for one in got] == [
            ("teacher", None),
            ("passthrough", "over_budget"),
        ]
        assert got[1].json()["messages"] == [{"role": "user", "content": "x" * 29}]
        assert client.post("/instruct/batch", json={"items": [{"query": "q" * 40}]}, headers=bearer(hard)).status_code == 429
    assert len(policy.batches) == 2


def test_a_budget_that_cannot_be_asked_is_closed(file: Path, make: Make) -> None:
    soft, hard = make(tokens_per_day=10**6), make(tokens_per_day=10**6, on_failure="error")
    with served(file, store="redis://127.0.0.1:1/0") as client:  # nobody listens there
        got = client.post("/instruct", json={"query": "q"}, headers=bearer(soft))
        assert (got.json()["source"], got.headers["wst-degraded"]) == ("passthrough", "budget_unknown")
        assert client.post("/instruct", json={"query": "q"}, headers=bearer(hard)).status_code == 503
