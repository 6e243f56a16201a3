"""Instructions that were written once: what makes a key, how long an entry lasts, and a store that fails."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.testclient import TestClient

from exchange.records import Instruction, Message, PublicExample
from server.app import create_app
from server.breaker import Breaker
from server.cache import InstructionCache, cache_key
from server.settings import ServerSettings
from store import MemoryStore, StoreError, open_store
from tests.redis_server import RedisServer
from tests.server.fakes import FakePolicy, FakeTeacher

ADD = Instruction(text="Add.", source="teacher", num_tokens=2)
EXAMPLE = PublicExample(id="1", task="t", split="served", query="q")


def test_a_key_is_all_that_an_instruction_depends_on() -> None:
    same = [EXAMPLE, EXAMPLE.model_copy(update={"id": "2"}), EXAMPLE.model_copy(update={"system": "s"})]
    assert len({cache_key(example, "sha", tenant="a") for example in same}) == 1
    changes = [{"query": "q "}, {"task": "u"}, {"history": (Message(role="user", content="h"),)}]
    others = [EXAMPLE.model_copy(update=change) for change in changes]
    keys = {cache_key(example, "sha", tenant="a") for example in (EXAMPLE, *others)}
    keys |= {cache_key(EXAMPLE, "other", tenant="a"), cache_key(EXAMPLE, "sha", tenant="b")}
    assert len(keys) == 6


class BrokenStore(MemoryStore):
    """Fails as long as `broken`; counts what it was asked."""

    broken = True
    asked = 0

    async def get(self, key: str) -> bytes | None:
        self.asked += 1
        if self.broken:
            raise StoreError("gone")
        return await super().get(key)


def test_entries_expire_and_the_oldest_makes_room() -> None:
    async def scenario() -> None:
        now = [0.0]
        cache = InstructionCache(most=2, ttl_s=10, clock=lambda: now[0])
        for key in "abc":
            cache.put(key, ADD)
        assert [await cache.get(key) for key in "abc"] == [None, ADD, ADD]
        now[0] = 11.1
        assert await cache.get("b") is None
        assert (cache.hits, cache.misses) == (2, 2)

    asyncio.run(scenario())


def test_replicas_share_a_store() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        one, other = (InstructionCache(most=9, ttl_s=10, store=store) for _ in range(2))
        one.put("a", ADD)
        await one.aclose()
        assert await other.get("a") == ADD
        for damaged in (b"", b"[]", b'["x", {}]', b"[1e99, {}]", json.dumps([0, ADD.model_dump()]).encode(), b"\xff"):
            await store.put("b", damaged)
            assert await other.get("b") is None

    asyncio.run(scenario())


def test_a_store_that_fails_is_a_miss_and_left_alone() -> None:
    async def scenario() -> None:
        now = [0.0]
        store = BrokenStore()
        cache = InstructionCache(most=9, ttl_s=10, store=store, breaker=Breaker(most_failures=3, wait_s=1, clock=lambda: now[0]))
        for _ in range(10):
            assert await cache.get("a") is None
        assert store.asked == 3
        now[0], store.broken = 2.0, False
        for _ in range(3):
            assert await cache.get("a") is None
        assert store.asked == 6

    asyncio.run(scenario())


@pytest.mark.redis
def test_over_http_with_redis(redis_server: RedisServer) -> None:
    policies = [FakePolicy(), FakePolicy()]
    settings = ServerSettings(store=redis_server.url)
    replies = []
    for policy in policies:  # two replicas, one after the other
        with TestClient(create_app(settings, FakeTeacher(policy))) as client:
            for query in ("over 2+2?", "over 2+2?", "another"):
                replies.append(client.post("/instruct", json={"query": query}).json())
    assert [reply["source"] for reply in replies] == ["teacher", "cache", "teacher", "cache", "cache", "cache"]
    assert [len(policy.batches) for policy in policies] == [2, 0]
    assert replies[0]["messages"] == replies[1]["messages"]

    async def lifetimes() -> list[int]:
        from redis.asyncio import Redis

        async with Redis.from_url(redis_server.url) as client:
            return [await client.ttl(key) async for key in client.scan_iter("wst:value:instruction:*")]

    assert all(3000 < seconds < 4000 for seconds in asyncio.run(lifetimes()))


def test_silence_and_failures() -> None:
    told: list[str] = []

    def say(example: PublicExample) -> str:
        told.append(example.query)
        if len(told) == 1:
            raise ValueError
        return "" if example.query == "quiet" else "user: hi"

    with TestClient(create_app(ServerSettings(), FakeTeacher(FakePolicy(say)))) as client:
        replies = [client.post("/instruct", json={"query": query}).json() for query in ("quiet", "quiet", "quiet", "bad", "bad")]
    assert [reply["source"] for reply in replies] == ["passthrough", "silence", "silence", "passthrough", "passthrough"]
    assert told == ["quiet", "quiet", "bad"]


def test_stores_take_a_lifetime() -> None:
    async def scenario() -> None:
        store = open_store("memory:")
        await store.put("a", b"1", expire_s=1)
        assert await store.get("a") == b"1"

    asyncio.run(scenario())
