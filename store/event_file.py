"""The event log's file: one SQLite file that is this machine's spool, and its copy of what other replicas wrote."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from store.sqlite import SQLiteFile, transaction


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
    """Whom it is about, for `first`."""

    def packed(self) -> bytes:
        """Raises ValueError for numbers that are no JSON and for text that is no Unicode."""
        (self.id + self.topic + self.kind + self.subject).encode()
        parts = [self.id, self.topic, self.kind, self.time, self.content, self.subject]
        return json.dumps(parts, separators=(",", ":"), allow_nan=False).encode()

    @staticmethod
    def unpacked(data: bytes) -> Event:
        return Event(*json.loads(data))


ERASED = "erased"
"""The kind of what is left of an event that was erased: its id, topic and time, so that no copy of it can come back."""
COLUMNS = "id, topic, kind, time, content, subject"
ALL_OF = "(SELECT value FROM json_each(?))"
ROWS = 100
"""Rows of one statement."""


class Sent(NamedTuple):
    """What Redis took. It settles the row that was sent, and not what has become of it since: one that was erased meanwhile, or that is to
    be sent to a new stream, stays pending."""

    id: str
    erased: bool
    epoch: int
    """The file's when the row was read; another one begins with every stream that has to be filled again."""


def sent(events: Sequence[Event], epoch: int) -> list[Sent]:
    return [Sent(event.id, event.kind == ERASED, epoch) for event in events]


