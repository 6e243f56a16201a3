"""What stands around every request: its id, its log line, the last net under it, and the limit on its body.

Pure ASGI on purpose: one no-op BaseHTTPMiddleware of Starlette 1.7 took this stack from 4,322 to 1,827 requests a second on two cores,
and behind it `request.is_disconnected()` never becomes true.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import uuid
from time import perf_counter
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import error_response

log = logging.getLogger("wst.server")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""An id that a caller may choose: safe in a header, a log line, a file name and a key."""
DRAIN_S = 1.0
"""Seconds to swallow the rest of a body that is too large, so that a client still sending sees the 413 and not a broken pipe."""


class RequestIds:
    """Outermost. Takes or makes the request id, echoes it as `X-Request-Id`, logs one line, and turns any escaped exception into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
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
        except Exception as error:  # the last net: a bug of ours must not show the caller a traceback, nor the log a body
            frames = "".join(traceback.format_tb(error.__traceback__, limit=-6))
            log.error("%s failed: %s\n%s", request_id, type(error).__name__, frames)
            if status:
                raise
            await error_response(500, "the server failed; its log has more under this request id", request_id)(scope, receive, send_with_id)
        finally:
            path = quote(scope["path"][:200])  # the caller's text: no line breaks or control characters in the log
            log.info("%s %s %s %d %.1f ms", request_id, scope["method"], path, status, 1000 * (perf_counter() - started))


class BodyLimit:
    """Refuses a body past `max_bytes`: by its declared length before reading, else as soon as that many bytes have come.

    FastAPI's own `max_body_size` answers in plain text, outside of our error shape.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        message = f"the body is larger than {self.max_bytes} bytes"
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self.max_bytes):  # int() refuses thousands of digits
            if "expect" not in headers:  # who asks first is told before sending
                await _drain(receive)
            return await error_response(413, message, scope["state"]["request_id"])(scope, receive, send)
        size = 0

        async def receive_limited() -> Message:
            nonlocal size
            event = await receive()
            size += len(event.get("body", b""))
            if size > self.max_bytes:
                if event.get("more_body", False):
                    await _drain(receive)
                raise HTTPException(413, message)  # raised in FastAPI's body parsing, which lets it through to our handler
            return event

        await self.app(scope, receive_limited, send)


async def _drain(receive: Receive) -> None:
    """Swallow a body until it ends, the client leaves, or the time is up."""
    try:
        async with asyncio.timeout(DRAIN_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
