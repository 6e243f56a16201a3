"""`python -m benchmarks.service_overhead [--seconds 10]`: what the service itself costs, with a teacher that costs nothing.

The full stack (key, limits and cache in a real Redis, guard, composer) in one worker, and beside it a no-op app of the same framework under
the same load from the same generator. Requests are sent on a fixed schedule whether or not earlier ones were answered, and a latency counts
from the moment at which its request was due, so a stall is not hidden by the requests that it held back. Half of the queries are new, half
come from the cache. The two servers take turns, and the load average stands beside the
figures: on a busy machine `cpu_ms_per_request` is the one that holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.results_file import save
from exchange.records import Instruction, PublicExample
from teacher.run_directory import git_commit

NAME = "service_overhead"
CONNECTIONS = 64
RATE = 500
ROUNDS = 3


class InstantTeacher:
    """A `ServedTeacher` whose policy writes at once."""

    id, sha256, task, max_instruction_tokens = "instant", "0" * 64, "any", None

    @property
    def policy(self) -> InstantTeacher:
        return self

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        return [Instruction(text="Add the two numbers.", source="teacher", num_tokens=5)] * len(examples)


def serve(kind: str, port: int) -> None:
    """One worker of the service or of the control, until it is ended."""
    import uvicorn
    from fastapi import FastAPI

    if kind == "control":
        app = FastAPI()

        @app.post("/instruct")
        async def nothing() -> dict[str, str]:
            return {}
    else:
        from server.app import create_app
        from server.settings import ServerSettings

        app = create_app(ServerSettings(keys=os.environ["KEYS"], store=os.environ["REDIS"], host="127.0.0.1"), InstantTeacher())
    uvicorn.run(app, port=port, log_config=None, access_log=False)


@contextmanager
def process(command: list[str], port: int, **environment: str) -> Iterator[int]:
    """The id of a server of ours while the block runs, from the moment that its port answers."""
    with subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL) as running:
        try:
            give_up = time.monotonic() + 180
            while running.poll() is None and time.monotonic() < give_up:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield running.pid
        finally:
            running.terminate()


class Load:
    """Keep-alive connections to one server."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.errors = 0
        self.asked = 0

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self.idle.put_nowait(await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self) -> None:
        self.asked += 1
        query = f"What is {self.asked} + {time.monotonic_ns()}?" if self.asked % 2 else f"What is {self.asked % 100} + 1?"
        body = json.dumps({"query": query})
        connection = await self.idle.get()
        reader, writer = connection
        writer.write(
            f"POST /instruct HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        self.errors += not head.startswith(b"HTTP/1.1 200")
        self.errors += b"wst-degraded" in head.lower()
        self.idle.put_nowait(connection)

    async def on_schedule(self, rate: int, seconds: float) -> list[float]:
        """Latencies in ms, each from when its request was due."""
        found: list[float] = []

        async def one(due: float) -> None:
            await self.ask()
            found.append(1000 * (time.perf_counter() - due))

        began = time.perf_counter()
        tasks = []
        for i in range(int(rate * seconds)):
            due = began + i / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
        return found

    async def as_fast_as_it_goes(self, seconds: float) -> float:
        """Requests a second with every connection busy."""
        until, before, began = time.perf_counter() + seconds, self.asked, time.perf_counter()

        async def one() -> None:
            while time.perf_counter() < until:
                await self.ask()

        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        return (self.asked - before) / (time.perf_counter() - began)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process took so far."""
    import psutil

    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


async def measure(port: int, key: str, seconds: float, pid: int) -> dict[str, Any]:
    load = Load(port, key)
    await load.open()
    await load.as_fast_as_it_goes(1.0)  # warm
    latencies = await load.on_schedule(RATE, seconds)
    cuts = statistics.quantiles(latencies, n=100)
    asked, used = load.asked, cpu_s(pid)
    rps = await load.as_fast_as_it_goes(seconds)
    # What an own core would give: on a busy machine the server gets a part of one.
    cpu_ms = 1000 * (cpu_s(pid) - used) / (load.asked - asked)
    return {
        "p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2), "max_rps": round(rps), "cpu_ms_per_request": round(cpu_ms, 3),
        "errors": load.errors, "load": os.getloadavg()[0],
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    def median(kind: str, name: str) -> float:
        return statistics.median(float(run[name]) for run in runs if run["server"] == kind)

    return {
        "p99_ms_at_500": median("service", "p99_ms"),
        "max_rps_per_worker": median("service", "max_rps"),
        "errors": sum(run["errors"] for run in runs),
        "control": {"p99_ms_at_500": median("control", "p99_ms"), "max_rps_per_worker": median("control", "max_rps")},
        "cpu_ms_per_request": {kind: median(kind, "cpu_ms_per_request") for kind in ("service", "control")},
        "rps_on_an_own_core": round(1000 / median("service", "cpu_ms_per_request")),
        "added_p50_ms": round(median("service", "p50_ms") - median("control", "p50_ms"), 2),
        "throughput_ratio": round(median("service", "max_rps") / median("control", "max_rps"), 3),
        "load_average": [round(min(run["load"] for run in runs), 1), round(max(run["load"] for run in runs), 1)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service_overhead", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--serve", choices=["service", "control"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.port)
        return 0
    commit, runs = git_commit(), []
    program = shutil.which("redis-server")
    if program is None:
        parser.error("redis-server is needed: the point is the whole stack")
    with tempfile.TemporaryDirectory() as folder:
        keys, redis = str(Path(folder) / "keys.json"), free_port()
        limits = ["--requests-per-minute", "10000000", "--concurrency", "1000"]
        made = [sys.executable, "-m", "server.keys", "--keys", keys, "create", "--tenant", "bench", *limits]
        key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
        ports = {"service": free_port(), "control": free_port()}
        start = {kind: [sys.executable, "-m", "benchmarks.service_overhead", "--serve", kind, "--port", str(ports[kind])] for kind in ports}
        with (
            process([program, "--port", str(redis), "--save", "", "--bind", "127.0.0.1"], redis),
            process(start["service"], ports["service"], KEYS=keys, REDIS=f"redis://127.0.0.1:{redis}/0") as service,
            process(start["control"], ports["control"]) as control,
        ):
            for _ in range(ROUNDS):
                for kind, port in ports.items():
                    runs.append(
                        {"server": kind, **asyncio.run(measure(port, key, args.seconds, {"service": service, "control": control}[kind]))}
                    )
                    print(json.dumps(runs[-1]), flush=True)
    save(NAME, headline=headline(runs), runs=runs, commit=commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