class EventFile(SQLiteFile):
    """The spool. Blocking, and safe to call from several threads."""

    application_id = 0x57535445  # "WSTE"
    tables = (
        "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, kind TEXT NOT NULL,"
        " time REAL NOT NULL, content TEXT NOT NULL, subject TEXT NOT NULL, pending INTEGER NOT NULL)",
        "CREATE INDEX by_topic ON events (topic, seq)",
        "CREATE INDEX by_first ON events (topic, subject, kind, time, id)",
        "CREATE INDEX by_pending ON events (seq) WHERE pending = 1",
        "CREATE TABLE cursor (place TEXT NOT NULL)",
        "INSERT INTO cursor VALUES ('')",
    )
    synchronous = "FULL"
    _epoch: int | None = None
    """As it was last read: by every exchange."""

    def _open(self) -> sqlite3.Connection:
        connection = super()._open()
        try:
            _index(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def insert(self, events: Sequence[Event]) -> tuple[list[Event], list[Event], int]:
        """(for each the event that holds its id, the new ones, the epoch), all committed together. The epoch is one of before what Redis is
        told of them; an earlier one than the file's settles nothing, and they are sent again.

        Where all are new this is one statement: each lets go of the interpreter, which a busy event loop then keeps.
        """
        with self._opened() as connection:
            if self._epoch is None:
                self._epoch = _epoch(connection)
            epoch = self._epoch
            if len(events) <= ROWS:
                with suppress(sqlite3.IntegrityError):  # an id is there already, or twice among them: nothing was written
                    _add(connection, events)
                    return list(events), list(events), epoch
            with transaction(connection):
                ids = json.dumps([event.id for event in events])
                held = {row[0]: _event(row) for row in connection.execute(f"SELECT {COLUMNS} FROM events WHERE id IN {ALL_OF}", (ids,))}
                new = []
                for event in events:
                    if event.id not in held:
                        held[event.id] = event
                        new.append(event)
                for at in range(0, len(new), ROWS):
                    _add(connection, new[at : at + ROWS])
        return [held[event.id] for event in events], new, epoch

    def get(self, event_id: str) -> Event | None:
        with self._opened() as connection:
            found = _by_id(connection, event_id)
        return None if found is None or found.kind == ERASED else found

    def erase(self, of: Callable[[str], bool], subject: str | None, before: float | None) -> int:
        """Leave of events nothing but that they were: those of the topics that `of` names, about `subject`, older than `before`
        (None = any). How many there were."""
        with self._opened() as connection:
            connection.execute("PRAGMA secure_delete = ON")  # else the text stays in the file's free pages
            with transaction(connection):
                topics = [row[0] for row in connection.execute("SELECT DISTINCT topic FROM events")]
                gone: list[Event] = []
                for topic in filter(of, topics):
                    query = f"SELECT {COLUMNS} FROM events WHERE topic = ? AND kind != ? AND subject = coalesce(?, subject) AND time < ?"
                    rows = connection.execute(query, (topic, ERASED, subject, math.inf if before is None else before))
                    gone += map(_event, rows)
                left = [_row(Event(id=event.id, topic=event.topic, kind=ERASED, time=event.time)) for event in gone]
                connection.executemany("DELETE FROM events WHERE id = ?", [(event.id,) for event in gone])
                connection.executemany(f"INSERT INTO events ({COLUMNS}, pending) VALUES (?,?,?,?,?,?,1)", left)
            if gone:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the write-ahead log holds it too
        return len(gone)

    def first(self, topic: str, subject: str, kind: str) -> Event | None:
        with self._opened() as connection:
            query = f"SELECT {COLUMNS} FROM events WHERE topic = ? AND subject = ? AND kind = ? ORDER BY time, id LIMIT 1"
            row = connection.execute(query, (topic, subject, kind)).fetchone()
        return None if row is None else _event(row)

    def read(self, topic: str, after: int, limit: int) -> list[tuple[int, Event]]:
        with self._opened() as connection:
            query = f"SELECT seq, {COLUMNS} FROM events WHERE topic = ? AND seq > ? AND kind != ? ORDER BY seq LIMIT ?"
            rows = connection.execute(query, (topic, after, ERASED, limit)).fetchall()
        return [(row[0], _event(row[1:])) for row in rows]

    def count(self, topic: str, upto: int) -> int:
        with self._opened() as connection:
            query = "SELECT count(*) FROM events WHERE topic = ? AND seq <= ? AND kind != ?"
            count: int = connection.execute(query, (topic, upto, ERASED)).fetchone()[0]
        return count

    def version(self, topic: str) -> tuple[int, int]:
        with self._opened() as connection:
            query = "SELECT count(*), coalesce(max(seq), 0) FROM events WHERE topic = ? AND kind != ?"
            count, last = connection.execute(query, (topic, ERASED)).fetchone()
        return count, last

    def count_pending(self) -> int:
        with self._opened() as connection:
            count: int = connection.execute("SELECT count(*) FROM events WHERE pending = 1").fetchone()[0]
        return count

    def some_pending(self, limit: int) -> tuple[list[Event], int]:
        """(events, the epoch)."""
        with self._opened() as connection:
            epoch = self._epoch = _epoch(connection)  # first: where another begins now, they are sent again
            query = f"SELECT {COLUMNS} FROM events WHERE pending = 1 ORDER BY seq LIMIT ?"
            return [_event(row) for row in connection.execute(query, (limit,))], epoch

    def settle(self, sent: Sequence[Sent], earlier: Sequence[Event]) -> None:
        """Redis has these now; under some ids it had an event before ours."""
        with self._opened() as connection, _redoable(connection):
            _settle(connection, sent)
            _take(connection, earlier)

    def cursor(self) -> str:
        """The stream's last place that was merged; empty before the first."""
        with self._opened() as connection:
            place: str = connection.execute("SELECT place FROM cursor").fetchone()[0]
        return place

    def merge(self, events: Sequence[Event], place: str) -> None:
        """Take over what the stream holds up to `place`: in one step, so that nothing is left out and nothing comes twice."""
        with self._opened() as connection, _redoable(connection):
            _take(connection, events)
            connection.execute("UPDATE cursor SET place = ?", (place,))

    def begin_again(self) -> None:
        """Everything is to be sent and fetched anew; what was sent so far settles nothing any more, whichever process sent it."""
        with self._opened() as connection, _redoable(connection):
            self._epoch = None
            connection.execute("UPDATE events SET pending = 1")
            connection.execute("UPDATE cursor SET place = '', rowid = rowid + 1")

    def check(self) -> None:
        with self._opened() as connection:
            connection.execute("SELECT count(*) FROM cursor").fetchone()
            connection.execute("DELETE FROM events WHERE FALSE")  # changes nothing, but is refused where writing would be

    def close(self) -> None:
        with self._lock:
            self._close()


def _index(connection: sqlite3.Connection) -> None:
    """Give a file of before the index by which `first` finds without sorting, in place of the one that did less. Where the file may not be
    written, or another process holds it for long (it may be making the index), all goes on as it was."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'by_first'").fetchone() is not None:
        return
    try:
        with transaction(connection):
            connection.execute("CREATE INDEX IF NOT EXISTS by_first ON events (topic, subject, kind, time, id)")
            connection.execute("DROP INDEX IF EXISTS by_subject")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY):
            raise


@contextmanager
def _redoable(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that is not waited for to reach the disk: what it says follows from Redis and is asked again after a power cut."""
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        with transaction(connection):
            yield
    finally:
        connection.execute("PRAGMA synchronous = FULL")


def _row(event: Event) -> tuple[Any, ...]:
    content = json.dumps(event.content, separators=(",", ":"), allow_nan=False)
    return (event.id, event.topic, event.kind, event.time, content, event.subject)


def _event(row: Sequence[Any]) -> Event:
    return Event(id=row[0], topic=row[1], kind=row[2], time=row[3], content=json.loads(row[4]), subject=row[5])


def _by_id(connection: sqlite3.Connection, event_id: str) -> Event | None:
    row = connection.execute(f"SELECT {COLUMNS} FROM events WHERE id = ?", (event_id,)).fetchone()
    return None if row is None else _event(row)


def _epoch(connection: sqlite3.Connection) -> int:
    """The row id of the cursor, which has one row: so files of before have an epoch too."""
    epoch: int = connection.execute("SELECT rowid FROM cursor").fetchone()[0]
    return epoch


def _add(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    """Raises IntegrityError, with nothing written, where an id is not new."""
    if events:
        places = ",".join(["(?,?,?,?,?,?,1)"] * len(events))
        connection.execute(f"INSERT INTO events ({COLUMNS}, pending) VALUES {places}", [value for event in events for value in _row(event)])


def _settle(connection: sqlite3.Connection, sent: Sequence[Sent]) -> None:
    epoch = _epoch(connection)
    for erased in (False, True):
        if ids := [one.id for one in sent if (one.erased, one.epoch) == (erased, epoch)]:
            connection.execute(f"UPDATE events SET pending = 0 WHERE id IN {ALL_OF} AND (kind = ?) = ?", (json.dumps(ids), ERASED, erased))


def _take(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    """The stream's word goes before ours, save that what was erased here stays so, and is sent (again). What it replaces comes behind all
    that stands, so that who reads on from a place sees it."""
    rows = [_row(event) for event in events]
    same = " AND ".join(f"{name} IS ?" for name in COLUMNS.split(", ")[1:])
    kept = [(*row, ERASED, row[2] == ERASED) for row in rows]
    connection.executemany(f"DELETE FROM events WHERE id = ? AND NOT ({same}) AND (kind != ? OR ?)", kept)
    # Most of what comes back is our own, unchanged: not worth a write.
    connection.executemany(
        f"INSERT INTO events ({COLUMNS}, pending) VALUES (?,?,?,?,?,?,0) ON CONFLICT (id)"
        " DO UPDATE SET pending = (kind != excluded.kind) WHERE pending = (kind = excluded.kind)",
        rows,
    )
