"""Rate limits: the same verdicts from Redis and from memory, and none forgotten among processes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import pytest

from store.limits import Limiter, MemoryLimiter, Quota, RedisLimiter
from store.redis import RedisStore
from tests.redis_server import RedisServer


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def make(request: pytest.FixtureRequest) -> Callable[[], Limiter]:
    if request.param == "memory":
        return MemoryLimiter
    server: RedisServer = request.getfixturevalue("redis_server")
    store = RedisStore(server.url, namespace=f"t{uuid.uuid4().hex}")
    return lambda: RedisLimiter(store)


def test_a_minutes_worth_at_once_and_then_what_flows_back(make: Callable[[], Limiter]) -> None:
    async def scenario() -> None:
        limiter, quota = make(), Quota(requests_per_minute=3)
        verdicts = [await limiter.take("a", quota, str(i)) for i in range(4)]
        assert [v.refused for v in verdicts] == [None, None, None, "requests"]
        assert [v.remaining for v in verdicts] == [2, 1, 0, 0]
        assert 19 < verdicts[3].retry_after_s <= 20
        assert 59 < verdicts[2].reset_s <= 60
        assert (await limiter.take("b", quota, "x")).refused is None  # another caller

    asyncio.run(scenario())


def test_a_limit_that_refuses_takes_nothing_from_the_others(make: Callable[[], Limiter]) -> None:
    async def scenario() -> None:
        limiter, quota = make(), Quota(requests_per_minute=600_000, tokens_per_minute=1000, concurrency=3)
        assert (await limiter.take("a", quota, "1", tokens=900)).remaining == 599_999
        refused = await limiter.take("a", quota, "2", tokens=200)
        assert (refused.refused, 5 < refused.retry_after_s <= 6) == ("tokens", True)
        assert (await limiter.take("a", quota, "3", tokens=50)).refused is None
        assert (await limiter.take("a", quota, "4", tokens=10)).refused is None  # lease 2 was not granted
        assert (await limiter.take("a", quota, "5", tokens=10)).refused == "concurrency"
        await limiter.give_back("a", quota, "1", tokens=-800)  # it took 100 and not 900
        assert (await limiter.take("a", quota, "6", tokens=800)).refused is None
        await limiter.give_back("a", quota, "6", tokens=500)
        assert 25 < (await limiter.take("a", quota, "7", tokens=10)).retry_after_s < 60

    asyncio.run(scenario())


def test_a_cost_above_the_whole_limit_is_served_when_the_bucket_is_full(make: Callable[[], Limiter]) -> None:
    async def scenario() -> None:
        limiter, quota = make(), Quota(tokens_per_minute=100)
        assert (await limiter.take("a", quota, "1", tokens=5000)).refused is None
        assert 59 < (await limiter.take("a", quota, "2", tokens=5000)).retry_after_s <= 60

    asyncio.run(scenario())


def test_no_limit_is_no_limit(make: Callable[[], Limiter]) -> None:
    async def scenario() -> None:
        limiter = make()
        verdicts = [await limiter.take("a", Quota(), str(i), tokens=10**9) for i in range(20)]
        assert {(v.refused, v.remaining) for v in verdicts} == {(None, -1)}
        await limiter.give_back("a", Quota(), "1", tokens=7)

    asyncio.run(scenario())


def test_time_gives_back() -> None:
    async def scenario() -> None:
        now = [0.0]
        limiter, quota = MemoryLimiter(lambda: now[0]), Quota(requests_per_minute=60, concurrency=100)
        taken = 0
        for second in range(120):
            now[0] = float(second)
            for i in range(5):
                taken += (await limiter.take("a", quota, f"{second}.{i}")).refused is None
            for i in range(5):
                await limiter.give_back("a", quota, f"{second}.{i}")
        assert taken == 60 + 119

    asyncio.run(scenario())


@pytest.mark.redis
def test_many_at_once_never_pass_the_limit(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        stores = [RedisStore(redis_server.url, namespace=f"t{id(redis_server)}") for _ in range(4)]
        quota = Quota(requests_per_minute=50, concurrency=40)
        taken = await asyncio.gather(*(RedisLimiter(stores[i % 4]).take("many", quota, str(i)) for i in range(200)))
        assert [v.refused for v in taken].count(None) == 40
        for store in stores:
            await store.aclose()

    asyncio.run(scenario())


@pytest.mark.redis
def test_a_callers_name_is_no_script(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        limiter = RedisLimiter(RedisStore(redis_server.url))
        for name in ("'] return 1 --", "\n\0", "{}", "ä" * 500, "*"):
            assert (await limiter.take(name, Quota(requests_per_minute=1), name)).refused is None
            assert (await limiter.take(name, Quota(requests_per_minute=1), name)).refused == "requests"

    asyncio.run(scenario())
