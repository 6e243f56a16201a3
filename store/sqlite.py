"""The embedded store: one SQLite file, shared by the threads and processes of one machine.

Calls are made inline, on the event loop's own thread: they take microseconds (a megabyte takes milliseconds), where handing them to a
worker thread would cost more. Only another process that holds the file locked makes a loop wait, ten seconds at most.

`SQLiteFile` is what a file of ours is whatever it holds; the event log (`store/events.py`) is one too.

The store's file is in WAL mode with `synchronous=NORMAL`: what was written survives the death of the process, not always that of the
machine, which may lose the last moments but tears nothing. WAL needs memory shared between processes, so the file lies on a local disk,
not on NFS.
https://www.sqlite.org/wal.html
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakSet

from store.protocol import StoreError, changed, refuse_large

APPLICATION_ID = 0x57535453  # "WSTS"; what the program `file` shows
SCHEMA_VERSION = 1
BUSY_S = 10.0
"""How long to wait for another process that writes. Writes take milliseconds; ten seconds outlast a machine that stands still."""


class SQLiteFile:
    """One connection, opened at the first call and guarded by a lock. The file and the folders above it are made where they lack."""

    application_id: int
    tables: tuple[str, ...]
    """Statements that make an empty file ours."""
    synchronous: str
    """NORMAL: a commit survives the process. FULL: it is on the disk."""

    def __init__(self, path: str | Path) -> None:
        """Raises ValueError where `path` is none. It is made absolute now, so that the store stays where it is."""
        if not str(path) or "\0" in str(path):
            raise ValueError(f"{str(path)!r}: not the path of a file; write sqlite:PATH, or memory: to keep nothing")
        self.path = Path(os.path.expanduser(path)).absolute()
        self.url = f"sqlite:{self.path}"
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        _guard_forks()
        _stores.add(self)

    async def aclose(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        """With the lock held."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone; what SQLite raises leaves as StoreError."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                raise self._translated(error) from None

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA synchronous = {self.synchronous}")
            if not self._made(connection):
                _to_wal(connection)
                with transaction(connection):
                    if not self._made(connection):  # else another process was faster
                        marks = (f"PRAGMA application_id = {self.application_id}", f"PRAGMA user_version = {SCHEMA_VERSION}")
                        for statement in (*self.tables, *marks):
                            connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _made(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is a store of ours; False = empty. Raises StoreError where it is something else."""
        # One statement, so that it never sees half of what another process is making.
        state = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id, pragma_user_version"
        application, version, tables = connection.execute(state).fetchone()
        if (application, version) == (self.application_id, SCHEMA_VERSION):
            return True
        if (application, version, tables) == (0, 0, 0):
            return False
        if application == self.application_id:
            raise StoreError(f"{self.path} was made by another version of the program; delete it or set another path")
        raise StoreError(f"{self.path} is a database of another program; set another path")

    def _translated(self, error: sqlite3.Error | OSError) -> StoreError:
        if isinstance(error, OSError):
            return StoreError(f"cannot make the folder {self.path.parent} ({error.strerror}); set another path")
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind; errors of the sqlite3 module itself have none
        if self.path.is_dir():
            return StoreError(f"{self.path} is a folder; set the path of a file")
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return StoreError(f"{self.path} is no SQLite database, or a damaged one ({error}); delete it or set another path")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return StoreError(f"{self.path} cannot be written ({error}); make the file and its folder writable or set another path")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreError(f"{self.path} was locked by another process for {BUSY_S:g} s; end that process or set another path")
        if code == sqlite3.SQLITE_FULL:
            return StoreError(f"the disk of {self.path} is full; free some space or set another path")
        return StoreError(f"{self.path}: {error}")


class SQLiteStore(SQLiteFile):
    """The key-value and account store. See the module."""

    application_id = APPLICATION_ID
    tables = (
        "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
        "CREATE TABLE accounts (account TEXT, field TEXT, amount INTEGER NOT NULL, PRIMARY KEY (account, field)) WITHOUT ROWID",
    )
    synchronous = "NORMAL"

    async def get(self, key: str) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._opened() as connection:
            rows = [connection.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone() for key in keys]
        return [row and row[0] for row in rows]

    async def put(self, key: str, value: bytes, *, expire_s: float | None = None) -> None:
        with self._opened() as connection:
            connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, value))

    async def delete(self, key: str) -> None:
        with self._opened() as connection:
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))

    async def add(self, account: str, changes: Mapping[str, int], *, limit: int | None = None) -> dict[str, int] | None:
        refuse_large(changes, limit)
        with self._opened() as connection, transaction(connection):
            after = changed(account, _totals(connection, account), changes, limit)
            if after is not None:
                rows = [(account, field, after[field]) for field in changes]
                connection.executemany("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", rows)
        return after

    async def totals(self, account: str) -> dict[str, int]:
        with self._opened() as connection:
            return _totals(connection, account)

    async def check(self) -> None:
        with self._opened() as connection:
            connection.execute("SELECT key, field FROM entries, accounts LIMIT 1").fetchall()
            connection.execute("DELETE FROM entries WHERE FALSE")  # changes nothing, but is refused where writing would be


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and alone: IMMEDIATE keeps other writers out from the first read on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself goes back where the disk is full
            connection.execute("ROLLBACK")
        raise


def _totals(connection: sqlite3.Connection, account: str) -> dict[str, int]:
    return dict(connection.execute("SELECT field, amount FROM accounts WHERE account = ?", (account,)).fetchall())


def _to_wal(connection: sqlite3.Connection) -> None:
    """Two processes that make the file at the same moment: one is told "locked" here at once, whatever the timeout, and tries again."""
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(0.002)


_stores: WeakSet[SQLiteFile] = WeakSet()
_forking = threading.Lock()
_waiting_for_fork: list[SQLiteFile] = []


@functools.cache
def _guard_forks() -> None:
    """Once a process: have all stores closed, and nobody inside one, while it forks.

    SQLite keeps in memory which locks its process holds; a child that inherits this believes that they are its own.
    https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
    """
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _before_fork() -> None:
    _forking.acquire()
    for store in list(_stores):
        store._lock.acquire()
        _waiting_for_fork.append(store)
        store._close()


def _after_fork() -> None:
    """In the parent and in the child: the next call opens the file again."""
    while _waiting_for_fork:
        _waiting_for_fork.pop()._lock.release()
    _forking.release()
