"""One suite for memory, SQLite and Redis."""

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from store import LARGEST_AMOUNT, Store
from tests.store.conftest import Place, use

VALUES = {"text": b"4", "NUL": b"\0a\0", "empty": b"", "every byte": bytes(range(256)), "1 MB": b"\xff\0" * 500_000}
KEYS = ["plain", "", " a b\n", "ä/€:*?[", "x" * 1000, "it's; DROP TABLE entries"]


def test_values_come_back_as_they_went(store: Store) -> None:
    async def body(store: Store) -> None:
        for key, value in VALUES.items():
            assert await store.get(key) is None
            await store.put(key, value)
            assert await store.get(key) == value
        await store.put("text", b"5")
        assert await store.get("text") == b"5"
        assert await store.get("NUL") == VALUES["NUL"]

    use(store, body)


def test_keys_are_any_text(store: Store) -> None:
    async def body(store: Store) -> None:
        for i, key in enumerate(KEYS):
            await store.put(key, str(i).encode())
            await store.add(key, {key: i})
        assert await store.get_many(KEYS) == [str(i).encode() for i in range(len(KEYS))]
        assert [await store.totals(key) for key in KEYS] == [{key: i} for i, key in enumerate(KEYS)]

    use(store, body)


def test_many_are_given_in_order(store: Store) -> None:
    async def body(store: Store) -> None:
        for key in "abc":
            await store.put(key, key.encode())
        assert await store.get_many(["c", "missing", "a", "a", "b"]) == [b"c", None, b"a", b"a", b"b"]
        assert await store.get_many([]) == []
        assert await store.get_many([f"missing {i}" for i in range(2000)]) == [None] * 2000

    use(store, body)


def test_what_is_deleted_is_gone_and_nothing_else(store: Store) -> None:
    async def body(store: Store) -> None:
        await store.put("a", b"1")
        await store.put("b", b"2")
        await store.add("a", {"n": 1})
        await store.delete("a")
        await store.delete("never there")
        assert await store.get_many(["a", "b"]) == [None, b"2"]
        assert await store.totals("a") == {"n": 1}

    use(store, body)


def test_accounts_count_exactly(store: Store) -> None:
    async def body(store: Store) -> None:
        assert await store.totals("spent") == {}
        assert await store.add("spent", {"a": 3, "b": -1}) == {"a": 3, "b": -1}
        assert await store.add("spent", {"a": -5}) == {"a": -2, "b": -1}
        assert await store.add("spent", {}) == {"a": -2, "b": -1}
        assert await store.add("other", {"a": 1}) == {"a": 1}
        assert await store.totals("spent") == {"a": -2, "b": -1}

    use(store, body)


def test_a_limit_is_met_exactly_and_a_refusal_changes_nothing(store: Store) -> None:
    async def body(store: Store) -> None:
        assert await store.add("budget", {"a": 6, "b": 4}, limit=10) == {"a": 6, "b": 4}
        assert await store.add("budget", {"a": 1}, limit=10) is None
        assert await store.add("budget", {"new": 2, "b": -1}, limit=10) is None
        assert await store.totals("budget") == {"a": 6, "b": 4}
        assert await store.add("budget", {"new": 1, "b": -1}, limit=10) == {"a": 6, "b": 3, "new": 1}
        assert await store.add("budget", {"a": 5}) == {"a": 11, "b": 3, "new": 1}
        assert await store.add("budget", {}, limit=10) is None
        assert await store.add("nothing", {"a": 1}, limit=0) is None
        assert await store.totals("nothing") == {}

    use(store, body)


def test_large_numbers_are_exact_or_refused(store: Store) -> None:
    async def body(store: Store) -> None:
        assert await store.add("a", {"x": LARGEST_AMOUNT - 1}, limit=LARGEST_AMOUNT) == {"x": LARGEST_AMOUNT - 1}
        assert await store.add("a", {"x": 1}, limit=LARGEST_AMOUNT - 1) is None
        assert await store.add("a", {"y": 1}) == {"x": LARGEST_AMOUNT - 1, "y": 1}
        assert await store.add("a", {"x": -2}) == {"x": LARGEST_AMOUNT - 3, "y": 1}
        for changes in ({"x": 3}, {"y": -5}, {"z": LARGEST_AMOUNT}, {"x": LARGEST_AMOUNT, "z": -LARGEST_AMOUNT}):
            with pytest.raises(ValueError, match="a would come to more than 9007199254740991; nothing was added"):
                await store.add("a", changes)
        for changes, limit in (({"x": LARGEST_AMOUNT + 1}, None), ({"x": -(2**70)}, None), ({"x": 1}, 2**53)):
            with pytest.raises(ValueError, match="stores count up to"):
                await store.add("a", changes, limit=limit)
        assert await store.totals("a") == {"x": LARGEST_AMOUNT - 3, "y": 1}
        assert await store.add("b", {"x": -LARGEST_AMOUNT}, limit=-LARGEST_AMOUNT) == {"x": -LARGEST_AMOUNT}

    use(store, body)


def test_200_at_once_never_pass_the_limit(store: Store) -> None:
    async def body(store: Store) -> None:
        granted = await asyncio.gather(*(store.add("budget", {f"f{i % 3}": 7}, limit=1000) for i in range(200)))
        sums = [sum(fields.values()) for fields in granted if fields is not None]
        assert sorted(sums) == list(range(7, 1000, 7))
        assert sum((await store.totals("budget")).values()) == 994

    use(store, body)


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns after every microsecond."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("restless_threads")
def test_event_loops_on_several_threads_share_it(store: Store) -> None:
    granted: list[int] = []
    together = threading.Barrier(4)

    async def some(name: str) -> int:
        return sum([await store.add("budget", {name: 1}, limit=700) is not None for _ in range(20)])

    async def spend(name: str) -> None:
        await store.put(name, name.encode())
        together.wait()
        granted.append(sum(await asyncio.gather(*(some(name) for _ in range(10)))))
        assert await store.get(name) == name.encode()

    threads = [threading.Thread(target=lambda i=i: asyncio.run(spend(f"t{i}"))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 4
    assert sum(granted) == 700
    assert sum(asyncio.run(store.totals("budget")).values()) == 700
    asyncio.run(store.aclose())
    gc.collect()  # a connection that was left open would say so now


def test_a_store_that_was_closed_opens_again_and_has_kept_all(store: Store) -> None:
    async def body(store: Store) -> None:
        await store.put("a", b"1")
        await store.add("n", {"f": 1})
        await store.aclose()
        await store.aclose()
        assert await store.get("a") == b"1"
        assert await store.totals("n") == {"f": 1}

    use(store, body)


def test_a_check_leaves_nothing_behind(store: Store) -> None:
    async def body(store: Store) -> None:
        await store.check()
        await store.put("check", b"mine")
        await store.check()
        assert await store.get("check") == b"mine"

    use(store, body)


def test_two_stores_at_one_place_see_each_other(place: Place) -> None:
    async def body(store: Store) -> None:
        other = place.open()
        await other.put("a", b"1")
        assert await store.get("a") == b"1"
        await store.add("n", {"f": 1})
        assert await other.add("n", {"f": 1}) == {"f": 2}
        await other.aclose()

    use(place.open(), body)
