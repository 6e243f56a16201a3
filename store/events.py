"""The event log: what was acknowledged is on the disk, once, whatever is killed afterwards.

    log = EventLog("runs/events.db", redis_url="redis://127.0.0.1:6379/0")     # without a URL: this machine's file alone
    stored = await log.append([Event(id="outcome/…", topic="…", kind="outcome", time=time.time(), content={…})])

The local spool is an SQLite file with `synchronous=FULL`. Its write-ahead log is append-only, checksummed by frame and fsynced at every
commit, and a torn tail is left out when it is read again: a spool of our own would be these four properties once more, and less tested.
Appends that arrive together share one commit, in a worker thread.

With a Redis URL the file is the spool of a shared log, a Redis Stream: an entry is pending until Redis has taken it, and is then kept as
this replica's copy. Entries of other replicas are pulled into the same file. So every replica reads the whole log locally, goes on
without Redis, and makes up for what was missed later. A stream that lost something (a Redis that came back empty or from an older
dump) is noticed and filled again from the replicas' files. The server needs `maxmemory-policy noeviction`.

An id exists once. Whoever appends an event whose id is taken gets the event that holds it, and decides whether it says the same. Among
replicas the stream decides, while Redis answers; two replicas that cannot reach it may both accept an id, and the first to reach it stays.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from store.protocol import StoreError
from store.redis_stream import RedisStream
from store.sqlite import SQLiteFile, transaction

log = logging.getLogger("wst.events")

PAGE = 1000
"""Events that go to or come from Redis, or out of the file, at once."""
POLL_S = 0.2
"""Seconds between two looks for other replicas' events."""
RETRY_S = 1.0
"""Seconds between two attempts at a Redis that failed; meanwhile nobody waits for it."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Event:
    """One thing that happened. `id`, `topic` and `kind` are any text; `content` is JSON."""

    id: str
    topic: str
    """What is read together: one experiment's events, say."""
    kind: str
    time: float
    """Seconds since 1970."""
    content: dict[str, Any] = field(default_factory=dict)
    subject: str = ""
    """Whom it is about, for `about`."""

    def packed(self) -> bytes:
        """Raises ValueError for numbers that are no JSON and for text that is no Unicode."""
        (self.id + self.topic + self.kind + self.subject).encode()
        parts = [self.id, self.topic, self.kind, self.time, self.content, self.subject]
        return json.dumps(parts, separators=(",", ":"), allow_nan=False).encode()

    @staticmethod
    def unpacked(data: bytes) -> Event:
        return Event(*json.loads(data))


