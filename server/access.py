"""Who comes in: the Host, the key, its scope and its limits, before a byte of the body is read.

By the path as it came in the request line (`scope["path"]`), never by a URL, which frameworks rebuild from the caller's Host header. What
is not named here as open or by a scope needs a key with the scope `admin`, so that a new route is closed until somebody opens it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import error_response
from server.keys import Caller, Key, KeyRing
from server.keys import Scope as KeyScope
from server.shared_limits import SharedLimits
from store.limits import Quota, Verdict

OPEN = ("/livez", "/readyz")
"""What orchestrators ask, who have no key; it tells nothing of any tenant."""
SCOPE_OF: tuple[tuple[str, KeyScope], ...] = (
    ("/instruct", "instruct"),
    ("/v1", "proxy"),
    ("/outcomes", "outcomes"),
    ("/experiments", "experiments"),
    ("/metrics", "metrics"),
)
BYTES_A_TOKEN = 4
REFUSED = {
    "requests": "too many requests a minute for this key",
    "tokens": "too many tokens a minute for this key",
    "concurrency": "too many requests of this key at the same time",
}


def scope_of(path: str) -> KeyScope:
    """The scope that a path asks for."""
    return next((name for start, name in SCOPE_OF if path == start or path.startswith(f"{start}/")), "admin")


class Access:
    """The door. Leaves the `Caller` in `scope["state"]["caller"]`; a route may leave the tokens that it took in `["tokens"]`."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing | None, limits: SharedLimits, hosts: Sequence[str] | None) -> None:
        """`keys` None = everybody may do everything. `hosts` None = any Host."""
        self.app, self.keys, self.limits = app, keys, limits
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, request_id = Headers(scope=scope), scope["state"]["request_id"]
        if self.hosts is not None and not self._known_host(headers):
            return await error_response(400, "this server does not go by that Host", request_id)(scope, receive, send)
        if self.keys is None or scope["path"] in OPEN:
            scope["state"]["caller"] = Caller()
            return await self.app(scope, receive, send)
        found = self.keys.find(_given(headers))
        if found is None:
            told = {"WWW-Authenticate": "Bearer"}
            message = "a valid key of this server is needed, as Authorization: Bearer wst_…"
            return await error_response(401, message, request_id, told)(scope, receive, send)
        key_id, key = found
        wanted = scope_of(scope["path"])
        if wanted not in key.scopes and "admin" not in key.scopes:
            return await error_response(403, f"this key has no scope {wanted!r}", request_id)(scope, receive, send)
        scope["state"]["caller"] = key.caller(key_id)
        if key.quota == Quota():
            return await self.app(scope, receive, send)
        await self._limited(key_id, key, scope, receive, send)

    async def _limited(self, key_id: str, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get("content-length", "0")
        tokens = int(length) // BYTES_A_TOKEN if length.isdecimal() and len(length) < 12 else 0
        lease = f"{scope['state']['request_id']}-{id(scope):x}"  # a caller may send one request id twice
        verdict = await self.limits.take(key_id, key.quota, lease, tokens)
        told = _told(key, verdict)
        if verdict.refused is not None:
            return await error_response(429, REFUSED[verdict.refused], scope["state"]["request_id"], told)(scope, receive, send)

        async def send_telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        try:
            await self.app(scope, receive, send_telling)
        finally:
            read = scope["state"].get("read_bytes", 0) // BYTES_A_TOKEN  # a body in chunks says no length beforehand
            await self.limits.give_back(key_id, key.quota, lease, scope["state"].get("tokens", max(read, tokens)) - tokens)

    def _known_host(self, headers: Headers) -> bool:
        given = headers.getlist("host")
        return len(given) == 1 and self.hosts is not None and _name(given[0]) in self.hosts


def _given(headers: Headers) -> str:
    """The key that a caller sends, in one of the two usual ways; empty = none, or more than one."""
    given = headers.getlist("authorization")
    if len(given) == 1 and given[0][:7].lower() == "bearer ":
        return given[0][7:].strip()
    other = headers.getlist("x-api-key")
    return other[0] if not given and len(other) == 1 else ""


def _told(key: Key, verdict: Verdict) -> dict[str, str]:
    """What a caller hears of its limits."""
    told = {} if verdict.refused is None else {"Retry-After": str(max(1, math.ceil(verdict.retry_after_s)))}
    limit = key.requests_per_minute or key.tokens_per_minute
    if limit is None or verdict.remaining < 0:
        return told
    return {
        **told,
        "RateLimit-Limit": str(limit),
        "RateLimit-Remaining": str(verdict.remaining),
        "RateLimit-Reset": str(math.ceil(verdict.reset_s)),
    }


def _name(host: str) -> str:
    """A Host header without its port, in lower case."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]
