"""The service that `benchmarks.faults` and `benchmarks.soak` torment: one worker, a teacher that a file tells how to behave, a route that
tells what the process holds. Also a proxy in front of Redis that breaks on command."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from exchange.records import Instruction, PublicExample


class MoodyTeacher:
    """A `ServedTeacher` that does what its file says: good, hang, crash, garbage, nan (a real model of NaN weights), or `sleep S`."""

    id, sha256, task, max_instruction_tokens = "moody", "0" * 64, "any", None

    def __init__(self, mood: Path) -> None:
        self.mood = mood
        self.busy = self.asked = 0
        self._nan: Any = None

    @property
    def policy(self) -> MoodyTeacher:
        return self

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        mood = self.mood.read_text()
        self.busy += 1
        self.asked += 1
        try:
            if mood == "crash":
                raise RuntimeError("out of memory")
            if mood == "garbage":
                return [None] * len(examples)  # type: ignore[list-item]
            if mood == "nan":
                return await self._not_a_number().instruct(examples)  # type: ignore[no-any-return]
            if any("!crash" in example.query for example in examples):
                raise RuntimeError("a query that the teacher does not bear")
            await asyncio.sleep(30.0 if mood == "hang" else float(mood.partition(" ")[2] or 0))
            return [Instruction(text="Think step by step.", source="teacher")] * len(examples)
        finally:
            self.busy -= 1

    def _not_a_number(self) -> Any:
        if self._nan is None:
            import torch

            from teacher.folder import load_teacher
            from teacher.locate import find_teacher

            self._nan = load_teacher(find_teacher()).policy
            with torch.no_grad():
                for parameter in self._nan.model.parameters():
                    parameter.fill_(float("nan"))
        return self._nan


def serve(port: int) -> None:
    """One worker until it is ended. The environment says what it is: MOOD, and optionally KEYS, REDIS, UPSTREAM, DEADLINE_MS, BATCH, LANES,
    QUEUE, EVENTS."""
    import psutil
    import uvicorn

    from server.app import create_app
    from server.settings import ServerSettings
    from server.students import ServedStudent

    given = os.environ
    teacher = MoodyTeacher(Path(given["MOOD"]))
    if teacher.mood.read_text() == "nan":
        teacher._not_a_number()  # loaded before the first request
    students = {"m": ServedStudent(base_url=given["UPSTREAM"], api_key_env="NO_SUCH_KEY")} if "UPSTREAM" in given else {}
    settings = ServerSettings(
        keys=given.get("KEYS"),
        store=given.get("REDIS"),
        students=students,
        event_log=given.get("EVENTS"),
        deadline_ms=int(given.get("DEADLINE_MS", "300")),
        teacher_batch=int(given.get("BATCH", "32")),
        max_queued=int(given.get("QUEUE", "256")),
        log_level="error",
    )
    app = create_app(settings, teacher)
    engine = app.state.teachers.default.engine
    engine.lanes = int(given.get("LANES", "2"))
    process = psutil.Process()

    async def held() -> dict[str, Any]:
        return {
            "busy": teacher.busy,
            "asked": teacher.asked,
            "queued": engine.queued,
            "breaker_open": engine.breaker.open,
            "tasks": len(asyncio.all_tasks()),
            "descriptors": process.num_fds(),
            "rss_mb": round(process.memory_info().rss / 2**20, 2),
        }

    app.get("/held", include_in_schema=False)(held)
    for name in ("wst.server", "wst.store", "uvicorn.error"):  # they report each fault, as ordered
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uvicorn.run(app, port=port, log_config=None, access_log=False, backlog=8192)


def serve_upstream(port: int) -> None:
    """A student that answers at once, whole or streamed, and fails where the conversation holds "!500" or "!break"."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    pieces = [{**chunk, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in "It is four .".split()]
    message = {"role": "assistant", "content": "It is four."}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    whole = {**chunk, "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    events = [f"data: {json.dumps(piece)}\n\n".encode() for piece in pieces] + [b"data: [DONE]\n\n"]
    reply = json.dumps(whole).encode()

    async def chat(request: Request) -> Response:
        content = await request.body()
        if b"!500" in content:
            return JSONResponse({"error": {"message": "oops"}}, 500)
        if json.loads(content).get("stream"):
            return StreamingResponse(_stream(events, broken=b"!break" in content), media_type="text/event-stream")
        return Response(reply, media_type="application/json")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    uvicorn.run(app, port=port, log_config=None, access_log=False, log_level="critical")


async def _stream(events: list[bytes], *, broken: bool) -> AsyncIterator[bytes]:
    for event in events:
        yield event
        if broken:
            raise ConnectionError("as ordered")


class BreakableProxy:
    """Between the service and a Redis: `mode` is good, hung, slow, reset, READONLY, or refused."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self.mode = "good"
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def set(self, mode: str) -> None:
        """From now on, also on connections that stand."""
        self.mode = mode
        if mode == "refused":
            await self.close()
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        if mode in ("reset", "refused"):
            for writer in list(self._open):
                _reset(writer)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            for writer in list(self._open):
                _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            return _reset(writer)
        self._open.add(writer)
        try:
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # Redis was killed
            return _reset(writer)
        try:
            back = asyncio.create_task(self._back(from_redis, writer))
            with suppress(ConnectionError):
                while piece := await reader.read(65536):
                    if self.mode == "hung":
                        await asyncio.sleep(3600)
                    if self.mode == "slow":
                        await asyncio.sleep(1.0)
                    if self.mode == "READONLY":
                        writer.write(b"-READONLY You can't write against a read only replica.\r\n")
                        continue
                    to_redis.write(piece)
            back.cancel()
            to_redis.close()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _back(self, from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await from_redis.read(65536):
                writer.write(piece)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
