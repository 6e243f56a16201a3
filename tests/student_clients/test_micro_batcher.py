"""What goes into one run, who shares, who is let down."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from student_clients.micro_batcher import ClosedError, MicroBatcher

Answers = Iterator[tuple[int, str | Exception]]


def shouting(runs: list[list[str]]) -> MicroBatcher[str, str]:
    """A batcher that notes its runs and answers in capitals, last first; "bad" fails and "boom" breaks the run."""

    def run(items: Sequence[str], wanted: Callable[[], bool]) -> Answers:
        runs.append(list(items))
        for i, item in reversed(list(enumerate(items))):
            if item == "boom":
                raise RuntimeError("boom")
            yield i, ValueError(item) if item == "bad" else item.upper()

    return MicroBatcher(run, thread_name="shouting")


async def ask(batcher: MicroBatcher[str, str], item: str, key: str | None = None) -> tuple[str, bool]:
    return await asyncio.wrap_future(batcher.submit(item, key))


def test_what_a_gather_starts_goes_into_one_run_however_late_it_comes_to_ask() -> None:
    runs: list[list[str]] = []
    batcher = shouting(runs)

    async def later(item: str, turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return (await ask(batcher, item))[0]

    async def body() -> list[str]:
        return await asyncio.gather(*(later(item, turns) for turns, item in enumerate("abc")))

    assert asyncio.run(body()) == ["A", "B", "C"]
    assert runs == [["a", "b", "c"]]
    asyncio.run(batcher.aclose())


def test_equal_keys_share() -> None:
    runs: list[list[str]] = []
    batcher = shouting(runs)

    async def body() -> list[tuple[str, bool]]:
        return await asyncio.gather(*(ask(batcher, "a", key) for key in ("k", "k", None, None)))

    assert asyncio.run(body()) == [("A", False), ("A", True), ("A", False), ("A", False)]
    assert runs == [["a", "a", "a"]]
    asyncio.run(batcher.aclose())


def test_one_that_fails_leaves_the_others_and_a_broken_run_reaches_all_that_wait() -> None:
    batcher = shouting([])

    async def body(*items: str) -> list[object]:
        return list(await asyncio.gather(*(ask(batcher, item) for item in items), return_exceptions=True))

    fine, bad = asyncio.run(body("a", "bad"))
    assert fine == ("A", False)
    assert isinstance(bad, ValueError)
    first, boom, last = asyncio.run(body("a", "boom", "b"))
    assert last == ("B", False)
    assert isinstance(first, RuntimeError)
    assert isinstance(boom, RuntimeError)
    asyncio.run(batcher.aclose())


def test_a_waiter_that_is_cancelled_leaves_its_sharers() -> None:
    batcher = shouting([])

    async def body() -> tuple[str, bool]:
        gone = asyncio.create_task(ask(batcher, "a", "k"))
        stays = asyncio.create_task(ask(batcher, "a", "k"))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(body())[0] == "A"
    asyncio.run(batcher.aclose())


def test_a_loop_that_ends_before_its_run_starts_does_not_hold_up_the_next() -> None:
    runs: list[list[str]] = []
    batcher = shouting(runs)

    async def abandon() -> None:
        batcher.submit("a", "k").cancel()

    asyncio.run(abandon())
    assert asyncio.run(ask(batcher, "b")) == ("B", False)
    assert asyncio.run(ask(batcher, "a", "k")) == ("A", False)
    assert runs == [["b"], ["a"]]
    asyncio.run(batcher.aclose())


def test_a_run_learns_that_nobody_waits_any_more() -> None:
    started, cancelled, seen = threading.Event(), threading.Event(), []

    def run(items: Sequence[str], wanted: Callable[[], bool]) -> Answers:
        seen.append(wanted())
        started.set()
        cancelled.wait()
        seen.append(wanted())
        yield 0, "late"

    batcher = MicroBatcher(run, thread_name="slow")

    async def body() -> None:
        task = asyncio.create_task(ask(batcher, "a"))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        await batcher.aclose()

    asyncio.run(body())
    assert seen == [True, False]


def test_closing_lets_down_those_in_the_queue() -> None:
    batcher = shouting([])

    async def body() -> None:
        future = batcher.submit("a")
        await batcher.aclose()
        with pytest.raises(ClosedError):
            future.result()
        with pytest.raises(ClosedError):
            batcher.submit("b")

    asyncio.run(body())
