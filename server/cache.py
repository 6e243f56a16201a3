"""Instructions that were written once: an equal query of the same tenant to the same teacher needs no second thought.

Exact, never by likeness: a near miss would change answers in silence and mix the arms of an experiment. The key is everything that the
instruction depends on. Held in this process (the newest `most`) and, where there is a store, shared by all replicas; the store may be slow
or gone, then it is left alone (a breaker) and the cache is this process's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable

from pydantic import ValidationError

from exchange.records import Instruction, PublicExample
from server.breaker import Breaker
from server.tracing import span
from store import Store, StoreError

log = logging.getLogger("wst.server")


def cache_key(example: PublicExample, teacher_sha256: str, *, tenant: str) -> str:
    """Equal for requests that get equal instructions. The app's system prompt is not in it: the teacher does not see it."""
    parts = [tenant, teacher_sha256, example.task, [[turn.role, turn.content] for turn in example.history], example.query]
    return "instruction:" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class InstructionCache:
    """The two levels. Never raises; whatever goes wrong is a miss."""

    def __init__(
        self,
        *,
        most: int,
        ttl_s: float,
        store: Store | None = None,
        timeout_s: float = 0.05,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`most` entries at most are held in this process, 0 = none; an entry lasts `ttl_s`, a tenth less or more, so that what was written
        together does not expire together."""
        self.most = most
        self.ttl_s = ttl_s
        self.store = store
        self.timeout_s = timeout_s
        self.breaker = breaker or Breaker(most_failures=3)
        self.hits = 0
        self.misses = 0
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, Instruction]] = OrderedDict()
        self._writing: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> Instruction | None:
        """The instruction as the teacher wrote it; None = not known, or expired."""
        found = self._held.get(key)
        if found is None or found[0] <= self._clock():
            self._held.pop(key, None)
            found = await self._stored(key)
            if found is not None:
                self._hold(key, found)
        else:
            self._held.move_to_end(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        return found[1]

    def put(self, key: str, instruction: Instruction) -> None:
        """Keep an instruction. The store is written behind the caller's back."""
        expires = self._clock() + self.ttl_s * random.uniform(0.9, 1.1)
        self._hold(key, (expires, instruction))
        if self.store is not None and self.breaker.allows():
            writing = asyncio.create_task(self._write(self.store, key, expires, instruction))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    async def aclose(self) -> None:
        if self._writing:
            await asyncio.wait(self._writing)

    def _hold(self, key: str, entry: tuple[float, Instruction]) -> None:
        self._held[key] = entry
        while len(self._held) > self.most:
            self._held.popitem(last=False)

    async def _stored(self, key: str) -> tuple[float, Instruction] | None:
        if self.store is None or not self.breaker.allows():
            return None
        try:
            with span("store cache"):
                async with asyncio.timeout(self.timeout_s):  # the wait for a free connection too
                    entry = await self.store.get(key)
        except (StoreError, TimeoutError) as error:
            self._failed(error)
            return None
        self.breaker.succeeded()
        return _unpacked(entry, self._clock()) if entry is not None else None

    async def _write(self, store: Store, key: str, expires: float, instruction: Instruction) -> None:
        try:
            async with asyncio.timeout(self.timeout_s):
                await store.put(key, json.dumps([expires, instruction.model_dump()]).encode(), expire_s=max(1.0, expires - self._clock()))
            self.breaker.succeeded()
        except (StoreError, TimeoutError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        was_open = self.breaker.open
        self.breaker.failed()
        if self.breaker.open and not was_open:
            log.warning("the instruction cache does without its store for a while: %s", error)


def _unpacked(entry: bytes, now: float) -> tuple[float, Instruction] | None:
    """A stored entry, checked; None where it is damaged, foreign or expired."""
    try:
        expires, record = json.loads(entry)
        if not isinstance(expires, int | float) or expires <= now:
            return None
        return expires, Instruction.model_validate(record)
    except (ValueError, TypeError, ValidationError):
        return None
