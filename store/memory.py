"""The store that lasts as long as the process: for tests, and where nothing is to be kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from store.protocol import changed, refuse_large


class MemoryStore:
    """Dictionaries. The lock is there for the event loops of other threads; a forked process has a copy of its own."""

    url = "memory:"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, bytes] = {}
        self._accounts: dict[str, dict[str, int]] = {}

    async def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._values.get(key) for key in keys]

    async def put(self, key: str, value: bytes, *, expire_s: float | None = None) -> None:
        self._values[key] = value

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)

    async def add(self, account: str, changes: Mapping[str, int], *, limit: int | None = None) -> dict[str, int] | None:
        refuse_large(changes, limit)
        with self._lock:
            after = changed(account, self._accounts.get(account, {}), changes, limit)
            if after is None:
                return None
            self._accounts[account] = after
        return dict(after)

    async def totals(self, account: str) -> dict[str, int]:
        return dict(self._accounts.get(account, {}))

    async def check(self) -> None:
        """Memory is always there."""

    async def aclose(self) -> None:
        """Nothing to give back."""
