"""A server made of bare sockets, which can do what a web framework never would: break off, drip, promise more than it sends.

with faulty_server() as server:
    server.script = [reply(500, "oops"), reply(200, chat("4"))]
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

Step = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What the server does about one request that it has read."""


class FaultyServer:
    """Goes through `script`, a step a request whatever it asks for; the last step for ever. Counts and keeps what it was sent."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.script: list[Step] = []
        self.heads: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.contents: list[bytes] = []
        """The bodies as they came."""
        self.asked = threading.Event()
        self.left = threading.Event()
        """Set when a client closed its connection in the middle of a step that waits for that (`hang`, `drip`)."""

    @property
    def requests(self) -> int:
        return len(self.heads)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(line.split(":")[1]) for line in head.lower().splitlines() if line.startswith("content-length")), 0)
                content = await reader.readexactly(length)
                body = json.loads(content or b"{}")
                self.contents.append(content)
                self.heads.append(head)
                self.bodies.append(body)
                self.asked.set()
                step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                try:
                    await step(reader, writer)
                except ClientLeftError:
                    self.left.set()
                    break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class ClientLeftError(Exception):
    pass


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = FaultyServer(listener.getsockname()[1])
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(server.serve(reader, writer))
            handlers[task] = writer
            task.add_done_callback(handlers.pop)

        listening = await asyncio.start_server(handle, sock=listener)
        await stop.wait()
        listening.close()
        left = dict(handlers)
        for task, writer in left.items():
            task.cancel()
            writer.transport.abort()  # a task that has not begun, or a client that does not read, would keep it open
        if left:
            await asyncio.wait(left)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def encoded(status: int, body: Any, headers: Mapping[str, str] | None = None, *, promised: int | None = None) -> bytes:
    """An HTTP reply; `promised` = the content length that it claims."""
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = {"Content-Type": "application/json", "Content-Length": str(len(content) if promised is None else promised), **(headers or {})}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def reply(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Step:
    """A whole reply; the connection is kept."""

    async def step(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encoded(status, body, headers))
        await writer.drain()

    return step


def raw(content: bytes, *, reset: bool) -> Step:
    """Just these bytes, then the end of the connection: closed, or reset as by a process that was killed."""

    async def step(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        if reset:
            await asyncio.sleep(0.02)  # a reset overtakes what was sent just before it
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()

    return step


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """No answer until the client has left."""
    await until_the_client_leaves(reader)


def drip(content: bytes, *, at_once: int, every_s: float) -> Step:
    """`at_once` bytes, then the others one by one; and nothing more once the client has left."""

    async def step(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leaving = asyncio.create_task(until_the_client_leaves(reader))
        try:
            writer.write(content[:at_once])
            for i in range(at_once, len(content)):
                await asyncio.wait([leaving], timeout=every_s)
                if leaving.done():
                    await leaving
                writer.write(content[i : i + 1])
        finally:
            leaving.cancel()
            await asyncio.wait([leaving])  # until then nobody else may read

    return step


async def until_the_client_leaves(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        assert await reader.read(1) == b"", "the client pipelines"
    raise ClientLeftError
