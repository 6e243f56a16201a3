"""What is asked once a question and then known: the student's raw answer, the majority of its samples.

Askers of the same key share one call, also from different event loops: TRL calls rewards on a loop of its own thread. A failure is told to
all who wait for it and forgotten, so that the next asker tries again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

Known = TypeVar("Known")


class Once(Generic[Known]):
    """Results by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: dict[Hashable, Future[Known]] = {}

    async def get(self, key: Hashable, make: Callable[[], Awaitable[Known]]) -> Known:
        """The result of the first `make()` for this key that did not fail. Raises what `make` raises."""
        with self._lock:
            held = self._results.get(key)
            if held is None:
                future = self._results[key] = Future()
        if held is not None:
            try:
                return await asyncio.shield(asyncio.wrap_future(held))
            except (asyncio.CancelledError, CancelledError):
                task = asyncio.current_task()
                if not held.cancelled() or (task is not None and task.cancelling()):
                    raise  # it is we who were cancelled, not the one that we waited for
                return await self.get(key, make)
        try:
            result = await make()
        except BaseException as error:
            with self._lock:
                del self._results[key]
            if isinstance(error, Exception):
                future.set_exception(error)
            else:
                future.cancel()
            raise
        future.set_result(result)
        return result
