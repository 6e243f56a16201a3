"""Several processes on one store, and processes that are killed while they write."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from store import Store, open_store
from tests.requirements import ROOT
from tests.store.conftest import WORKER, Place, use
from tests.store.worker import value_of


@contextmanager
def workers(*calls: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of tests.store.worker that begin together; they are killed if they are still there at the end."""
    pipe = subprocess.PIPE
    running = [subprocess.Popen([*WORKER, *call], cwd=ROOT, text=True, stdin=pipe, stdout=pipe, process_group=0) for call in calls]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        begin_at = time.time() + 0.05
        for process in running:
            assert process.stdin is not None
            process.stdin.write(f"{begin_at}\n")
            process.stdin.flush()
        yield running
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it forked
            process.communicate()


def test_processes_never_spend_more_than_the_limit_and_lose_no_count(place: Place) -> None:
    calls = [["spend", place.url, place.namespace, f"p{i}", "200", "500"] for i in range(4)]
    with workers(*calls) as running:
        granted = [int(process.communicate()[0]) for process in running]
        assert [process.returncode for process in running] == [0] * 4
    assert sum(granted) == 500
    assert use(place.open(), lambda store: store.totals("budget")) == {"all": 0} | {
        f"p{i}": count for i, count in enumerate(granted) if count
    }


def test_what_a_killed_process_had_put_is_there_and_whole(place: Place) -> None:
    with workers(*(["put", place.url, place.namespace, f"p{i}"] for i in range(2))) as running:
        lines: list[str] = []
        for process, after in zip(running, (20, 55)):
            assert process.stdout is not None
            lines += [process.stdout.readline() for _ in range(after)]
            process.kill()
            lines += process.stdout.readlines()
    keys = [line.strip() for line in lines if line.endswith("\n")]
    assert len(keys) >= 75

    async def body(store: Store) -> None:
        assert await store.get_many(keys) == [value_of(key) for key in keys]
        # The one whose put was cut off: whole or not there.
        for i in range(2):
            last = f"p{i}-{sum(key.startswith(f'p{i}-') for key in keys)}"
            assert await store.get(last) in (None, value_of(last))
        await store.check()

    use(place.open(), body)


def test_processes_make_the_same_file_at_the_same_moment(tmp_path: Path) -> None:
    with workers(*(["make", str(tmp_path), "25"] for _ in range(4))) as running:
        assert [process.wait() for process in running] == [0] * 4
    for i in range(25):
        store = open_store(str(tmp_path / str(i) / "store.db"))
        assert use(store, lambda store: store.totals("account")) == {"made": 4}


def test_forked_processes_go_on_with_connections_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with workers(["fork", str(path), "10"]) as (process,):
        codes, added = process.communicate(timeout=30)[0].splitlines()
    assert codes == " ".join("0" * 10)
    assert use(open_store(str(path)), lambda store: store.totals("account")) == {"children": 500, "parent": int(added)}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_forked_process_keeps_what_it_writes_after_its_parent_has_closed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with workers(["outlive", str(path)]) as (process,):
        assert process.communicate(timeout=30)[0] == "0\n"
    assert use(open_store(str(path)), lambda store: store.get_many(["parent", "before", "after"])) == [b""] * 3
