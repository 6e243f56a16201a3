"""The event log: what was acknowledged is on the disk, once, whatever is killed afterwards.

    log = EventLog("runs/events.db", redis_url="redis://127.0.0.1:6379/0")     # without a URL: this machine's file alone
    stored = await log.append([Event(id="outcome/…", topic="…", kind="outcome", time=time.time(), content={…})])

The local spool is an SQLite file with `synchronous=FULL`. Its write-ahead log is append-only, checksummed by frame and fsynced at every
commit, and a torn tail is left out when it is read again: a spool of our own would be these four properties once more, and less tested.
Appends that arrive together share one commit, in a worker thread; Redis is told of one commit while the next is on its way to the disk.

With a Redis URL the file is the spool of a shared log, a Redis Stream: an entry is pending until Redis has taken it, and is then kept as
this replica's copy. Entries of other replicas are pulled into the same file. So every replica reads the whole log locally, goes on
without Redis, and makes up for what was missed later. A stream that lost something (a Redis that came back empty or from an older
dump) is noticed and filled again from the replicas' files. The server needs `maxmemory-policy noeviction`.

An id exists once. Whoever appends an event whose id is taken gets the event that holds it, and decides whether it says the same. Among
replicas the stream decides, while Redis answers; of two that cannot reach it and both accept an id, the first to reach it stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from store.event_file import ERASED, Event, EventFile, Sent, sent
from store.protocol import StoreError
from store.redis_stream import RedisStream, later

log = logging.getLogger("wst.events")

PAGE = 200
"""Events that go to or come from Redis, or out of the file, at once: few enough that an append does not wait long for its turn."""
POLL_S = 0.2
"""Seconds between two looks for other replicas' events."""
RETRY_S = 1.0
"""Seconds between two attempts at a Redis that failed; meanwhile nobody waits for it."""


Result = TypeVar("Result")
Append = tuple[Sequence[Event], "asyncio.Future[list[Event]]"]  # given together, and who waits for them


@dataclass
class _Commit:
    """What went to the disk at once."""

    appends: list[Append]
    stored: list[Event]  # for each event the one that holds its id
    new: list[Event]
    epoch: int

    def answer(self, theirs: Mapping[str, Event]) -> None:
        """Tell who waits; `theirs` by id goes before what the file held."""
        held = iter([theirs.get(event.id, event) for event in self.stored])
        for appended, future in self.appends:
            mine = [next(held) for _ in appended]
            if not future.done():
                future.set_result(mine)


