"""The head of a request has a size and a time, which uvicorn with its parser in C does not give it."""

from __future__ import annotations

from asyncio import Transport
from asyncio.events import TimerHandle
from typing import Any
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import error_reply

LINES = {408: b"HTTP/1.1 408 Request Timeout\r\n", 431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n"}


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1: a head of more than `max_head_bytes` is answered by 431, one that takes longer than `head_time_s` by 408, and the
    connection closes. `partial(BoundedProtocol, max_head_bytes=…, head_time_s=…)` is an `http` of `uvicorn.Config`, which several workers
    pickle."""

    def __init__(self, *arguments: Any, max_head_bytes: int, head_time_s: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.max_head_bytes = max_head_bytes
        self.head_time_s = head_time_s
        self.head_bytes = 0
        self.in_head = True
        self.all_head = True
        self.timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timer = self.loop.call_later(self.head_time_s, self.too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.all_head = self.in_head
        super().data_received(data)
        if self.in_head and self.all_head:  # else the rest of a request came with it, and the next piece is counted first
            self.head_bytes += len(data)
            if self.head_bytes > self.max_head_bytes:
                self.too_large()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.in_head, self.head_bytes = True, 0
        if self.timer is None:
            self.timer = self.loop.call_later(self.head_time_s, self.too_slow)

    def on_headers_complete(self) -> None:
        self.stop_timer()
        self.in_head = self.all_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self.max_head_bytes:
            self.too_large()
            raise ValueError("no request begins")  # the parser stops here
        super().on_headers_complete()

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def too_large(self) -> None:
        self.refuse(431, f"the headers are larger than {self.max_head_bytes} bytes")

    def too_slow(self) -> None:
        if self.scope is None:  # a connection made in advance, without a word yet
            self.transport.close()
        self.refuse(408, f"the headers took longer than {self.head_time_s:g} s")

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def refuse(self, status: int, message: str) -> None:
        self.stop_timer()
        if self.transport.is_closing():
            return
        body = error_reply(status, message, f"req-{uuid4().hex}").model_dump_json().encode()
        length = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        if self.cycle is None or self.cycle.response_complete:  # else an earlier request's reply is being written
            self.transport.write(LINES[status] + length + body)
        self.transport.close()
