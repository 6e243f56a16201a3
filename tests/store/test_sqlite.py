"""The file: what is made, and what is said where it cannot be."""

import asyncio
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import store.sqlite
from store import SQLiteStore, Store, StoreError, open_store
from tests.store.conftest import use

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a user whom permissions hold back, as which the test then runs: root may write anywhere."""
    made = Path(tempfile.mkdtemp(prefix="wst-store-"))
    user = os.geteuid()
    if user == 0:
        os.chown(made, NOBODY, -1)
        os.seteuid(NOBODY)
    try:
        yield made
    finally:
        os.seteuid(user)
        made.chmod(0o755)
        shutil.rmtree(made)


def failure(path: Path) -> str:
    """What a store at this path says of itself, the same for a check, a read and a write."""

    async def body(opened: Store) -> str:
        said = set()
        for call in (opened.check(), opened.put("a", b"2"), opened.add("a", {"n": 1})):
            with pytest.raises(StoreError) as caught:
                await call
            said.add(str(caught.value))
        (text,) = said
        assert "\n" not in text
        return text

    return use(SQLiteStore(path), body)


def filled(path: Path) -> Path:
    use(SQLiteStore(path), lambda opened: opened.put("a", b"1"))
    return path


def test_the_file_is_in_wal_mode_and_says_whose_it_is(tmp_path: Path) -> None:
    path = filled(tmp_path / "deep" / "er" / "store.db")
    with closing(sqlite3.connect(path)) as connection:
        facts = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "application_id", "user_version")]
    assert facts == ["wal", int.from_bytes(b"WSTS", "big"), 1]


def test_a_put_waits_for_no_commit(tmp_path: Path) -> None:
    async def body(opened: Store) -> None:
        await opened.put("a", b"1")
        with closing(sqlite3.connect(tmp_path / "store.db")) as other:
            assert other.execute("SELECT value FROM entries").fetchall() == [(b"1",)]

    use(SQLiteStore(tmp_path / "store.db"), body)


def test_a_read_only_file(folder: Path) -> None:
    path = filled(folder / "store.db")
    path.chmod(0o444)
    assert failure(path) == (
        f"{path} cannot be written (attempt to write a readonly database); make the file and its folder writable or set another path"
    )


def test_a_folder_that_may_not_be_written(folder: Path) -> None:
    folder.chmod(0o555)
    assert failure(folder / "store.db").startswith(f"{folder / 'store.db'} cannot be written (unable to open database file); make the file")
    assert failure(folder / "new" / "store.db") == f"cannot make the folder {folder / 'new'} (Permission denied); set another path"


def test_a_folder_in_its_place_and_a_file_in_the_place_of_its_folder(tmp_path: Path) -> None:
    assert failure(tmp_path) == f"{tmp_path} is a folder; set the path of a file"
    (tmp_path / "file").touch()
    assert failure(tmp_path / "file" / "store.db") == f"cannot make the folder {tmp_path / 'file'} (File exists); set another path"


@pytest.mark.parametrize("content", [b"garbage", b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    assert failure(path).startswith(f"{path} is no SQLite database, or a damaged one (")
    assert path.read_bytes() == content


def test_a_damaged_file(tmp_path: Path) -> None:
    path = filled(tmp_path / "store.db")
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    assert failure(path).startswith(f"{path} is no SQLite database, or a damaged one (")


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    assert use(SQLiteStore(filled(tmp_path / "store.db")), lambda opened: opened.get("a")) == b"1"


def test_another_version_and_another_program(tmp_path: Path) -> None:
    path = filled(tmp_path / "store.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    assert failure(path) == f"{path} was made by another version of the program; delete it or set another path"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 7")
    assert failure(path) == f"{path} is a database of another program; set another path"
    with closing(sqlite3.connect(tmp_path / "plain.db")) as connection:
        connection.execute("CREATE TABLE entries (key, value)")
    assert failure(tmp_path / "plain.db") == f"{tmp_path / 'plain.db'} is a database of another program; set another path"


def test_a_file_that_another_process_keeps_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path / "store.db")
    monkeypatch.setattr(store.sqlite, "BUSY_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert failure(path) == f"{path} was locked by another process for 0.05 s; end that process or set another path"
        assert use(SQLiteStore(path), lambda opened: opened.get("a")) == b"1"
        other.execute("ROLLBACK")
    use(SQLiteStore(path), lambda opened: opened.check())


def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    path = filled(tmp_path / "store.db")
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.1, other.execute, ["COMMIT"])
        release.start()
        assert use(SQLiteStore(path), lambda opened: opened.add("n", {"f": 1})) == {"f": 1}
        release.join()


def test_a_failed_add_leaves_no_transaction_open(tmp_path: Path) -> None:
    async def body(opened: Store) -> None:
        with pytest.raises(ValueError, match="nothing was added"):
            await opened.add("n", {"f": 2**53 - 1, "g": 1})
        with pytest.raises(UnicodeEncodeError):
            await opened.add("n", {"f": 1, "\ud800": 1})
        assert await opened.totals("n") == {}
        assert await open_store(str(tmp_path / "store.db")).add("n", {"f": 1}) == {"f": 1}

    use(SQLiteStore(tmp_path / "store.db"), body)


def test_a_store_stays_where_it_is_when_the_process_changes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = SQLiteStore("store.db")
    monkeypatch.chdir("/")
    asyncio.run(opened.put("a", b"1"))
    asyncio.run(opened.aclose())
    assert (tmp_path / "store.db").exists()
