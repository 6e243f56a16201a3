"""The part of the event log that replicas share: a Redis Stream that holds every event once.

`NAMESPACE:{events}:stream` is the stream, `NAMESPACE:{events}:ids` the place of each id in it, `NAMESPACE:{events}:erased` the places whose
entries were erased; the braces keep them on one node of a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.redis import RedisStore

# The place that an id was given tells a repeated push (whose reply was lost) from a new event: in one step, so never twice.
PUSH = """
local replies = {}
for i = 1, #ARGV, 3 do
  local place = redis.call('HGET', KEYS[2], ARGV[i])
  local entry = place and redis.call('XRANGE', KEYS[1], place, place)[1]
  if entry and ARGV[i + 2] == '1' and entry[2][2] ~= ARGV[i + 1] then
    redis.call('XDEL', KEYS[1], place)
    redis.call('SADD', KEYS[3], place)
    entry = nil
  end
  if entry then
    replies[#replies + 1] = {false, entry[2][2] ~= ARGV[i + 1] and entry[2][2]}
  else
    place = redis.call('XADD', KEYS[1], '*', 'event', ARGV[i + 1])
    redis.call('HSET', KEYS[2], ARGV[i], place)
    replies[#replies + 1] = {place, false}
  end
end
return replies
"""


class RedisStream:
    """One command each, with `timeout_s` to answer it; every method raises StoreError where Redis fails."""

    def __init__(self, url: str, *, namespace: str, timeout_s: float) -> None:
        """Raises ValueError for a bad URL or namespace, StoreError where redis-py is missing."""
        self._server = RedisStore(url, namespace=namespace, timeout_s=timeout_s)
        self.url = self._server.url
        self._keys = [f"{namespace}:{{events}}:stream", f"{namespace}:{{events}}:ids", f"{namespace}:{{events}}:erased"]

    async def push(self, events: Sequence[tuple[str, bytes, bool]]) -> list[tuple[str | None, bytes | None]]:
        """Add (id, event, whether it is what is left of an erased one, which goes before any other). For each the place at which it was
        added now, None = its id was there, and the different event that was there, None = none was."""
        arguments = [part for event_id, data, erased in events for part in (event_id.encode(), data, int(erased))]
        replies = await self._server._ask("EVAL", PUSH, 3, *self._keys, *arguments)
        return [(None if place is None else place.decode(), data) for place, data in replies]

    async def pull(self, after: str, count: int) -> tuple[bool, list[tuple[str, bytes]]]:
        """(whether the stream lacks the entry at place `after`, up to `count` entries behind it as (place, event)).

        The entry at `after` itself is asked for too: a stream without it, where nobody erased it, is not the one that was read before.
        """
        entries = await self._server._ask("XRANGE", self._keys[0], after or "-", "+", "COUNT", count + 1)
        found = [(place.decode(), data) for place, (_, data) in entries]
        if after and (not found or found[0][0] != after):
            erased = await self._server._ask("SISMEMBER", self._keys[2], after)
            return not erased, found[:count] if erased else []
        return False, found[1:] if after else found

    async def end(self) -> str:
        """The place of the last entry; empty where there is none."""
        entries = await self._server._ask("XREVRANGE", self._keys[0], "+", "-", "COUNT", 1)
        return entries[0][0].decode() if entries else ""

    async def aclose(self) -> None:
        await self._server.aclose()


def later(place: str, other: str) -> bool:
    """Whether `place` lies behind `other` in a stream; empty = before its first entry."""
    first, second = (tuple(int(part) for part in one.split("-")) if one else () for one in (place, other))
    return first > second
