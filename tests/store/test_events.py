"""The event log: acknowledged is durable, an id exists once, replicas agree, and a Redis that fails costs nobody an event."""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import signal
import sqlite3
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from store import Event, EventLog, StoreError
from store.event_file import ERASED, EventFile, sent
from store.events import PAGE, RETRY_S
from tests.redis_server import RedisServer, running_redis
from tests.store.conftest import WORKER
from tests.store.worker import event_of

Result = TypeVar("Result")


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that a test may kill; it keeps what it confirmed."""
    yield from running_redis("--appendonly", "yes", "--appendfsync", "always")


def run(body: Callable[[], Awaitable[Result]]) -> Result:
    async def main() -> Result:
        return await body()

    return asyncio.run(main())


def event(name: str, **content: object) -> Event:
    return Event(id=name, topic="t", kind="k", time=1.5, content=dict(content), subject="someone")


def names(log: EventLog) -> Awaitable[list[str]]:
    async def read() -> list[str]:
        return [event.id for event in await log.read_all("t")]

    return read()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 -- what is awaited happens in other processes
            await asyncio.sleep(0.01)


def test_what_was_appended_is_read_again_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.db"

    async def write() -> None:
        log = EventLog(path)
        assert await log.append([event("a", value=1), event("b", text="ü\ud800")]) == [event("a", value=1), event("b", text="ü\ud800")]
        await log.aclose()

    async def read() -> None:
        log = EventLog(path)
        assert await log.read_all("t") == [event("a", value=1), event("b", text="ü\ud800")]
        assert await log.read_all("other") == []
        assert await log.get("b") == event("b", text="ü\ud800")
        assert await log.get("c") is None
        assert await log.first("t", "someone", "k") == event("a", value=1)
        assert await log.first("t", "someone", "other") is await log.first("t", "nobody", "k") is None
        assert await log.pending() == 2
        await log.aclose()

    run(write)
    run(read)


def test_an_id_that_is_taken_gives_the_event_that_holds_it(tmp_path: Path) -> None:
    async def body() -> None:
        log = EventLog(tmp_path / "events.db")
        first, other = event("a", value=1), event("a", value=2)
        # At the same moment, in one call and one by one.
        assert list(await asyncio.gather(log.append([first]), log.append([other, other]))) == [[first], [first, first]]
        assert await log.append([other, event("b")]) == [first, event("b")]
        assert await log.read_all("t") == [first, event("b")]
        await log.aclose()

    run(body)


def test_of_a_thousand_claims_at_once_one_is_granted(tmp_path: Path) -> None:
    """Half from this process's log and half from another's on the same file."""

    async def body() -> None:
        logs = [EventLog(tmp_path / "events.db") for _ in range(2)]
        claims = [event("a", value=i) for i in range(1000)]
        granted = [stored for (stored,) in await asyncio.gather(*(logs[i % 2].append([claim]) for i, claim in enumerate(claims)))]
        assert len({stored.content["value"] for stored in granted}) == 1
        assert [stored is claim for stored, claim in zip(granted, claims)].count(True) == 1
        assert await logs[0].read_all("t") == [granted[0]]
        for log in logs:
            await log.aclose()

    run(body)


def test_reading_goes_by_time_and_then_by_id(tmp_path: Path) -> None:
    async def body() -> None:
        log = EventLog(tmp_path / "events.db")
        await log.append([Event(id=name, topic="t", kind="k", time=time) for name, time in (("c", 2.0), ("b", 1.0), ("a", 2.0))])
        assert await names(log) == ["b", "a", "c"]
        assert [(place, found.id) for place, found in await log.read("t")] == [(1, "c"), (2, "b"), (3, "a")]
        assert [found.id for _, found in await log.read("t", after=1, limit=1)] == ["b"]
        await log.aclose()

    run(body)


@pytest.mark.parametrize("bad", [event("a", value=math.nan), event("a", value=math.inf), event("\ud800")])
def test_an_event_that_is_no_json_is_refused_and_its_neighbours_are_not(tmp_path: Path, bad: Event) -> None:
    async def body() -> None:
        log = EventLog(tmp_path / "events.db")
        good, refused = await asyncio.gather(log.append([event("good")]), log.append([event("x"), bad]), return_exceptions=True)
        assert good == [event("good")]
        assert isinstance(refused, ValueError)
        assert await names(log) == ["good"]
        await log.aclose()

    run(body)


def test_a_file_that_cannot_be_written_is_one_line_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database, and longer than the header of one " * 10)
    (tmp_path / "folder").mkdir()

    async def body() -> None:
        for path in (tmp_path / "file", tmp_path / "folder", tmp_path / "file" / "below.db"):
            log = EventLog(path)
            for call in (log.check(), log.append([event("a")])):
                with pytest.raises(StoreError, match=r"set another path|set the path") as caught:
                    await call
                assert "\n" not in str(caught.value)
            await log.aclose()

    run(body)


def test_of_a_commit_the_new_ones_are_told_from_those_that_were_there(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "events.db")
    a, b, c, d = (event_of("e", i) for i in range(4))
    assert file.insert([b])[:2] == ([b], [b])
    assert file.insert([a, b, c]) == ([a, b, c], [a, c], 1)
    assert file.insert([d, replace(d, subject="another"), a])[:2] == ([d, d, a], [d])
    many = [event_of("m", i) for i in range(250)]
    assert file.insert([*many, many[7]])[:2] == ([*many, many[7]], many)


def test_a_torn_tail_loses_nothing_that_was_acknowledged_before_it(tmp_path: Path) -> None:
    """A write-ahead log cut anywhere, or with a damaged byte, gives the commits before that place and nothing after or between."""
    path = tmp_path / "events.db"
    file = EventFile(path)
    sizes = []
    for i in range(20):
        file.insert([event_of("e", 2 * i), event_of("e", 2 * i + 1)])
        sizes.append((tmp_path / "events.db-wal").stat().st_size)
    rng = random.Random(0)
    for trial in range(40):
        copy = tmp_path / str(trial)
        copy.mkdir()
        for name in ("events.db", "events.db-wal"):
            shutil.copy(tmp_path / name, copy)
        wal = copy / "events.db-wal"
        place = rng.randrange(sizes[2], sizes[-1])
        content = bytearray(wal.read_bytes())
        if trial % 2:
            content[place] ^= 0xFF
        else:
            del content[place:]
        wal.write_bytes(content)
        whole = sum(size <= place for size in sizes)
        found = [event.id for _, event in EventFile(copy / "events.db").read("topic", 0, 1000)]
        assert found == [f"e-{i}" for i in range(2 * whole)], (trial, place)
    file.close()


def acknowledged(output: str) -> list[str]:
    return output.splitlines()[1:]


def kill_and_collect(path: Path, redis_url: str, name: str, lines: int) -> list[str]:
    """Run a process that appends, kill it with SIGKILL after some acknowledgements, and give the ids it had printed."""
    with subprocess.Popen(
        [*WORKER, "log", str(path), redis_url, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("0\n")
        process.stdin.flush()
        printed = [process.stdout.readline().strip() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
    # The last line may be cut off by the kill.
    return printed + [line for line in rest.splitlines(keepends=True) if line.endswith("\n") and line.strip()]


def check_history(found: list[Event], printed: list[str], name: str) -> None:
    ids = [event.id for event in found]
    assert len(ids) == len(set(ids)), "doubled"
    assert not {line.strip() for line in printed} - set(ids), "lost"
    for one in found:
        assert one == event_of(name, int(one.id.rpartition("-")[2]))


def test_kill_9_loses_nothing_acknowledged_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    printed: list[str] = []
    for round_ in range(4):
        printed += kill_and_collect(path, "", "e", 50 + 30 * round_)

    async def read() -> list[Event]:
        log = EventLog(path)
        try:
            return await log.read_all("topic")
        finally:
            await log.aclose()

    found = run(read)
    assert len(found) > 100
    check_history(found, printed, "e")


@pytest.mark.redis
def test_kill_9_of_the_process_and_of_redis(tmp_path: Path, own_redis: RedisServer) -> None:
    """Three lives of a writer, Redis killed under the second; then the file and the stream, read by a new replica, hold it all once."""
    path = tmp_path / "events.db"
    printed = kill_and_collect(path, own_redis.url, "e", 60)
    own_redis.kill()
    printed += kill_and_collect(path, own_redis.url, "e", 60)
    own_redis.start()
    printed += kill_and_collect(path, own_redis.url, "e", 60)

    async def read() -> tuple[list[Event], list[Event]]:
        log, replica = (EventLog(at, redis_url=own_redis.url, redis_timeout_s=10) for at in (path, tmp_path / "replica.db"))
        await log.exchange()
        assert await log.pending() == 0
        while await replica.exchange():
            pass
        found = await log.read_all("topic"), await replica.read_all("topic")
        await log.aclose()
        await replica.aclose()
        return found

    here, there = run(read)
    assert here == there
    check_history(here, printed, "e")


def replicas(tmp_path: Path, server: RedisServer, count: int = 2) -> list[EventLog]:
    namespace = f"test-{uuid.uuid4().hex}"
    return [EventLog(tmp_path / f"{i}.db", redis_url=server.url, namespace=namespace, redis_timeout_s=10) for i in range(count)]


@pytest.mark.redis
def test_replicas_see_each_others_events_and_agree_on_an_id(tmp_path: Path, redis_server: RedisServer) -> None:
    async def body() -> None:
        a, b = replicas(tmp_path, redis_server)
        await a.append([event("one", value=1)])
        assert await b.append([event("one", value=2), event("two")]) == [event("one", value=1), event("two")]
        assert await b.get("one") == event("one", value=1)
        assert await a.get("two") == event("two")
        assert await b.append([Event(id="three", topic="t", kind="k", time=2.0, subject="she")]) == [await a.first("t", "she", "k")]
        assert await names(a) == await names(b) == ["one", "two", "three"]
        assert await a.pending() == await b.pending() == 0
        await a.aclose()
        await b.aclose()

    run(body)


@pytest.mark.redis
def test_events_arrive_at_the_other_replica_by_themselves(tmp_path: Path, redis_server: RedisServer) -> None:
    async def body() -> None:
        a, b = replicas(tmp_path, redis_server)
        b.start()
        await a.append([event(f"{i:04}") for i in range(2500)])

        async def all_there() -> bool:
            return len(await names(b)) == 2500

        await until(all_there)
        await a.aclose()
        await b.aclose()

    run(body)


@pytest.mark.redis
def test_what_a_process_sent_is_not_remembered_once_another_on_its_file_has_fetched_it(tmp_path: Path, redis_server: RedisServer) -> None:
    async def body() -> None:
        space = uuid.uuid4().hex
        mine, sibling = (EventLog(tmp_path / "one.db", redis_url=redis_server.url, namespace=space, redis_timeout_s=10) for _ in range(2))
        mine.start()
        assert mine._syncer is not None
        mine._syncer.cancel()  # it fetches when this test says so
        await mine.append([event("a"), event("b")])
        assert len(mine._own_places) == 2
        await sibling.exchange()
        await mine.exchange()
        assert mine._own_places == set()
        await mine.append([event("c")])
        assert len(mine._own_places) == 1
        assert await names(mine) == await names(sibling) == ["a", "b", "c"]
        await mine.aclose()
        await sibling.aclose()

    run(body)


@pytest.mark.redis
def test_without_redis_events_wait_in_the_file_and_go_when_it_is_back(tmp_path: Path, own_redis: RedisServer) -> None:
    async def body() -> None:
        a, b = replicas(tmp_path, own_redis)
        await a.append([event("before")])
        own_redis.kill()
        # Both take the same id; the one whose event comes to Redis first stays.
        assert await a.append([event("both", value="a")]) == [event("both", value="a")]
        assert await b.append([event("both", value="b"), event("b")]) == [event("both", value="b"), event("b")]
        assert a.redis_error is not None
        assert await a.get("b") is None
        assert await a.pending() == 1
        own_redis.start()
        a.start()

        async def sent() -> bool:
            return await a.pending() == 0

        await until(sent)
        b.start()

        async def agreed() -> bool:
            return await a.read_all("t") == await b.read_all("t") == [event("b"), event("before"), event("both", value="a")]

        await until(agreed)
        assert a.redis_error is None
        await a.aclose()
        await b.aclose()

    run(body)


@pytest.mark.redis
def test_a_redis_that_lost_everything_is_filled_again(tmp_path: Path) -> None:
    for server in running_redis():  # keeps nothing
        a, b, fresh = replicas(tmp_path, server, 3)

        async def body(a: EventLog = a, b: EventLog = b, fresh: EventLog = fresh, server: RedisServer = server) -> None:
            await a.append([event("a")])
            await b.append([event("b")])
            await asyncio.gather(a.exchange(), b.exchange())
            server.kill()
            server.start()
            a.start()
            b.start()
            fresh.start()

            async def there() -> bool:
                return await names(fresh) == ["a", "b"]

            await until(there)
            for log in (a, b, fresh):
                await log.aclose()

        run(body)


def test_the_first_about_a_subject_is_looked_up_and_not_sorted_out_in_old_files_too(tmp_path: Path) -> None:
    path = tmp_path / "events.db"

    async def body() -> None:
        for _ in range(2):
            log = EventLog(path)
            await log.append([event("a")])
            assert await log.first("t", "someone", "k") == event("a")
            await log.aclose()
            with closing(sqlite3.connect(path)) as connection:
                query = "SELECT id FROM events WHERE topic = 't' AND subject = 's' AND kind = 'k' ORDER BY time, id LIMIT 1"
                (plan,) = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
                assert "INDEX by_first (topic=? AND subject=? AND kind=?)" in plan
                # As the file was made before.
                connection.executescript("DROP INDEX by_first; CREATE INDEX by_subject ON events (topic, subject, seq)")

    run(body)


def test_the_first_about_a_subject_goes_by_time_and_not_by_arrival(tmp_path: Path) -> None:
    """After an outage the replicas have the same events in other orders."""
    early, late = (Event(id=name, topic="t", kind="k", time=time, subject="u") for name, time in (("b", 1.0), ("a", 2.0)))

    async def body() -> None:
        for name, order in (("one", [early, late]), ("two", [late, early])):
            log = EventLog(tmp_path / f"{name}.db")
            for each in order:
                await log.append([each])
            assert await log.first("t", "u", "k") == early
            await log.aclose()

    run(body)


@pytest.mark.redis
def test_erasing_the_last_entry_of_the_stream_is_no_loss(tmp_path: Path, redis_server: RedisServer) -> None:
    async def body() -> None:
        a, b = replicas(tmp_path, redis_server)
        last = Event(id="last", topic="t", kind="k", time=2.0, subject="u")
        await a.append([event("a"), last])
        await asyncio.gather(a.exchange(), b.exchange())
        assert await names(b) == ["a", "last"]
        assert await a.erase(lambda topic: topic == "t", subject="u") == 1
        sent: list[object] = []
        for log in (a, b):
            log._file.begin_again = lambda: sent.append(log)  # type: ignore[method-assign] # noqa: B023
        for log in (a, b, a, b):
            await log.exchange()
        assert (await names(a), await names(b), sent) == (["a"], ["a"], [])
        await b.append([event("c")])
        await asyncio.gather(a.exchange(), b.exchange())
        assert (await names(a), sent) == (["a", "c"], [])
        for log in (a, b):
            await log.aclose()

    run(body)


def meanwhile(log: EventLog, method: str, work: Callable[[], Awaitable[object]], *, before: bool = True) -> None:
    """At the next call of the stream's method: do this before it is asked, or once it has answered."""
    stream: Any = log._stream
    call = getattr(stream, method)

    async def once(*arguments: Any) -> Any:
        setattr(stream, method, call)
        if before:
            await work()
        answer = await call(*arguments)
        if not before:
            await work()
        return answer

    setattr(stream, method, once)


