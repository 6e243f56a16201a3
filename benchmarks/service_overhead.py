"""`python -m benchmarks.service_overhead [--seconds 10]`: what the service itself costs, with a teacher that costs nothing.

The full stack (key, limits and cache in a real Redis, guard, composer, metrics; every request's exposure in an experiment's log, on the
disk and in Redis) in one worker, and beside it two controls under the same load from the same generator: a no-op app of the same framework,
and that app with one durable append a request, of an event of the service's size to a Redis with `appendfsync always` by the service's
own client, which is what such a promise on this disk costs by itself. `--plain` leaves the experiment out. Requests are sent on a fixed
schedule whether or not earlier ones were answered, and a latency counts from the moment at which its request was due, so a stall is not
hidden by the requests that it held back. Half of the queries are new, half come from the cache. The servers take turns, and the load
average stands beside the figures: on a busy machine `cpu_ms_per_request` is the one that holds.
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
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.results_file import save, say_load
from exchange.records import Instruction, PublicExample
from store.redis_stream import RedisStream
from teacher.run_directory import git_commit

NAME = "service_overhead"
CONNECTIONS = 64
RATE = 500
EXPERIMENT = {
    "id": "bench",
    "arms": [{"name": "raw", "raw": True, "weight": 0.05}, {"name": "taught", "teacher": "0" * 64, "weight": 0.95}],
    "control": "raw",
    "metric": "success",
}
EVENT_BYTES = 455
"""Of an exposure, packed."""
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
    elif kind == "durable":
        app = FastAPI()
        stream = RedisStream(os.environ["REDIS"], namespace="wst", timeout_s=5.0)

        @app.post("/instruct")
        async def append() -> dict[str, str]:
            await stream.push([(uuid.uuid4().hex, b"x" * EVENT_BYTES, False)])
            return {}
    else:
        from server.app import create_app
        from server.settings import ServerSettings

        given = os.environ
        settings = ServerSettings(keys=given["KEYS"], store=given["REDIS"], event_log=given["EVENTS"], host="127.0.0.1")
        app = create_app(settings, InstantTeacher())
    uvicorn.run(app, port=port, log_config=None, access_log=False, server_header=False, proxy_headers=False)


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

    def __init__(self, port: int, key: str, *, experiment: bool = False) -> None:
        self.port, self.key, self.experiment = port, key, experiment
        self.idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.errors = 0
        self.asked = 0

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self.idle.put_nowait(await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self) -> None:
        self.asked += 1
        query = f"What is {self.asked} + {time.monotonic_ns()}?" if self.asked % 2 else f"What is {self.asked % 100} + 1?"
        body = json.dumps({"query": query, **({"unit": f"u{self.asked}", "experiment": EXPERIMENT["id"]} if self.experiment else {})})
        connection = await self.idle.get()
        reader, writer = connection
        writer.write(
            f"POST /instruct HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        reply = await reader.readexactly(length)
        self.errors += self.experiment and b'"experiment":null' in reply  # not on the disk in time
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


def store_left_alone(port: int, key: str) -> float:
    """Whether the service does without its Redis at the moment: then what was measured is not the whole stack."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {key}"})
    text = urllib.request.urlopen(asked, timeout=30).read().decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("wst_store_left_alone ")))


async def measure(port: int, key: str, seconds: float, pid: int, *, rate: int, experiment: bool) -> dict[str, Any]:
    load = Load(port, key, experiment=experiment)
    await load.open()
    await load.as_fast_as_it_goes(1.0)  # warm
    latencies = await load.on_schedule(rate, seconds)
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
        **{
            kind: {"p99_ms_at_500": median(kind, "p99_ms"), "max_rps_per_worker": median(kind, "max_rps")}
            for kind in ("control", "durable")
        },
        "cpu_ms_per_request": {kind: median(kind, "cpu_ms_per_request") for kind in ("service", "control")},
        "rps_on_an_own_core": round(1000 / median("service", "cpu_ms_per_request")),
        "added_p50_ms": round(median("service", "p50_ms") - median("control", "p50_ms"), 2),
        "throughput_ratio": round(median("service", "max_rps") / median("control", "max_rps"), 3),
        "store_left_alone": sum(run.get("store_left_alone", 0.0) for run in runs),
        "load_average": [round(min(run["load"] for run in runs), 1), round(max(run["load"] for run in runs), 1)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service_overhead", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of the servers by turns (default {ROUNDS})")
    parser.add_argument(
        "--rate", type=int, default=RATE, help=f"requests a second of the schedule (default {RATE}; others are printed only)"
    )
    parser.add_argument("--plain", action="store_true", help="without the experiment")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--serve", choices=["service", "control", "durable"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.port)
        return 0
    say_load()
    commit, runs = git_commit(), []
    program = shutil.which("redis-server")
    if program is None:
        parser.error("redis-server is needed: the point is the whole stack")
    with tempfile.TemporaryDirectory() as folder:
        keys, redis = str(Path(folder) / "keys.json"), free_port()
        limits = ["--requests-per-minute", "10000000", "--concurrency", "1000", "--scopes", "admin"]
        made = [sys.executable, "-m", "server.keys", "--keys", keys, "create", "--tenant", "bench", *limits]
        key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
        ports, url = {kind: free_port() for kind in ("service", "control", "durable")}, f"redis://127.0.0.1:{redis}/0"
        always = free_port()
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--dir", folder]
        start = {kind: [sys.executable, "-m", "benchmarks.service_overhead", "--serve", kind, "--port", str(ports[kind])] for kind in ports}
        with (
            process([program, "--port", str(redis), "--save", "", "--bind", "127.0.0.1"], redis),
            process(start["service"], ports["service"], KEYS=keys, REDIS=url, EVENTS=f"{folder}/events.db") as service,
            process(start["control"], ports["control"]) as control,
            process([program, "--port", str(always), "--save", "", "--bind", "127.0.0.1", *durable], always),
            process(start["durable"], ports["durable"], REDIS=f"redis://127.0.0.1:{always}/0") as appending,
        ):
            if not args.plain:
                made_one = urllib.request.Request(
                    f"http://127.0.0.1:{ports['service']}/experiments",
                    json.dumps(EXPERIMENT).encode(),
                    {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
                )
                urllib.request.urlopen(made_one, timeout=30).close()
            for _ in range(args.rounds):
                for kind, pid in (("service", service), ("durable", appending), ("control", control)):
                    ours = kind == "service"
                    found = asyncio.run(measure(ports[kind], key, args.seconds, pid, rate=args.rate, experiment=ours and not args.plain))
                    runs.append({"server": kind, **found})
                    if ours:
                        runs[-1]["store_left_alone"] = store_left_alone(ports[kind], key)
                    print(json.dumps(runs[-1]), flush=True)
    if args.rate != RATE:
        return 0
    if not args.no_save:
        save(NAME, headline={**headline(runs), "experiment": not args.plain}, runs=runs, commit=commit)
    print(json.dumps({"headline": headline(runs)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