class EventLog:
    """Used from one event loop; several processes may share the file. Every method raises StoreError where the file fails.

    `path` is made absolute now and opened at the first call. Redis is asked only where `redis_url` names one; `redis_timeout_s` is the
    longest that an append waits for it.
    """

    def __init__(self, path: str | Path, *, redis_url: str | None = None, namespace: str = "wst", redis_timeout_s: float = 0.05) -> None:
        self._file = EventFile(path)
        self.url = self._file.url
        self._stream = None if redis_url is None else RedisStream(redis_url, namespace=namespace, timeout_s=redis_timeout_s)
        self._queue: list[tuple[Sequence[Event], asyncio.Future[list[Event]]]] = []
        self._runner: asyncio.Task[None] | None = None
        self._syncer: asyncio.Task[None] | None = None
        # One thread, its own: the file takes one at a time, and the loop's shared threads may all be busy writing instructions.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._redis_error: StoreError | None = None
        self._exchanging = asyncio.Lock()

    @property
    def shared(self) -> bool:
        """Whether there is a Redis to share the log with."""
        return self._stream is not None

    @property
    def redis_error(self) -> StoreError | None:
        """Why Redis did not take or give events when it was last asked; None = it did, or there is none."""
        return self._redis_error

    async def append(self, events: Sequence[Event]) -> list[Event]:
        """Write events; on return they are on the disk. One event each: the given one, or the earlier one that holds its id.

        Raises ValueError, with nothing written, for an event that is no JSON.
        """
        for event in events:
            event.packed()
        if not events:
            return []
        future: asyncio.Future[list[Event]] = asyncio.get_running_loop().create_future()
        self._queue.append((events, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await future

    async def get(self, event_id: str) -> Event | None:
        """The event of that id, if this replica or, with a Redis that answers, another one has it."""
        found = await self._in_thread(self._file.get, event_id)
        if found is None and await self.exchange():
            found = await self._in_thread(self._file.get, event_id)
        return found

    async def about(self, topic: str, subject: str) -> list[Event]:
        """The events of a topic about one subject, in order of arrival; looks at other replicas where there is none."""
        found = await self._in_thread(self._file.about, topic, subject)
        if not found and await self.exchange():
            found = await self._in_thread(self._file.about, topic, subject)
        return found

    async def read(self, topic: str, *, after: int = 0, limit: int = PAGE) -> list[tuple[int, Event]]:
        """(place, event) of a topic in order of arrival at this replica, behind place `after`. Fewer than `limit` = the end."""
        return await self._in_thread(self._file.read, topic, after, limit)

    async def read_all(self, topic: str) -> list[Event]:
        """A topic's events in order of time (equal times by id): the same list on every replica."""
        events: list[Event] = []
        place = 0
        while page := await self.read(topic, after=place):
            place = page[-1][0]
            events += (event for _, event in page)
        return sorted(events, key=lambda event: (event.time, event.id))

    async def pending(self) -> int:
        """Events that Redis has not taken yet; all events where there is no Redis."""
        return await self._in_thread(self._file.count_pending)

    async def check(self) -> None:
        """Return if the file can be written, else raise a StoreError that says in one line what to do."""
        await self._in_thread(self._file.check)

    def start(self) -> None:
        """Exchange events with Redis in the background from now on."""
        if self._stream is not None and self._syncer is None:
            self._syncer = asyncio.create_task(self._keep_exchanging())

    async def aclose(self) -> None:
        """Finish what was begun and close. What is pending stays in the file for the next start."""
        if self._syncer is not None:
            self._syncer.cancel()
            await asyncio.wait([self._syncer])
            self._syncer = None
        if self._runner is not None:
            await asyncio.wait([self._runner])
        if self._stream is not None:
            await self._stream.aclose()
        await self._in_thread(self._file.close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def exchange(self) -> bool:
        """Send what is pending and fetch what others wrote. Whether anything came; False where Redis does not answer."""
        return self._stream is not None and self._redis_error is None and await self._exchange()

    async def _exchange(self) -> bool:
        try:
            async with self._exchanging:
                while batch := await self._in_thread(self._file.some_pending, PAGE):
                    await self._send(batch)
                return await self._fetch()
        except StoreError as error:
            self._failed(error)
            return False

    async def _keep_exchanging(self) -> None:
        """Also what asks a Redis that failed again: nobody else waits for one."""
        while True:
            try:
                if await self._exchange():
                    continue
            except Exception as error:  # the loop outlives whatever the disk or a damaged stream does; appends report it themselves
                log.error("the exchange with Redis failed: %s: %s", type(error).__name__, error)
            await asyncio.sleep(POLL_S if self._redis_error is None else RETRY_S)

    async def _run(self) -> None:
        """Commit what waits until nothing waits; what arrives meanwhile shares the next commit."""
        while self._queue:
            batch, self._queue = self._queue, []
            try:
                stored, new = await self._in_thread(self._file.insert, [event for events, _ in batch for event in events])
                if new:
                    stored = await self._claim(stored, new)
            except Exception as error:  # StoreError; anything else is a bug that must reach the callers, who wait
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            held = iter(stored)
            for events, future in batch:
                mine = [next(held) for _ in events]
                if not future.done():
                    future.set_result(mine)

    async def _claim(self, stored: list[Event], new: Sequence[Event]) -> list[Event]:
        """`stored` with what other replicas hold under the new ids, if Redis answers; else the exchange finds out later."""
        if self._stream is None or self._redis_error is not None:
            return stored
        try:
            theirs = await self._send(new)
        except StoreError as error:
            self._failed(error)
            return stored
        return [theirs.get(event.id, event) for event in stored]

    async def _send(self, events: Sequence[Event]) -> dict[str, Event]:
        """Give Redis events. Those whose ids it holds already, with other content or time, are returned and replace ours."""
        assert self._stream is not None
        earlier: dict[str, Event] = {}
        for at in range(0, len(events), PAGE):
            some = events[at : at + PAGE]
            replies = await self._stream.push([(event.id, event.packed()) for event in some])
            found = {event.id: Event.unpacked(reply) for event, reply in zip(some, replies, strict=True) if reply is not None}
            await self._in_thread(self._file.settle, [event.id for event in some], list(found.values()))
            earlier |= found
        self._answered()
        return earlier

    async def _fetch(self) -> bool:
        assert self._stream is not None
        cursor = await self._in_thread(self._file.cursor)
        lost, entries = await self._stream.pull(cursor, PAGE)
        self._answered()
        if lost:
            log.warning("%s has lost events; sending it all that this replica has", self._stream.url)
            await self._in_thread(self._file.begin_again)
            return True
        if entries:
            await self._in_thread(self._file.merge, [Event.unpacked(data) for _, data in entries], entries[-1][0])
        return bool(entries)

    def _failed(self, error: StoreError) -> None:
        if self._redis_error is None:
            log.warning("%s; events stay in %s until it answers", error, self.url)
        self._redis_error = error

    def _answered(self) -> None:
        if self._redis_error is not None:
            log.warning("Redis answers again")
        self._redis_error = None


COLUMNS = "id, topic, kind, time, content, subject"


class EventFile(SQLiteFile):
    """The spool. Blocking, and safe to call from several threads."""

    application_id = 0x57535445  # "WSTE"
    tables = (
        "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, kind TEXT NOT NULL,"
        " time REAL NOT NULL, content TEXT NOT NULL, subject TEXT NOT NULL, pending INTEGER NOT NULL)",
        "CREATE INDEX by_topic ON events (topic, seq)",
        "CREATE INDEX by_subject ON events (topic, subject, seq)",
        "CREATE INDEX by_pending ON events (seq) WHERE pending = 1",
        "CREATE TABLE cursor (place TEXT NOT NULL)",
        "INSERT INTO cursor VALUES ('')",
    )
    synchronous = "FULL"

    def insert(self, events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
        """(for each the event that holds its id, the new ones), all committed together."""
        stored, new = [], []
        with self._opened() as connection, transaction(connection):
            for event in events:
                row = (*_row(event), 1)
                done = connection.execute(f"INSERT INTO events ({COLUMNS}, pending) VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", row)
                if done.rowcount:
                    new.append(event)
                    stored.append(event)
                else:
                    held = _by_id(connection, event.id)
                    assert held is not None
                    stored.append(held)
        return stored, new

    def get(self, event_id: str) -> Event | None:
        with self._opened() as connection:
            return _by_id(connection, event_id)

    def about(self, topic: str, subject: str) -> list[Event]:
        with self._opened() as connection:
            query = f"SELECT {COLUMNS} FROM events WHERE topic = ? AND subject = ? ORDER BY seq"
            return [_event(row) for row in connection.execute(query, (topic, subject))]

    def read(self, topic: str, after: int, limit: int) -> list[tuple[int, Event]]:
        with self._opened() as connection:
            query = f"SELECT seq, {COLUMNS} FROM events WHERE topic = ? AND seq > ? ORDER BY seq LIMIT ?"
            rows = connection.execute(query, (topic, after, limit)).fetchall()
        return [(row[0], _event(row[1:])) for row in rows]

    def count_pending(self) -> int:
        with self._opened() as connection:
            count: int = connection.execute("SELECT count(*) FROM events WHERE pending = 1").fetchone()[0]
        return count

    def some_pending(self, limit: int) -> list[Event]:
        with self._opened() as connection:
            query = f"SELECT {COLUMNS} FROM events WHERE pending = 1 ORDER BY seq LIMIT ?"
            return [_event(row) for row in connection.execute(query, (limit,))]

    def settle(self, sent: Sequence[str], earlier: Sequence[Event]) -> None:
        """Redis has these ids now; under some it had an event before ours."""
        with self._opened() as connection, transaction(connection):
            connection.executemany("UPDATE events SET pending = 0 WHERE id = ?", [(event_id,) for event_id in sent])
            _take(connection, earlier)

    def cursor(self) -> str:
        """The stream's last place that was merged; empty before the first."""
        with self._opened() as connection:
            place: str = connection.execute("SELECT place FROM cursor").fetchone()[0]
        return place

    def merge(self, events: Sequence[Event], place: str) -> None:
        """Take over what the stream holds up to `place`: in one step, so that nothing is left out and nothing comes twice."""
        with self._opened() as connection, transaction(connection):
            _take(connection, events)
            connection.execute("UPDATE cursor SET place = ?", (place,))

    def begin_again(self) -> None:
        """Everything is to be sent and fetched anew."""
        with self._opened() as connection, transaction(connection):
            connection.execute("UPDATE events SET pending = 1")
            connection.execute("UPDATE cursor SET place = ''")

    def check(self) -> None:
        with self._opened() as connection:
            connection.execute("SELECT count(*) FROM cursor").fetchone()
            connection.execute("DELETE FROM events WHERE FALSE")  # changes nothing, but is refused where writing would be

    def close(self) -> None:
        with self._lock:
            self._close()


def _row(event: Event) -> tuple[Any, ...]:
    content = json.dumps(event.content, separators=(",", ":"), allow_nan=False)
    return (event.id, event.topic, event.kind, event.time, content, event.subject)


def _event(row: Sequence[Any]) -> Event:
    return Event(id=row[0], topic=row[1], kind=row[2], time=row[3], content=json.loads(row[4]), subject=row[5])


def _by_id(connection: sqlite3.Connection, event_id: str) -> Event | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM events WHERE id = ?", (event_id,)).fetchone()
    return None if row is None else _event(row)


def _take(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    """The stream's word goes before ours."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", ")[1:])
    statement = f"INSERT INTO events ({COLUMNS}, pending) VALUES (?,?,?,?,?,?,0) ON CONFLICT (id) DO UPDATE SET {changes}, pending = 0"
    connection.executemany(statement, [_row(event) for event in events])
