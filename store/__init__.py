"""Where the program keeps what must outlive a call: answers that were paid for, and what has been spent.

Beside it stands the event log (`store/events.py`): what happened, in order, each thing once.

One seam for three kinds of store, which behave alike and are tested by one suite: this process's memory, an SQLite file (the embedded
default: no server, shared by all processes of a machine) and Redis (shared by machines). The only package that knows `sqlite3` or
`redis`.
"""

from __future__ import annotations

import re

from store.event_file import Event
from store.events import EventLog
from store.memory import MemoryStore
from store.protocol import LARGEST_AMOUNT, Store, StoreError
from store.redis import RedisStore
from store.sqlite import SQLiteStore

__all__ = ["LARGEST_AMOUNT", "Event", "EventLog", "MemoryStore", "RedisStore", "SQLiteStore", "Store", "StoreError", "open_store"]

KINDS = "memory:, sqlite:PATH (or the path alone), redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix://PATH"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""Two characters at least, so that it is no drive letter."""


def open_store(url: str, *, namespace: str = "wst", timeout_s: float = 0.5) -> Store:
    """The store at `url`: `memory:`, `sqlite:PATH` or a bare path, `redis://…`, `rediss://…` or `unix://…`.

    Nothing is opened or reached before the first call; `check` finds out whether that will work. `namespace` (letters, digits, `_.-`)
    begins every Redis key, and `timeout_s` is how long Redis may take to answer one command, in seconds; both are for Redis only.

    Raises ValueError, without quoting a password, where the URL is wrong, and StoreError where a package is missing.
    """
    kind, _, rest = url.partition(":")
    if url == "memory:":
        return MemoryStore()
    if kind in ("redis", "rediss", "unix") and rest.startswith("//"):
        return RedisStore(url, namespace=namespace, timeout_s=timeout_s)
    if kind == "sqlite" and rest.startswith("//"):
        raise ValueError(f"{url}: in sqlite:PATH the path follows the colon without //")
    if kind == "sqlite" and rest != ":memory:":
        return SQLiteStore(rest)
    if SCHEME.match(url) or url in ("memory", "sqlite", "redis"):
        raise ValueError(f"a URL that begins with {kind}: names no store; write {KINDS}")  # not quoted: it may hold a password
    return SQLiteStore(url)
