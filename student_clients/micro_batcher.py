"""Gathers what arrives together and runs it together on one worker thread.

Callers are coroutines on any number of event loops; nothing here belongs to one loop. A caller's loop is let spin until a whole round
brings nothing new, so that all that an `asyncio.gather` started goes into one run; what comes while the worker is busy waits for the next.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakSet

Item = TypeVar("Item")
Result = TypeVar("Result")
Other = TypeVar("Other")
Run = Callable[[Sequence[Item], Callable[[], bool]], Iterator[tuple[int, Result | Exception]]]
"""(items, wanted) -> (index of an item, what came of it), each item once, in any order, as they are done. `wanted()` may be
asked from any thread and turns False when nobody waits any more; what is undone then may be given up with an exception."""


class ClosedError(RuntimeError):
    """Submitted to, or waited for, a batcher that was closed."""


@dataclass(eq=False)
class _Ticket(Generic[Item, Result]):
    item: Item
    key: Hashable | None
    waiting: list[Future[tuple[Result, bool]]] = field(default_factory=list)

    def wanted(self) -> bool:
        return not all(future.cancelled() for future in self.waiting)


class MicroBatcher(Generic[Item, Result]):
    """Calls `run` on a thread of its own, one call at a time."""

    def __init__(self, run: Run[Item, Result], *, thread_name: str) -> None:
        self._run = run
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=thread_name)
        self._lock = threading.Lock()
        """Guards all that follows, and the tickets' lists of waiting futures."""
        self._queue: list[_Ticket[Item, Result]] = []
        self._in_flight: dict[Hashable, _Ticket[Item, Result]] = {}
        self._spinning: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        self._closed = False

    def submit(self, item: Item, key: Hashable | None = None) -> Future[tuple[Result, bool]]:
        """(result, shared). Items of equal key in flight are run once: `shared` is False for the first that waits and True for the others;
        None = never shared. Must be called on a running event loop."""
        loop = asyncio.get_running_loop()
        future: Future[tuple[Result, bool]] = Future()
        with self._lock:
            if self._closed:
                raise ClosedError
            ticket = None if key is None else self._in_flight.get(key)
            if ticket is None:
                ticket = _Ticket(item, key)
                self._queue.append(ticket)
                if key is not None:
                    self._in_flight[key] = ticket
            ticket.waiting.append(future)
            # Also when joining: the loop that queued the ticket may have ended before it came to start the worker.
            if loop not in self._spinning:
                self._spinning.add(loop)
                loop.call_soon(self._spin, loop, 0)
        return future

    def _spin(self, loop: asyncio.AbstractEventLoop, seen: int) -> None:
        with self._lock:
            queued = len(self._queue)
            if queued > seen:
                loop.call_soon(self._spin, loop, queued)
                return
            self._spinning.discard(loop)
            if not self._closed:
                self._worker.submit(self._drain)

    def _drain(self) -> None:
        """Worker thread: run all that is queued by now."""
        with self._lock:
            queued, self._queue = self._queue, []
            for ticket in queued:
                if not ticket.wanted():
                    self._in_flight.pop(ticket.key, None)
            left = dict(enumerate(ticket for ticket in queued if ticket.wanted()))
        if not left:
            return
        items = [ticket.item for ticket in left.values()]
        try:
            for i, result in self._run(items, lambda: not self._closed and any(ticket.wanted() for ticket in tuple(left.values()))):
                self._deliver(left.pop(i), result)
        except Exception as error:  # whoever waits must hear of it, else they wait for ever
            for ticket in left.values():
                self._deliver(ticket, error)

    def _deliver(self, ticket: _Ticket[Item, Result], result: Result | Exception) -> None:
        with self._lock:
            self._in_flight.pop(ticket.key, None)
            waiting = [future for future in ticket.waiting if future.set_running_or_notify_cancel()]
        for i, future in enumerate(waiting):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result((result, i > 0))

    async def call(self, function: Callable[[], Other]) -> Other:
        """Run a function on the worker thread."""
        return await asyncio.wrap_future(self._worker.submit(function))

    async def aclose(self) -> None:
        """Give the thread back; whoever still waits gets ClosedError."""
        with self._lock:
            self._closed = True
            queued, self._queue = self._queue, []
        for ticket in queued:
            self._deliver(ticket, ClosedError())
        await asyncio.to_thread(self._worker.shutdown)