async def in_stream(log: EventLog) -> dict[str, tuple[str, dict[str, Any]]]:
    assert log._stream is not None
    _, entries = await log._stream.pull("", 1000)
    return {one.id: (one.kind, one.content) for one in (Event.unpacked(data) for _, data in entries)}


@pytest.mark.redis
@pytest.mark.parametrize("way", ["appended while erasing", "erased while its append is sent", "erased while the exchange sends it"])
def test_what_is_erased_while_it_is_sent_does_not_stay_in_redis(tmp_path: Path, redis_server: RedisServer, way: str) -> None:
    async def body() -> None:
        a, b = replicas(tmp_path, redis_server)
        assert a._stream is not None
        secret = event("x", text="secret")
        await a.append([event("a")])

        async def erase_the_row() -> None:  # as another process on this file does
            assert a._file.erase(lambda topic: True, "someone", None) == 2

        if way == "appended while erasing":
            meanwhile(a, "pull", lambda: a.append([secret]))
            assert await a.erase(lambda topic: True, subject="someone") == 2
        elif way == "erased while its append is sent":
            meanwhile(a, "push", erase_the_row)
            await a.append([secret])
        else:
            a._file.insert([secret])
            meanwhile(a, "push", erase_the_row)
        for log in (a, a, b):
            await log.exchange()
        assert await in_stream(a) == dict.fromkeys(("a", "x"), (ERASED, {}))
        assert (await a.pending(), await names(a), await names(b), await b.get("x")) == (0, [], [], None)
        for log in (a, b):
            await log.aclose()

    run(body)


