"""The three kinds of store, each as a fresh place that may be opened as often as a test likes."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from store import Store, open_store
from tests.redis_server import redis_server

__all__ = ["WORKER", "Place", "redis_server", "use"]

WORKER = [sys.executable, "-m", "tests.store.worker"]
REDIS = pytest.param("redis", marks=pytest.mark.redis)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """Where a store is: what a process needs to open it."""

    url: str
    namespace: str

    def open(self) -> Store:
        # Patient: what these tests are about is not how soon a loaded machine answers.
        return open_store(self.url, namespace=self.namespace, timeout_s=10)


def use(store: Store, body: Callable[[Store], Awaitable[Result]]) -> Result:
    """`body(store)` on an event loop of its own, with the store closed after it."""

    async def run() -> Result:
        try:
            return await body(store)
        finally:
            await store.aclose()

    return asyncio.run(run())


def fresh(kind: str, folder: Path, request: pytest.FixtureRequest) -> Place:
    namespace = f"test-{uuid.uuid4().hex}"
    if kind == "redis":
        return Place(request.getfixturevalue("redis_server").url, namespace)
    return Place("memory:" if kind == "memory" else f"sqlite:{folder / 'new' / 'store.db'}", namespace)


@pytest.fixture(params=["memory", "sqlite", REDIS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind. Redis is closed by the loops that it was used on, or by `use`."""
    return fresh(request.param, tmp_path, request).open()


@pytest.fixture(params=["sqlite", REDIS])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of each kind that processes can share."""
    return fresh(request.param, tmp_path, request)
