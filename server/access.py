"""Who comes in: the Host, the key, its scope and its limits, before a byte of the body is read.

By the path as it came in the request line (`scope["path"]`), never by a URL, which frameworks rebuild from the caller's Host header. What
is not named here as open or by a scope needs a key with the scope `admin`, so that a new route is closed until somebody opens it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.console import address
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
    *((page.path, page.scope) for page in address.PAGES),
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
        if self.keys is None or scope["path"] in OPEN or address.is_open(scope["path"]):
            scope["state"]["caller"] = Caller() if self.keys is None else Caller(scopes=())
            return await self.app(scope, receive, send)
        found = self._found(headers, scope)
        if found is None:
            if address.for_a_reader(scope["path"], headers):
                return await _to_the_log_in(headers)(scope, receive, send)
            told = {"WWW-Authenticate": "Bearer"}
            message = "a valid key of this server is needed, as Authorization: Bearer wst_…"
            return await error_response(401, message, request_id, told)(scope, receive, send)
        key_id, key = found
        scope["state"]["caller"] = key.caller(key_id)
        wanted = scope_of(scope["path"])
        if wanted not in key.scopes and "admin" not in key.scopes and scope["path"] != address.HOME:
            return await _refused(scope, 403, f"this key has no scope {wanted!r}")(scope, receive, send)
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
            return await _refused(scope, 429, REFUSED[verdict.refused], told)(scope, receive, send)

        async def send_telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        try:
            await self.app(scope, receive, send_telling)
        finally:
            read = scope["state"].get("read_bytes", 0) // BYTES_A_TOKEN  # a body in chunks says no length beforehand
            await self.limits.give_back(key_id, key.quota, lease, scope["state"].get("tokens", max(read, tokens)) - tokens)

    def _found(self, headers: Headers, scope: Scope) -> tuple[str, Key] | None:
        """Who sends a key; on the console also who logged in with one. A browser's cookie opens the console and nothing else, so that no
        page can make it call the API."""
        assert self.keys is not None
        given, on_console = headers.getlist("authorization"), address.is_console(scope["path"])
        other = headers.getlist("x-api-key")
        if on_console:  # what a proxy asks of its own visitors is not for us
            given = [one for one in given if one[:11].lower() == "bearer wst_"]
            if not given and not other:
                return self.keys.in_session(address.session_in(scope))
        return self.keys.find(_given(given, other))

    def _known_host(self, headers: Headers) -> bool:
        given = headers.getlist("host")
        return len(given) == 1 and self.hosts is not None and _name(given[0]) in self.hosts


def _given(given: Sequence[str], other: Sequence[str]) -> str:
    """The key that a caller sends, in one of the two usual ways; empty = none, or more than one."""
    if len(given) == 1 and given[0][:7].lower() == "bearer ":
        return given[0][7:].strip()
    return other[0] if not given and len(other) == 1 else ""


def _to_the_log_in(headers: Headers) -> Response:
    """A page goes there; a piece of a page has htmx take the whole page there."""
    if headers.get("hx-request") == "true":
        return Response(status_code=401, headers={**address.HEADERS, "HX-Redirect": address.LOGIN})
    return Response(status_code=303, headers={**address.HEADERS, "Location": address.LOGIN})


def _refused(scope: Scope, status: int, message: str, told: dict[str, str] | None = None) -> Response:
    """The error in its one shape, or on the console as a sentence for its reader."""
    headers, state = Headers(scope=scope), scope["state"]
    if not address.for_a_reader(scope["path"], headers):
        return error_response(status, message, state["request_id"], told)
    fragment, caller = headers.get("hx-request") == "true", state["caller"]
    html = address.error_html(status, message, fragment=fragment, scopes=caller.scopes, key_id=caller.id)
    if fragment and scope["method"] == "GET":
        told = {**(told or {}), **address.KEPT}
    return Response(html, status, {**(told or {}), **address.HEADERS}, "text/html")


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