@pytest.mark.redis
def test_an_erasure_waits_for_what_an_exchange_has_fetched_and_not_kept_yet(tmp_path: Path, redis_server: RedisServer) -> None:
    async def body() -> None:
        a, b = replicas(tmp_path, redis_server)
        await b.append([event("x", text="secret")])
        a._failed(StoreError("no answer a moment ago"))  # so that the erasure does not ask for it itself
        erasing: list[asyncio.Task[int]] = []

        async def erase() -> None:
            erasing.append(asyncio.create_task(a.erase(lambda topic: True, subject="someone")))
            await asyncio.sleep(0)
            await a._in_thread(int)  # whatever it had its thread do has been done

        meanwhile(a, "pull", erase, before=False)
        await a._exchange()
        assert await erasing[0] == 1
        assert await names(a) == []
        for log in (a, b):
            await log.exchange()
        assert (await in_stream(a), await names(b)) == ({"x": (ERASED, {})}, [])
        for log in (a, b):
            await log.aclose()

    run(body)


def test_no_copy_of_a_text_goes_over_what_was_erased(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "events.db")
    text, remainder = event("x", text="secret"), Event(id="x", topic="t", kind=ERASED, time=1.5)
    _, _, epoch = file.insert([text])
    assert file.erase(lambda topic: True, "someone", None) == 1
    file.settle(sent([text], epoch), [])
    assert file.some_pending(9) == ([remainder], epoch)
    file.settle(sent([text], epoch), [text])  # another replica's copy was in the stream
    assert file.some_pending(9) == ([remainder], epoch)
    file.settle(sent([remainder], epoch), [])
    assert file.some_pending(9) == ([], epoch)
    file.merge([text], "1-0")
    assert (file.get("x"), file.some_pending(9)) == (None, ([remainder], epoch)), "whoever sent the text has to hear of it"
    file.merge([remainder], "2-0")
    assert file.some_pending(9) == ([], epoch)
    file.close()


