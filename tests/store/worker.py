"""What the tests of several processes run in each: `python -m tests.store.worker JOB URL NAMESPACE …`.

It reads from its input when to begin (a Unix time), so that all begin at once when the interpreters are up.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import sys
import threading
import time
from pathlib import Path

from store import Event, EventLog, Store, open_store


def value_of(key: str) -> bytes:
    """40 kB that fit this key and no other, many pages of a file: a torn one shows."""
    return hashlib.sha256(key.encode()).digest() * 1250


async def put_for_ever(store: Store, name: str) -> None:
    """Print each key once its put returned."""
    for i in itertools.count():
        await store.put(key := f"{name}-{i}", value_of(key))
        print(key, flush=True)


def event_of(name: str, i: int) -> Event:
    return Event(id=f"{name}-{i}", topic="topic", kind="kind", time=float(i), content={"value": i, "padding": "x" * (i % 700)})


async def log_for_ever(path: str, redis_url: str, name: str) -> None:
    """Append from ten tasks; print each id once it was acknowledged. `name` goes on where an earlier process with it was killed."""
    log = EventLog(path, redis_url=redis_url or None, redis_timeout_s=0.5)
    log.start()
    first = sum(event.id.startswith(f"{name}-") for event in await log.read_all("topic"))
    numbers = itertools.count(first)

    async def some() -> None:
        for i in numbers:
            # The last ones may have been written and not acknowledged; whoever was not answered asks again.
            for event in (event_of(name, max(0, i - 20)), event_of(name, i)):
                (stored,) = await log.append([event])
                assert stored == event
                print(event.id, flush=True)

    await asyncio.gather(*(some() for _ in range(10)))


async def spend(store: Store, name: str, times: int, limit: int) -> None:
    """Add 1 `times` times under a limit, from ten tasks; print how often that was granted."""

    async def some() -> int:
        return sum([await store.add("budget", {name: 1, "all": 0}, limit=limit) is not None for _ in range(times // 10)])

    print(sum(await asyncio.gather(*(some() for _ in range(10)))))
    await store.aclose()


async def make_files(folder: Path, first_at: float, count: int) -> None:
    """Open and use files that do not exist yet, each at a moment that was agreed upon."""
    for i in range(count):
        store = open_store(str(folder / str(i) / "store.db"))
        while time.time() < first_at + 0.02 * i:
            pass
        await store.add("account", {"made": 1})
        await store.aclose()


def fork(path: str, children: int) -> None:
    """Fork while another thread is busy in the store. The children go on with it, and so does that thread."""
    store = open_store(path)
    forked = threading.Event()
    added = 0

    async def add_until_forked() -> None:
        nonlocal added
        while not forked.is_set():
            await store.add("account", {"parent": 1})
            added += 1
        await store.aclose()

    async def add() -> None:
        for _ in range(50):
            await store.add("account", {"children": 1})

    thread = threading.Thread(target=lambda: asyncio.run(add_until_forked()))
    thread.start()
    pids: list[int] = []
    for _ in range(children):
        while added < 20 * len(pids):
            time.sleep(0.001)
        if not (pid := os.fork()):
            asyncio.run(add())
            os._exit(0)
        pids.append(pid)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
    forked.set()
    thread.join()
    print(added)


def outlive(path: str) -> None:
    """A forked child that writes before and after its parent closes the store."""
    store = open_store(path)
    asyncio.run(store.put("parent", b""))
    to_parent, to_child = os.pipe(), os.pipe()
    if not (pid := os.fork()):
        asyncio.run(store.put("before", b""))
        os.write(to_parent[1], b".")
        os.read(to_child[0], 1)
        asyncio.run(store.put("after", b""))
        os._exit(0)
    os.read(to_parent[0], 1)
    asyncio.run(store.aclose())
    os.write(to_child[1], b".")
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def main(job: str, *arguments: str) -> None:
    print("ready", flush=True)
    begin_at = float(sys.stdin.readline())
    if job == "make":
        folder, count = arguments
        return asyncio.run(make_files(Path(folder), begin_at, int(count)))
    if job == "fork":
        path, count = arguments
        return fork(path, int(count))
    if job == "outlive":
        return outlive(*arguments)
    if job == "log":
        return asyncio.run(log_for_ever(*arguments))
    url, namespace, name, *numbers = arguments
    store = open_store(url, namespace=namespace, timeout_s=10)
    if job == "put":
        asyncio.run(put_for_ever(store, name))
    elif job == "spend":
        asyncio.run(spend(store, name, *map(int, numbers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
