"""`python -m lab.serve [WORLD] [ROLE]`: a lab model behind OpenAI's protocol, as slow and as faulty as asked for.

For trials of everything that speaks HTTP, without a key and without a model server; tests and benchmarks use it as

    with lab_server("arithmetic", "student", fault_rate=0.3, seed=0) as server:
        ...  # server.url = "http://127.0.0.1:PORT/v1", server.requests counts what reached it

Faults are drawn anew for every request: 429 with and without Retry-After, 500, 502, a body that breaks off, half a JSON, an HTML page, no
choices; one fault in ten is an answer that never comes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from exchange.command import run_command
from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from exchange.settings import SettingError
from lab.weights_folder import WORLDS, model_dir
from student_clients.embedded import EmbeddedStudent


class LabServer:
    """Answers POST /v1/chat/completions with a lab model, after `delay_s`, and with a fault at `fault_rate` of the requests."""

    def __init__(self, student: EmbeddedStudent, *, delay_s: float, fault_rate: float, seed: int) -> None:
        self.student = student
        self.key: str | None = None
        self.delay_s = delay_s
        self.fault_rate = fault_rate
        self.requests = 0
        self.answered = 0
        self.different: set[bytes] = set()
        """The bodies that reached it."""
        self.faults: dict[str, int] = {}
        self.url = ""
        self._rng = random.Random(seed)

    async def completions(self, request: Request) -> Response:
        self.requests += 1
        self.different.add(await request.body())
        body = await request.json()
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return _refused(401, "Incorrect API key provided", "invalid_api_key")
        if body.get("model") != self.student.name:
            return _refused(404, f"The model {body.get('model')!r} does not exist", "model_not_found")
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self._rng.random() < self.fault_rate:
            name = "hang" if self._rng.random() < 0.1 else self._rng.choice(list(FAULTS))
            self.faults[name] = self.faults.get(name, 0) + 1
            if name == "hang":
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                return Response()
            return FAULTS[name]()
        params = SamplingParams(
            temperature=body.get("temperature", 0.0),
            max_tokens=body.get("max_completion_tokens") or body.get("max_tokens") or 256,
            seed=body.get("seed"),
        )
        messages = [Message.model_validate(message) for message in body["messages"]]
        found = await self.student.complete(messages, params, n=body.get("n", 1))
        self.answered += 1
        return JSONResponse(reply(body["model"], found))

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.student.name, "object": "model"}]})

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self.completions, methods=["POST"]), Route("/v1/models", self.models)])


def _refused(status: int, message: str, code: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status)


def reply(model: str, found: list[Completion]) -> dict[str, Any]:
    """A chat completion as OpenAI writes it."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": completion.text}, "finish_reason": completion.finish_reason}
        for i, completion in enumerate(found)
    ]
    prompt, answer = found[0].prompt_tokens, sum(completion.completion_tokens for completion in found)
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    return {"id": "chatcmpl-lab", "object": "chat.completion", "created": 0, "model": model, "choices": choices, "usage": usage}


def _broken_off() -> Response:
    async def half() -> AsyncIterator[bytes]:
        yield b'{"id": "chatcmpl-lab", "choices": [{"index": 0, "message": {"role": "assis'
        await asyncio.sleep(0)
        # uvicorn closes the connection where a body is shorter than its announced length.
        raise ConnectionResetError

    return StreamingResponse(half(), headers={"content-length": "4096"}, media_type="application/json")


FAULTS: dict[str, Callable[[], Response]] = {
    "429": lambda: JSONResponse({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429),
    "429 Retry-After": lambda: JSONResponse({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.05"}),
    "500": lambda: JSONResponse({"error": {"message": "oops"}}, 500),
    "502": lambda: HTMLResponse("<html>Bad Gateway</html>", 502),
    "broken off": _broken_off,
    "half JSON": lambda: Response('{"id": "chatcmpl-lab", "choices": [{"index": 0, "mess', media_type="application/json"),
    "HTML": lambda: HTMLResponse("<html>Sign in to the wireless network</html>"),
    "no choices": lambda: JSONResponse({"id": "x", "object": "chat.completion", "choices": []}),
}


@contextmanager
def lab_server(
    world: str, role: str, *, port: int = 0, delay_s: float = 0.0, fault_rate: float = 0.0, seed: int = 0
) -> Iterator[LabServer]:
    """Serve a lab model at a port of 127.0.0.1 (0 = any free one) until the block ends. Raises ValueError for a model that is not there."""
    student = EmbeddedStudent(model_dir(world, role), name=role)
    server = LabServer(student, delay_s=delay_s, fault_rate=fault_rate, seed=seed)
    listener = socket.create_server(("127.0.0.1", port))
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    running = uvicorn.Server(uvicorn.Config(server.app(), log_level="critical", lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield server
    finally:
        running.should_exit = True
        thread.join()
        listener.close()
        asyncio.run(student.aclose())


def body(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.serve", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("world", nargs="?", default="arithmetic", choices=WORLDS)
    parser.add_argument("role", nargs="?", default="student", help="the world's model (default student)")
    parser.add_argument("--port", type=int, default=8100, help="port of 127.0.0.1, 0 = any free one (default 8100)")
    parser.add_argument("--delay-s", type=float, default=0.0, help="seconds added to every answer")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of the requests that fail, 0 to 1")
    parser.add_argument("--key-env", help="environment variable with the API key that callers must send (default: none is asked for)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    args = parser.parse_args(argv)
    if not 0 <= args.fault_rate <= 1:
        raise SettingError(f"--fault-rate={args.fault_rate}: a share from 0 to 1 is meant")
    if args.key_env and not os.environ.get(args.key_env):
        raise SettingError(f"--key-env={args.key_env}: this environment variable is not set")
    try:
        with lab_server(args.world, args.role, port=args.port, delay_s=args.delay_s, fault_rate=args.fault_rate, seed=args.seed) as server:
            server.key = os.environ[args.key_env] if args.key_env else None
            asyncio.run(server.student.check())  # loaded now: the first answer would take four seconds, and look like the student's speed
            print(f"serving at {server.url} as model {args.role!r}", flush=True)
            threading.Event().wait()
    except (ValueError, OSError, OverflowError) as error:
        raise SettingError(str(error)) from None
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("lab.serve", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