@pytest.mark.redis
@pytest.mark.parametrize("noticed_by", ["the writer", "another process on its file"])
def test_what_an_old_stream_took_is_sent_to_the_new_one(tmp_path: Path, redis_server: RedisServer, noticed_by: str) -> None:
    async def body() -> None:
        space = uuid.uuid4().hex
        a, sibling, other = (
            EventLog(tmp_path / f"{name}.db", redis_url=redis_server.url, namespace=space, redis_timeout_s=10) for name in ("a", "a", "b")
        )
        await a.append([event("first")])
        for log in (a, other):
            await log.exchange()

        async def lose() -> None:
            await a.append([event("x")])
            stream = a._stream
            assert stream is not None
            assert [one.id for one in a._sent] == ["x"]
            await stream._server._ask("DEL", *stream._keys)

        meanwhile(a if noticed_by == "the writer" else sibling, "pull", lose)
        await (a if noticed_by == "the writer" else sibling).exchange()
        for log in (a, other, a, other):
            await log.exchange()
        assert (await a.pending(), set(await in_stream(a)), await names(other)) == (0, {"first", "x"}, ["first", "x"])
        for log in (a, sibling, other):
            await log.aclose()

    run(body)


@pytest.mark.redis
def test_a_redis_that_fails_at_the_second_page_is_heard_about_the_first(tmp_path: Path, redis_server: RedisServer) -> None:
    async def body() -> None:
        a, b = replicas(tmp_path, redis_server)
        await b.append([event("0000", value="b"), event(f"{PAGE:04}", value="b")])
        assert a._stream is not None

        async def fail() -> None:
            async def timed_out() -> None:
                raise StoreError("no answer")

            meanwhile(a, "push", timed_out)

        meanwhile(a, "push", fail, before=False)
        mine = [event(f"{i:04}", value="a") for i in range(PAGE + 2)]
        assert await a.append(mine) == [event("0000", value="b"), *mine[1:]]
        assert (await a.pending(), a._claimed) == (2, set())
        a._redis_error = None
        await a.exchange()
        assert await a.pending() == 0
        assert {one.id for one in await a.read_all("t") if one.content == {"value": "b"}} == {"0000", f"{PAGE:04}"}
        for log in (a, b):
            await log.aclose()

    run(body)