class EventLog:
    """Used from one event loop; several processes may share the file. Every method raises StoreError where the file fails.

    `path` is made absolute now and opened at the first call. Redis is asked only where `redis_url` names one; `redis_timeout_s` is the
    longest that an append waits for it.
    """

    def __init__(self, path: str | Path, *, redis_url: str | None = None, namespace: str = "wst", redis_timeout_s: float = 0.05) -> None:
        self._file = EventFile(path)
        self.url = self._file.url
        self._stream = None if redis_url is None else RedisStream(redis_url, namespace=namespace, timeout_s=redis_timeout_s)
        self._queue: list[Append] = []
        self._runner: asyncio.Task[None] | None = None
        self._written: list[_Commit] = []  # Redis is still to be asked
        self._teller: asyncio.Task[None] | None = None
        self._sent: list[Sent] = []
        """What Redis has; the file is told of many at once, by the exchange: a transaction after each costs as much as the commit."""
        self._syncer: asyncio.Task[None] | None = None
        # One thread, its own: the file takes one at a time, and the loop's shared threads may all be busy writing instructions.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._redis_error: StoreError | None = None
        self._exchanging = asyncio.Lock()
        self._claimed: set[str] = set()
        """Ids that are on their way to Redis with an append: not to be sent by the exchange as well."""
        self._own_places: set[str] = set()
        """Where in the stream stands what this process sent and has not fetched yet: the file has it already."""

    @property
    def shared(self) -> bool:
        """Whether there is a Redis to share the log with."""
        return self._stream is not None

    @property
    def exists(self) -> bool:
        """Whether the file was made."""
        return self._file.path.exists()

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
        return await self._sought(self._file.get, event_id)

    async def first(self, topic: str, subject: str, kind: str) -> Event | None:
        """The earliest event of that kind about a subject, by its time (equal times by id, as in `read_all`): the same one on every
        replica that has both. Looks at other replicas where there is none."""
        return await self._sought(self._file.first, topic, subject, kind)

    async def _sought(self, look: Callable[..., Event | None], *arguments: str) -> Event | None:
        """What `look` finds here, or in what the other replicas had written when it was asked for: what they write meanwhile is not
        waited for, else a busy stream would keep the caller for ever."""
        found = await self._in_thread(look, *arguments)
        if found is not None or self._stream is None or self._redis_error is not None:
            return found
        try:
            end = await self._stream.end()
        except StoreError as error:
            self._failed(error)
            return None
        while found is None:
            behind = later(end, await self._in_thread(self._file.cursor))
            more = behind and await self.exchange()
            found = await self._in_thread(look, *arguments)
            if not more:
                break
        return found

    async def count(self, topic: str, upto: int) -> int:
        """Events of a topic up to a place. Fewer than were read up to there = some of those were replaced, and come again behind it."""
        return await self._in_thread(self._file.count, topic, upto)

    async def version(self, topic: str) -> tuple[int, int]:
        """(events, place of the last one) of a topic: where both are as before, so is the topic."""
        return await self._in_thread(self._file.version, topic)

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
        return await asyncio.to_thread(sorted, events, key=lambda event: (event.time, event.id))  # of millions this takes seconds

    async def erase(self, of: Callable[[str], bool], *, subject: str | None = None, before: float | None = None) -> int:
        """Erase the events of the topics that `of` names, about `subject` and older than `before` (seconds since 1970; None = any):
        here and, as soon as Redis answers, on every replica. Their ids stay, so that no copy comes back. How many this replica had."""
        await self.exchange()  # what only the others have so far
        async with self._exchanging:  # an exchange that has read a text would send it after this
            return await self._in_thread(self._file.erase, of, subject, before)

    async def pending(self) -> int:
        """Events that Redis has not taken yet; all events where there is no Redis."""
        await self._settle_sent()
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
        while working := {task for task in (self._runner, self._teller) if task is not None and not task.done()}:
            await asyncio.wait(working)
        with suppress(StoreError):  # else they are sent again at the next start
            await self._settle_sent()
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
                await self._settle_sent()
                while True:
                    pending, epoch = await self._in_thread(self._file.some_pending, PAGE)
                    batch = [event for event in pending if event.id not in self._claimed]
                    if not batch:
                        return await self._fetch()
                    earlier = await self._push(batch)
                    await self._in_thread(self._file.settle, sent(batch, epoch), list(earlier.values()))
        except StoreError as error:
            self._failed(error)
            return False

    async def _keep_exchanging(self) -> None:
        """Also what asks a Redis that failed again: nobody else waits for one."""
        while True:
            try:
                await self._exchange()
            except Exception as error:  # the loop outlives whatever the disk or a damaged stream does; appends report it themselves
                log.error("the exchange with Redis failed: %s: %s", type(error).__name__, error)
            await asyncio.sleep(POLL_S if self._redis_error is None else RETRY_S)

    async def _run(self) -> None:
        """Commit what waits until nothing waits; what arrives meanwhile shares the next commit."""
        while self._queue:
            appends, self._queue = self._queue, []
            events = [event for appended, _ in appends for event in appended]
            ids = {event.id for event in events}
            self._claimed |= ids
            try:
                stored, new, epoch = await self._in_thread(self._file.insert, events)
                self._written.append(_Commit(appends, stored, new, epoch))
                if self._teller is None or self._teller.done():
                    self._teller = asyncio.create_task(self._tell())
                ids -= {event.id for event in new}
            except Exception as error:  # StoreError; anything else is a bug that must reach the callers, who wait
                _refuse(appends, error)
            self._claimed -= ids

    async def _tell(self) -> None:
        """Ask Redis about what was written, and answer who waits."""
        while self._written:
            commits, self._written = self._written, []
            new = [event for commit in commits for event in commit.new]
            taken: list[Sent] = []
            theirs: dict[str, Event] = {}
            try:
                asked, theirs = await self._claim(new)
                taken = [one for commit in commits for one in sent(commit.new, commit.epoch)][:asked]
                if theirs:  # replaces ours, also where a commit made meanwhile found ours
                    await self._in_thread(self._file.settle, taken, list(theirs.values()))
                    taken = []
                    for commit in self._written:
                        commit.stored = [theirs.get(event.id, event) for event in commit.stored]
            except Exception as error:  # of the file, or a bug: both must reach the callers
                taken = []
                _refuse([append for commit in commits for append in commit.appends], error)
            for commit in commits:
                commit.answer(theirs)
            self._sent += taken
            # The others are settled, or left to the exchange.
            self._claimed.difference_update({event.id for event in new} - {one.id for one in taken})
            if len(self._sent) >= PAGE:  # more than the exchange comes by for, or nobody exchanges
                with suppress(StoreError):  # then they are sent again
                    await self._settle_sent()

    async def _claim(self, new: Sequence[Event]) -> tuple[int, dict[str, Event]]:
        """(how many of the new ones Redis was told of, from the first on; what other replicas hold under their ids). The exchange finds out
        about the rest later."""
        asked = 0
        theirs: dict[str, Event] = {}
        if self._stream is not None and self._redis_error is None:
            try:
                for asked in range(0, len(new), PAGE):
                    theirs |= await self._push(new[asked : asked + PAGE])
                asked = len(new)
            except StoreError as error:
                self._failed(error)
        return asked, theirs

    async def _push(self, events: Sequence[Event]) -> dict[str, Event]:
        """Give Redis a page of events; by id those that it holds already with other content or time."""
        assert self._stream is not None
        replies = await self._stream.push([(event.id, event.packed(), event.kind == ERASED) for event in events])
        if self._syncer is not None:  # which fetches, and so forgets them
            self._own_places.update(place for place, _ in replies if place is not None)
        self._answered()
        return {event.id: event for event in (Event.unpacked(reply) for _, reply in replies if reply is not None)}

    async def _settle_sent(self) -> None:
        taken, self._sent = self._sent, []
        self._claimed.difference_update(one.id for one in taken)
        if taken:
            await self._in_thread(self._file.settle, taken, [])

    async def _fetch(self) -> bool:
        """Take over what the stream holds behind the cursor, to its end. Whether there was anything."""
        assert self._stream is not None
        cursor = before = await self._in_thread(self._file.cursor)
        # Another process on this file may have moved the cursor past what we sent, which then never comes by here.
        self._own_places = {place for place in self._own_places if later(place, cursor)}
        while True:
            lost, entries = await self._stream.pull(cursor, PAGE)
            self._answered()
            if lost:
                log.warning("%s has lost events; sending it all that this replica has", self._stream.url)
                self._own_places.clear()
                await self._in_thread(self._file.begin_again)
                return True
            if entries:
                theirs = [Event.unpacked(data) for place, data in entries if place not in self._own_places]
                cursor = entries[-1][0]
                await self._in_thread(self._file.merge, theirs, cursor)
                self._own_places.difference_update(place for place, _ in entries)
            if len(entries) < PAGE:
                return cursor != before

    def _failed(self, error: StoreError) -> None:
        if self._redis_error is None:
            log.warning("%s; events stay in %s until it answers", error, self.url)
        self._redis_error = error

    def _answered(self) -> None:
        if self._redis_error is not None:
            log.warning("Redis answers again")
        self._redis_error = None


def _refuse(appends: Sequence[Append], error: Exception) -> None:
    for future in (future for _, future in appends if not future.done()):
        future.set_exception(error)
