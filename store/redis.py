"""The shared store: a Redis server, used by any number of processes and machines.

redis-py's defaults (ten retries, five seconds each) turn a server that hangs into a minute's wait for one key. Here a command is sent
once and has `timeout_s` from connecting to the reply; whoever wants more tries again.

A connection belongs to one event loop and we are used from several: there is one for each, closed by its own loop when that ends,
else by `aclose`. It is redis-py's, which knows URLs, TLS, passwords and replies; commands are written into it here, because a pipeline of
redis-py around a single command costs this process more than everything else about it.

What the server has confirmed outlives this process; whether it outlives the server's is the server's own setting (`appendonly yes`).
Budgets also want `maxmemory-policy noeviction`: an evicted account counts from 0 again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from store import redis_url
from store.protocol import LARGEST_AMOUNT, StoreError, overflow, refuse_large

MOST_TOGETHER = 256
"""Commands that are sent together at most, per event loop; further ones wait their turn, which is not counted as the server's time."""
SLICES = 10

# Numbers are doubles, exact up to LARGEST_AMOUNT; a sum beyond that is rounded, but never back below it.
ADD = f"""
local after, together, size = {{}}, 0, 0
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do after[held[i]] = tonumber(held[i + 1]) end
for i = 2, #ARGV, 2 do after[ARGV[i]] = (after[ARGV[i]] or 0) + tonumber(ARGV[i + 1]) end
for _, amount in pairs(after) do together = together + amount; size = size + math.abs(amount) end
if size > {LARGEST_AMOUNT} then return 'overflow' end
if ARGV[1] ~= '' and together > tonumber(ARGV[1]) then return false end
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], string.format('%.0f', after[ARGV[i]])) end
return redis.call('HGETALL', KEYS[1])
"""
COMMANDS = (
    *("MGET", "SET", "DEL", "EVAL", "EVALSHA", "HGETALL", "HSET"),
    *("HGET", "XADD", "XRANGE", "XREVRANGE", "XDEL", "SADD", "SISMEMBER"),  # the event log, redis_stream.py
    *("TIME", "HMGET", "HEXISTS", "HINCRBYFLOAT", "PEXPIRE", "ZADD", "ZREM", "ZCARD", "ZREMRANGEBYSCORE"),  # limits.py
)
"""All that this package asks of a server."""
CHECK = "return redis.call('SET', KEYS[1], '', 'PX', 1000)"


@dataclass(eq=False)
class _Client:
    """What one event loop has of ours."""

    connection: Any
    keeper: AsyncGenerator[Any, None]
    waiting: deque[tuple[bytes, asyncio.Future[Any]]] = field(default_factory=deque)
    """A command as it is written, and who waits for its reply."""
    sender: asyncio.Task[None] | None = None


class _UnknownScriptError(Exception):
    """The server has not heard this script yet."""