@pytest.mark.redis
def test_a_redis_that_hangs_is_waited_for_once(tmp_path: Path, own_redis: RedisServer) -> None:
    async def body() -> None:
        log = EventLog(tmp_path / "events.db", redis_url=own_redis.url, redis_timeout_s=0.05)
        await log.append([event("first")])
        assert own_redis._process is not None
        own_redis._process.send_signal(signal.SIGSTOP)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await log.append([event("waits")])
        assert loop.time() - started >= 0.05
        calls: list[object] = []
        assert log._stream is not None
        log._stream.push = calls.append  # type: ignore[method-assign, assignment]
        await log.append([event("does not wait")])
        assert calls == []
        own_redis._process.send_signal(signal.SIGCONT)
        await log.aclose()

    run(body)
    assert RETRY_S < 5


def test_a_replaced_event_comes_again_to_who_reads_on(tmp_path: Path) -> None:
    """Another replica's event of the same id was first in the stream: a consumer behind ours still gets to see it."""

    async def body() -> None:
        log = EventLog(tmp_path / "events.db")
        await log.append([event("a", value=1), event("b", value=1)])
        ((_, _), (place, _)) = await log.read("t")
        assert await log.count("t", place) == 2
        log._file.merge([event("a", value=2), event("b", value=1)], "1-0")
        assert [(found.id, found.content) for _, found in await log.read("t", after=place)] == [("a", {"value": 2})]
        assert await log.count("t", place) == 1
        assert await log.pending() == 0
        await log.aclose()

    run(body)


@pytest.mark.redis
def test_an_unknown_id_is_looked_for_once_however_busy_the_others_are(tmp_path: Path, redis_server: RedisServer) -> None:
    async def body() -> None:
        space = uuid.uuid4().hex
        mine, theirs = (EventLog(tmp_path / f"{i}.db", redis_url=redis_server.url, namespace=space, redis_timeout_s=10) for i in range(2))
        assert mine._stream is not None
        pulls, pull = 0, mine._stream.pull

        async def busy(after: str, count: int) -> Any:
            nonlocal pulls
            pulls += 1
            assert pulls < 50, "it follows the others for ever"
            await theirs.append([event(f"more-{pulls}")])
            return await pull(after, count)

        mine._stream.pull = busy  # type: ignore[method-assign]
        await theirs.append([event("known")])
        assert await mine.get("known") == event("known")
        assert await mine.get("unknown") is None
        assert await mine.first("t", "nobody", "k") is None
        for log in (mine, theirs):
            await log.aclose()

    run(body)
