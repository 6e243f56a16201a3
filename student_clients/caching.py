"""The answer cache: an equal question to an equal student costs one call, over runs and processes.

Each sample is an entry of its own. Its key is everything that the answer depends on (student, parameters, messages, sample index), the
composer's template version, and the split, so that what was paid for in training is never taken for a test answer. Equal requests in
flight share one call. An entry that cannot be read is a miss, reported once; a cache that fails later only costs calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from exchange.compose import template_version
from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from exchange.settings import SettingError, Settings, from_environment
from store import Store, StoreError
from student_clients.ledger import Adapter, StudentWrapper

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where caches lie: WST_CACHE_DIR, default `.cache/wst`."""
    return Path(os.environ.get("WST_CACHE_DIR") or ".cache/wst")


class CacheConfig(Settings):
    enabled: bool = True
    """Whether answers are kept and used again. An embedded or greedy student gives the same answer anyway; of a sampled one each sample
    index is kept by itself."""
    url: str | None = Field(default=None, min_length=1)
    """A file, or redis://HOST:PORT/DB to share it between machines; env:NAME takes the URL from the environment. None = students.sqlite3
    under WST_CACHE_DIR (default `.cache/wst`)."""

    @field_validator("url")
    @classmethod
    def _no_password(cls, url: str | None) -> str | None:
        if url is not None and "://" in url and "@" in url:
            raise ValueError("a URL with a login would stand in every config; put it into an environment variable and write env:NAME")
        return url

    def location(self) -> str:
        """The store's URL. Raises SettingError where it is to come from a variable that is not set."""
        if self.url is None:
            return str(cache_dir() / "students.sqlite3")
        return from_environment("student.cache.url", self.url)


def sample_key(identity: str, messages: Sequence[Message], params: SamplingParams, sample_index: int) -> str:
    """The key of one sample: a hash of all that its answer depends on."""
    parts = [
        identity,
        template_version(),
        params.model_dump(),
        [[message.role, message.content] for message in messages],
        sample_index,
    ]
    return "answer:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def pack(completion: Completion) -> bytes:
    """A stored entry: 8 hex digits of a checksum, then the record as JSON."""
    body = completion.model_dump_json(exclude_defaults=True).encode()
    return b"%08x" % zlib.crc32(body) + body


def unpack(entry: bytes) -> Completion | None:
    """The record of a stored entry, as a cache hit that cost nothing; None where the entry is damaged."""
    body = entry[8:]
    if entry[:8] != b"%08x" % zlib.crc32(body):
        return None
    try:
        completion = Completion.model_validate_json(body)
    except ValidationError:  # written by a version with other fields
        return None
    return completion.model_copy(update={"cached": True, "cost_usd": 0.0, "latency_s": 0.0})


class CachedStudent(StudentWrapper):
    """Gives kept answers and asks `client` for the others. Proxied requests are not kept: their replies are streams of bytes."""

    def __init__(self, client: Adapter, store: Store) -> None:
        super().__init__(client)
        self.store = store
        self._lock = threading.Lock()
        self._in_flight: dict[str, Future[Completion]] = {}
        self._told: set[str] = set()

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        keys = [sample_key(self.identity, messages, params, sample_index + i) for i in range(n)]
        shared: dict[int, Future[Completion]] = {}
        ours: dict[int, Future[Completion]] = {}
        with self._lock:
            for i, key in enumerate(keys):
                if key in self._in_flight:
                    shared[i] = self._in_flight[key]
                else:
                    ours[i] = self._in_flight[key] = Future()
        try:
            # Looked up after it was claimed, so that an answer kept in between is not asked for again.
            for i, kept in zip(ours, await self._kept([keys[i] for i in ours]), strict=True):
                if kept is not None:
                    ours[i].set_result(kept)
            for start, stop in _runs([i for i in ours if not ours[i].done()]):
                asked = await self.client.complete(messages, params, n=stop - start, sample_index=sample_index + start)
                for i, completion in zip(range(start, stop), asked, strict=True):
                    await self._keep(keys[i], completion)
                    ours[i].set_result(completion)
        except Exception as error:
            for future in ours.values():
                if not future.done():
                    future.set_exception(error)
            raise
        finally:
            with self._lock:
                for i, future in ours.items():
                    future.cancel()  # no effect on a done one; the others' askers ask for themselves
                    del self._in_flight[keys[i]]
        answers = {i: future.result() for i, future in ours.items()}
        for i, future in shared.items():
            try:
                answer = await asyncio.shield(asyncio.wrap_future(future))
                answers[i] = answer.model_copy(update={"cached": True, "cost_usd": 0.0})
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not future.cancelled() or (task is not None and task.cancelling()):
                    raise  # it is we who were cancelled, not only the request that we waited for
                (answers[i],) = await self.complete(messages, params, sample_index=sample_index + i)
        return [answers[i] for i in range(n)]

    async def _kept(self, keys: Sequence[str]) -> list[Completion | None]:
        """What the cache holds; None for a miss."""
        if not keys:
            return []
        try:
            entries = await self.store.get_many(keys)
        except StoreError as error:
            self._tell(str(error))
            return [None] * len(keys)
        kept = [unpack(entry) if entry is not None else None for entry in entries]
        damaged = sum(entry is not None and answer is None for entry, answer in zip(entries, kept, strict=True))
        if damaged:
            self._tell("it holds entries that cannot be read; they are asked for anew")
        return kept

    async def _keep(self, key: str, completion: Completion) -> None:
        try:
            await self.store.put(key, pack(completion))
        except StoreError as error:
            self._tell(str(error))

    def _tell(self, text: str) -> None:
        """Warn of a trouble once, not once a call."""
        if text not in self._told:
            self._told.add(text)
            log.warning("answer cache %s: %s", self.store.url, text)

    async def check(self) -> None:
        """Raises SettingError where the cache cannot be used, else what the student's own check raises."""
        try:
            await self.store.check()
        except StoreError as error:
            raise SettingError(
                f"the answer cache: {error}; set student.cache.url or WST_CACHE_DIR to another place, or student.cache.enabled=false"
            ) from None
        await super().check()

    async def aclose(self) -> None:
        await super().aclose()
        await self.store.aclose()


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """(start, stop) of the stretches of consecutive numbers in a sorted list."""
    runs: list[tuple[int, int]] = []
    for i in indices:
        if runs and runs[-1][1] == i:
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    return runs