class RedisStore:
    """Values are Redis strings under `NAMESPACE:value:KEY`, accounts are hashes under `NAMESPACE:account:ACCOUNT`."""

    def __init__(self, url: str, *, namespace: str = "wst", timeout_s: float = 0.5) -> None:
        """Raises ValueError for a bad URL or namespace, StoreError where redis-py is missing."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", namespace):
            raise ValueError(f"{namespace!r}: a namespace is made of letters, digits, '_', '.' and '-'")
        self.url, self._secrets = redis_url.read(url)
        self._address = url
        self._namespace = namespace
        self.timeout_s = timeout_s
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Client] = WeakKeyDictionary()

    async def get(self, key: str) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        names = [self._name("value", key) for key in keys]
        return list(await self._ask("MGET", *names)) if names else []

    async def put(self, key: str, value: bytes, *, expire_s: float | None = None) -> None:
        name = self._name("value", key)
        expiry = () if expire_s is None else ("PX", max(1, math.ceil(1000 * expire_s)))
        await self._ask("SET", name, value, *expiry)

    async def delete(self, key: str) -> None:
        await self._ask("DEL", self._name("value", key))

    async def add(self, account: str, changes: Mapping[str, int], *, limit: int | None = None) -> dict[str, int] | None:
        refuse_large(changes, limit)
        name = self._name("account", account)
        arguments: list[bytes | int | str] = ["" if limit is None else limit]
        for name_of, amount in changes.items():
            arguments += [name_of.encode(), amount]
        reply = await self._ask("EVAL", ADD, 1, name, *arguments)
        if reply == b"overflow":
            raise overflow(account)
        return None if reply is None else _counters(reply)

    async def totals(self, account: str) -> dict[str, int]:
        return _counters(await self._ask("HGETALL", self._name("account", account)))

    async def script(self, source: str, keys: Sequence[str], arguments: Sequence[int | str]) -> Any:
        """What a Lua script returns, for the parts of this package that need more than keys and accounts. `keys` stand below the
        namespace; whatever a caller wrote goes into `keys` and `arguments`, never into `source`. Raises StoreError."""
        names = [self._name("limits", key) for key in keys]
        sha = _sha1(source)
        try:
            return await self._ask("EVALSHA", sha, len(names), *names, *arguments)
        except _UnknownScriptError:  # the first time, and after a restart of the server
            return await self._ask("EVAL", source, len(names), *names, *arguments)

    async def check(self) -> None:
        await self._ask("EVAL", CHECK, 1, f"{self._namespace}:check")

    async def aclose(self) -> None:
        """Close the clients of this loop and of loops that still run on other threads; those of ended loops are closed."""
        here = asyncio.get_running_loop()
        for loop in list(self._clients):
            client = self._clients.pop(loop, None)
            if client is None:
                continue
            if loop is here:
                await client.keeper.aclose()
            elif loop.is_running():
                # A loop that ends before it comes to this, or meanwhile, closes the client itself.
                with contextlib.suppress(TimeoutError, RuntimeError):
                    closing = asyncio.run_coroutine_threadsafe(client.keeper.aclose(), loop)
                    await asyncio.wait_for(asyncio.wrap_future(closing), self.timeout_s)

    def _name(self, kind: str, key: str) -> bytes:
        return f"{self._namespace}:{kind}:{key}".encode()

    async def _ask(self, *command: bytes | str | int) -> Any:
        """The reply to one command; what redis-py raises leaves as StoreError.

        Commands of one loop that come while others are under way go together, in one write and in the order they came: half of what a
        command costs this process is the system call that sends it.
        """
        try:
            packed = _packed(command)
        except UnicodeError as error:
            raise self._translated(error) from None
        client = await self._client()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        client.waiting.append((packed, reply))
        if client.sender is None or client.sender.done():
            client.sender = asyncio.create_task(self._send(client))
        return await reply

    async def _send(self, client: _Client) -> None:
        """Send what waits until nothing waits."""
        # A round of the loop first: it notices the connections that the server has closed meanwhile, which are then replaced, where a
        # command sent into one would fail. Who asks in this round goes with this batch.
        await asyncio.sleep(0)
        while client.waiting:
            batch = [client.waiting.popleft() for _ in range(min(len(client.waiting), MOST_TOGETHER))]
            batch = [(command, reply) for command, reply in batch if not reply.done()]  # the others have given up
            try:
                replies = await self._replies(client.connection, [command for command, _ in batch]) if batch else []
            except asyncio.CancelledError:  # the loop ends
                for _, future in (*batch, *client.waiting):
                    future.cancel()
                raise
            except Exception as error:
                replies = [error] * len(batch)
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(self._raised(reply))
                else:
                    future.set_result(reply)

    async def _replies(self, connection: Any, commands: Sequence[bytes]) -> list[Any]:
        """A reply or an exception for each command. Raises whatever befalls all of them."""
        asking = asyncio.ensure_future(_exchanged(connection, commands))
        try:
            # In slices, so that a loop that stands still for a while (a grader computes on it) loses one slice and not all its time.
            for _ in range(SLICES):
                if (await asyncio.wait({asking}, timeout=self.timeout_s / SLICES))[0]:
                    return asking.result()
            raise TimeoutError(f"nothing within {self.timeout_s:g} s")
        finally:
            if asking.cancel():
                await asyncio.wait({asking})

    def _raised(self, error: Exception) -> Exception:
        """The exception as a caller sees it."""
        import redis

        if isinstance(error, redis.exceptions.NoScriptError):
            return _UnknownScriptError()
        if isinstance(error, (redis.RedisError, OSError, EOFError, ValueError)):  # the last two: a reply that is none of Redis's
            return self._translated(error)  # a new one: what is below may quote the command, and with it the password
        if isinstance(error, RuntimeError) and "closed" in str(error):  # how uvloop says that the connection was reset
            return self._translated(ConnectionError(str(error)))
        return error

    async def _client(self) -> _Client:
        """The running loop's own client."""
        loop = asyncio.get_running_loop()
        held = self._clients.get(loop)
        if held is None:
            keeper = self._open()
            # Reaches its yield without giving way to other tasks, so none of them can open a second client.
            held = self._clients[loop] = _Client(await anext(keeper), keeper)
        return held

    async def _open(self) -> AsyncGenerator[Any, None]:
        """A connection, not yet made, that its event loop closes: `asyncio.run` ends by closing the async generators that its loop has
        begun."""
        from redis.asyncio import ConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        connection = ConnectionPool.from_url(
            self._address,
            protocol=2,  # its connections begin without the greetings of version 3, each of which waits for an answer
            driver_info=None,
            socket_timeout=None,  # `_replies` times the whole of a command
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
        ).make_connection()
        try:
            yield connection
        finally:
            await connection.disconnect(nowait=True)

    def _translated(self, error: Exception) -> StoreError:
        import redis

        said = " ".join(str(error).split())
        for secret in self._secrets:
            said = said.replace(secret, "[password]")
        return StoreError(f"{self.url} {_remedy(error, bool(self._secrets), redis)} ({said[:300] or type(error).__name__})")


