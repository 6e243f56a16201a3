"""Rate limits shared by all processes that use one Redis, in one round trip a request; the same in this process's memory.

GCRA (the leaky bucket as a meter, ITU-T I.371): each limit keeps one number, the time at which its bucket would be full again. A request
moves that by `cost × 60 / limit` seconds and is refused where it would lie more than a minute ahead, so a caller may take a minute's worth
at once and then as much as flows back. Nothing is taken unless all limits allow it. What is in flight holds a lease, which the requests of
a killed process lose by time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from store.redis import RedisStore

PERIOD_S = 60.0
LEASE_S = 900.0
"""A request that is longer in flight than this no longer counts as such."""

TAKE = f"""
local t = redis.call('TIME')
local now = t[1] + t[2] / 1e6
local held = redis.call('HMGET', KEYS[1], 'requests', 'tokens')
local after, left, reset = {{}}, -1, 0
for i, name in ipairs({{'requests', 'tokens'}}) do
  local limit, cost = tonumber(ARGV[i]), tonumber(ARGV[i + 2])
  if limit > 0 then
    local full = math.max(tonumber(held[i] or '0'), now) + {PERIOD_S} / limit * math.min(cost, limit)
    if full - now > {PERIOD_S} + 1e-6 then
      return {{name, string.format('%.6f', full - now - {PERIOD_S}), '0', string.format('%.6f', full - now)}}
    end
    after[name] = full
    if name == 'requests' or left < 0 then
      left, reset = math.floor(({PERIOD_S} - (full - now)) * limit / {PERIOD_S} + 1e-6), full - now
    end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if tonumber(ARGV[5]) > 0 then
  if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[5]) then return {{'concurrency', '1', '0', '1'}} end
end
if tonumber(ARGV[5]) > 0 or tonumber(ARGV[2]) > 0 then
  redis.call('ZADD', KEYS[2], now + {LEASE_S}, ARGV[6])
  redis.call('PEXPIRE', KEYS[2], {int(1000 * LEASE_S)})
end
for name, full in pairs(after) do redis.call('HSET', KEYS[1], name, string.format('%.6f', full)) end
local last = math.max(after['requests'] or 0, after['tokens'] or 0)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 1000 * math.max({2 * PERIOD_S}, last - now + {PERIOD_S})))
return {{'', '0', tostring(left), string.format('%.6f', reset)}}
"""
GIVE_BACK = f"""
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
if tonumber(ARGV[2]) > 0 and redis.call('HEXISTS', KEYS[1], 'tokens') == 1 then
  local full = tonumber(redis.call('HINCRBYFLOAT', KEYS[1], 'tokens', string.format('%.6f', ARGV[3] * {PERIOD_S} / ARGV[2])))
  local ahead = full - redis.call('TIME')[1]
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 1000 * math.max({2 * PERIOD_S}, ahead + {PERIOD_S})))
end
return 1
"""


@dataclass(frozen=True)
class Quota:
    """What one caller may take; None = no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a request may go on, and what the caller is told."""

    refused: str | None
    """The limit that stands in the way: requests, tokens or concurrency; None = it may go on."""
    retry_after_s: float
    remaining: int
    """Of the first of the caller's limits; -1 where it has none."""
    reset_s: float
    """Seconds until that limit is whole again."""


class Limiter(Protocol):
    """Counts what callers take. A lease that was granted is given back once."""

    async def take(self, caller: str, quota: Quota, lease: str, *, requests: int = 1, tokens: int = 0) -> Verdict:
        """Take from all of the caller's limits, or from none. A cost above a whole limit counts as that limit. Raises StoreError."""
        ...

    async def give_back(self, caller: str, quota: Quota, lease: str, *, tokens: int = 0) -> None:
        """End a lease; `tokens` is what was taken beyond what `take` was told, negative where it was less. Of a lease that is none, or was
        given back before, nothing changes, so that whoever lost the reply may say it again. Raises StoreError."""
        ...


class RedisLimiter:
    """Counts in Redis, by Redis's own clock."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    async def take(self, caller: str, quota: Quota, lease: str, *, requests: int = 1, tokens: int = 0) -> Verdict:
        limits = (quota.requests_per_minute or 0, quota.tokens_per_minute or 0)
        reply = await self._store.script(TAKE, self._keys(caller), [*limits, requests, tokens, quota.concurrency or 0, lease])
        name, retry_after, left, reset = (part.decode() for part in reply)
        return Verdict(name or None, float(retry_after), int(float(left)), float(reset))

    async def give_back(self, caller: str, quota: Quota, lease: str, *, tokens: int = 0) -> None:
        await self._store.script(GIVE_BACK, self._keys(caller), [lease, quota.tokens_per_minute or 0, tokens])

    @staticmethod
    def _keys(caller: str) -> list[str]:
        return [f"{{{caller}}}:rate", f"{{{caller}}}:leases"]  # in braces: one slot of a cluster


@dataclass
class _Held:
    """One caller's state, as in Redis."""

    full: dict[str, float] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)


class MemoryLimiter:
    """Counts in this process: without a Redis, and while it does not answer. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, _Held] = {}

    async def take(self, caller: str, quota: Quota, lease: str, *, requests: int = 1, tokens: int = 0) -> Verdict:
        now = self._clock()
        held = self._held.setdefault(caller, _Held())
        after: dict[str, float] = {}
        left, reset = -1, 0.0
        for name, limit, cost in (("requests", quota.requests_per_minute, requests), ("tokens", quota.tokens_per_minute, tokens)):
            if limit is None:
                continue
            full = max(held.full.get(name, 0.0), now) + PERIOD_S / limit * min(cost, limit)
            if full - now > PERIOD_S + 1e-6:
                return Verdict(name, full - now - PERIOD_S, 0, full - now)
            after[name] = full
            if name == "requests" or left < 0:
                left, reset = math.floor((PERIOD_S - (full - now)) * limit / PERIOD_S + 1e-6), full - now
        while held.leases and next(iter(held.leases.values())) <= now:  # in order of time
            held.leases.pop(next(iter(held.leases)))
        if quota.concurrency is not None and len(held.leases) >= quota.concurrency:
            return Verdict("concurrency", 1.0, 0, 1.0)
        if quota.concurrency is not None or quota.tokens_per_minute is not None:
            held.leases[lease] = now + LEASE_S
        held.full.update(after)
        return Verdict(None, 0.0, left, reset)

    async def give_back(self, caller: str, quota: Quota, lease: str, *, tokens: int = 0) -> None:
        held = self._held.setdefault(caller, _Held())
        if held.leases.pop(lease, None) is None:
            return
        if quota.tokens_per_minute is not None and "tokens" in held.full:
            held.full["tokens"] += tokens * PERIOD_S / quota.tokens_per_minute
