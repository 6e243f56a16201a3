"""What stands around every request: its id, its log line, the last net under it, the limits on its body, and an eye on its caller.

Pure ASGI on purpose: one no-op BaseHTTPMiddleware of Starlette 1.7 took this stack from 4,322 to 1,827 requests a second on two cores,
and behind it `request.is_disconnected()` never becomes true.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import uuid
from collections.abc import Mapping
from time import perf_counter
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BrokenOffError, error_response
from server.metrics import Metrics, route_of
from server.tracing import Tracing, trace_id

log = logging.getLogger("wst.server")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""An id that a caller may choose: safe in a header, a log line, a file name and a key."""
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
"""Those that spans name, whatever the parser lets in; others are `_OTHER`, and `HTTP` in the span's name, as OpenTelemetry has it:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/"""
DRAIN_S = 1.0
"""Seconds to swallow the rest of a body that is too large, so that a client still sending sees the 413 and not a broken pipe."""


class RequestIds:
    """Outermost. Takes or makes the request id, echoes it as `X-Request-Id`, logs one line, and turns any escaped exception into a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.app, self.metrics, self.tracing = app, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if self.tracing is None:
            return await self._identified(scope, receive, send)
        method = scope["method"] if scope["method"] in METHODS else None
        about = scope.setdefault("state", {})["traced"] = {"http.request.method": method or "_OTHER", "http.route": route_of(scope["path"])}
        with self.tracing.request(f"{method or 'HTTP'} {about['http.route']}", Headers(scope=scope), about):
            await self._identified(scope, receive, send)

    async def _identified(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        given = Headers(scope=scope).getlist("x-request-id")
        request_id = given[0] if len(given) == 1 and REQUEST_ID.fullmatch(given[0]) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except BrokenOffError:  # raised so that the connection breaks, see there
            log.warning("%s the student broke its answer off", request_id)
            raise
        except Exception as error:  # the last net: a bug of ours must not show the caller a traceback, nor the log a body
            frames = "".join(traceback.format_tb(error.__traceback__, limit=-6))
            log.error("%s failed: %s\n%s", request_id, type(error).__name__, frames)
            if status:
                raise
            await error_response(500, "the server failed; its log has more under this request id", request_id)(scope, receive, send_with_id)
        finally:
            self._ended(scope, request_id, status, perf_counter() - started)

    def _ended(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        state = scope["state"]
        apart_s = state.get("apart_s")
        self.metrics.request(scope["path"], status, seconds, apart_s)
        if (traced := state.get("traced")) is not None:
            served = {f"wst.{name}": value for name, value in state.get("about", {}).items()}
            traced.update({"http.response.status_code": status, "wst.request_id": request_id, **served})
        if not log.isEnabledFor(logging.INFO):
            return
        path = quote(scope["path"][:200])  # the caller's text: no line breaks or control characters in the log
        about = {"request_id": request_id, "method": scope["method"], "path": path, "status": status, "ms": round(1000 * seconds, 1)}
        if apart_s is not None:
            about["overhead_ms"] = round(1000 * (seconds - apart_s), 1)
        if "caller" in state and state["caller"].id:
            about["key"] = state["caller"].id
        about |= state.get("about", {})
        if (trace := trace_id()) is not None:
            about["trace_id"] = trace
        log.info("%s %s %s %d %.1f ms", request_id, scope["method"], path, status, about["ms"], extra={"about": about})


class RequestBody:
    """Reads the body before anything else is done, within a limit of bytes and of time, and then watches the caller: who goes away
    before the answer is complete cancels the work for it. Starlette does that for streams only.

    FastAPI's own `max_body_size` answers in plain text, outside of our error shape.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int], time_s: float) -> None:
        """`limits`: most bytes by the beginning of the path, the longest one counts. `time_s`: longest time for the whole body."""
        self.app = app
        self.limits = sorted(limits.items(), key=lambda limit: -len(limit[0]))
        self.time_s = time_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        max_bytes = next(most for beginning, most in self.limits if scope["path"].startswith(beginning))
        try:
            async with asyncio.timeout(self.time_s):
                body = await _body(scope, receive, max_bytes)
        except TooLargeError:
            return await error_response(413, f"the body is larger than {max_bytes} bytes", scope["state"]["request_id"])(
                scope, receive, send
            )
        except TimeoutError:
            message = f"the body did not come within {self.time_s:g} s"
            headers = {"connection": "close"}
            return await error_response(408, message, scope["state"]["request_id"], headers)(scope, receive, send)
        if body is not None:
            scope["state"]["read_bytes"] = len(body)
            await self._watched(scope, body, receive, send)

    async def _watched(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the app in this task, and cancel it when the caller leaves."""
        given, complete, left = False, False, False
        working = asyncio.current_task()
        assert working is not None

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await watching
            return {"type": "http.disconnect"}

        async def send_noting_the_end(message: Message) -> None:
            nonlocal complete
            complete = complete or (message["type"] == "http.response.body" and not message.get("more_body", False))
            await send(message)

        async def watch() -> None:
            nonlocal left
            await receive()  # after the whole body, only a disconnect can come
            if not complete:
                left = True
                working.cancel()

        watching = asyncio.create_task(watch())
        try:
            await self.app(scope, replay, send_noting_the_end)
        except asyncio.CancelledError:
            if not left or working.uncancel():
                raise
        finally:
            watching.cancel()


class TooLargeError(Exception):
    """A body past its limit."""


async def _body(scope: Scope, receive: Receive, max_bytes: int) -> bytes | None:
    """The whole body; None = the caller left before its end. Raises TooLargeError: by the declared length before reading, else as soon as
    that many bytes have come."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):  # int() refuses thousands of digits
        if "expect" not in headers:  # who asks first is told before sending
            await _drain(receive)
        raise TooLargeError
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        body += event.get("body", b"")
        if len(body) > max_bytes:
            if event.get("more_body", False):
                await _drain(receive)
            raise TooLargeError
        if not event.get("more_body", False):
            return bytes(body)


async def _drain(receive: Receive) -> None:
    """Swallow a body until it ends, the client leaves, or the time is up."""
    try:
        async with asyncio.timeout(DRAIN_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