def _packed(command: Sequence[bytes | str | int]) -> bytes:
    """A command as the protocol has it. Raises UnicodeError for text that is none."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"".join((b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)))


async def _exchanged(connection: Any, commands: Sequence[bytes]) -> list[Any]:
    """Write commands, and read as many replies, one that is an error as an exception."""
    import redis

    replies: list[Any] = []
    try:
        if await _gone(connection):
            await connection.disconnect(nowait=True)
            await connection.connect()
        await connection.send_packed_command(b"".join(commands), check_health=False)
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except redis.ResponseError as error:
                replies.append(error)
    except BaseException:
        await connection.disconnect(nowait=True)  # a reply that was not read must not become the next command's
        raise
    return replies


async def _gone(connection: Any) -> bool:
    """Whether a connection is not there, closed by the server, or holds what nobody asked for."""
    import redis

    if not connection.is_connected:
        return True
    try:
        return bool(await connection.can_read())
    except (redis.RedisError, OSError):
        return True


def _remedy(error: Exception, has_password: bool, redis: Any) -> str:
    """What went wrong and what to do. Of two classes the derived one comes first."""
    if isinstance(error, redis.exceptions.AuthenticationError):
        if has_password:
            return "refuses the user name or the password of the URL"
        return "wants a password; write it into the URL as redis://:PASSWORD@HOST"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"forbids the user of the URL to do that; allow it {', '.join(COMMANDS)} on the namespace's keys"
    if isinstance(error, UnicodeError):
        return "cannot be sent this; a text that is no Unicode?"
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return "is still loading its data; try again in a moment"
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return "is a replica that may only be read; name the primary"
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return "has no memory left; raise its maxmemory"
    if isinstance(error, redis.exceptions.ResponseError):
        return "refuses the command"
    if isinstance(error, TimeoutError):
        return "does not answer; is the server stuck, is it far away?"
    if isinstance(error, (redis.RedisError, OSError)) and not isinstance(error, redis.exceptions.InvalidResponse):
        return "cannot be reached; is the server running, is the address right?"
    return "does not answer as Redis does; is the address right?"


@cache
def _sha1(source: str) -> str:
    """By which Redis knows a script."""
    return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def _counters(reply: Sequence[bytes]) -> dict[str, int]:
    """Of a hash as the protocol has it: name, amount, name, amount …"""
    return {name.decode(): int(amount) for name, amount in zip(reply[::2], reply[1::2], strict=True)}
