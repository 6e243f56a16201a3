"""Which URL opens what, and what is said of wrong ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from store import MemoryStore, RedisStore, SQLiteStore, StoreError, open_store
from tests.requirements import ROOT

SECRET = "pa55word"


def test_each_kind_and_how_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    kinds = {
        "memory:": (MemoryStore, "memory:"),
        "sqlite:a/b.db": (SQLiteStore, f"sqlite:{tmp_path}/a/b.db"),
        "sqlite:/x/b.db": (SQLiteStore, "sqlite:/x/b.db"),
        "b.db": (SQLiteStore, f"sqlite:{tmp_path}/b.db"),
        "~/b.db": (SQLiteStore, f"sqlite:{tmp_path}/home/b.db"),
        "./odd:name": (SQLiteStore, f"sqlite:{tmp_path}/odd:name"),
        "redis://h": (RedisStore, "redis://h:6379/0"),
        "redis://[::1]:1/3": (RedisStore, "redis://[::1]:1/3"),
        f"redis://user:{SECRET}@h:1234/2": (RedisStore, "redis://h:1234/2"),
        f"rediss://:{SECRET}@h?ssl_cert_reqs=none&db=4": (RedisStore, "rediss://h:6379/4"),
        f"unix:///run/r.sock?db=1&password={SECRET}": (RedisStore, "unix:///run/r.sock?db=1"),
    }
    for url, (kind, shown) in kinds.items():
        store = open_store(url)
        assert (type(store), store.url) == (kind, shown)
    assert list(tmp_path.iterdir()) == [], "opening a store touches nothing before the first call"


WRONG = {
    "": "write sqlite:PATH",
    "sqlite:": "write sqlite:PATH",
    "a\0b": "write sqlite:PATH",
    "sqlite:///x.db": "without //",
    "sqlite::memory:": "names no store; write memory:",
    "memory": "names no store; write memory:",
    "memory:x": "names no store",
    "redis": "names no store",
    "redis:localhost": "names no store",
    f"postgres://u:{SECRET}@h": "that begins with postgres: names no store",
    f"redis://:{SECRET}@h/{SECRET}": "not the URL of a Redis server",
    f"redis://:{SECRET}@h:port": "not the URL of a Redis server",
    f"redis://:/{SECRET}@h": "%2F for /",
    f"redis://:1/{SECRET}@h": "%2F for /",
    f"redis://:#{SECRET}@h": "%23 for #",
    f"redis://:?{SECRET}@h": "%3F for [?]",
    f"redis://:@{SECRET}@h": "%40 for @",
    f"redis://h?db={SECRET}": "not the URL of a Redis server",
    "redis://h?socket_timeout=9": "not the URL of a Redis server",
    "rediss://h?ssl_bogus=1": "not the URL of a Redis server",
    "rediss://h?ssl_cert_reqs=bogus": "not the URL of a Redis server",
    "redis://h?ssl_cert_reqs=none": "not the URL of a Redis server",
    "unix://run/r.sock": "not the URL of a Redis server",
    "unix://": "not the URL of a Redis server",
}


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_url_is_refused_in_one_line_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=WRONG[url]) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_a_namespace_cannot_reach_into_another() -> None:
    for namespace in ("", "a:value", "a b", "ä"):
        with pytest.raises(ValueError, match="a namespace is made of letters"):
            open_store("redis://h", namespace=namespace)


def test_without_the_redis_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(StoreError, match=r"pip install 'wst-teacher\[redis\]'"):
        open_store("redis://h")


def test_redis_is_imported_only_where_it_is_used() -> None:
    code = "import sys, store; store.open_store('memory:'), store.open_store('x.db'); sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
