"""`python -m benchmarks.faults [--seconds 60] [--clients 4000]`: what breaks around the service, and what its callers notice of it.

One worker in a process of its own, a key with limits, the cache, and a real Redis behind a proxy that breaks on command.

- *Redis* refused, hung, slow, reset, READONLY, killed: are all requests answered, what does the first one cost more than a healthy one, and
  what the others, while the breaker is open?
- *Teacher* hangs, crashes, answers garbage, is a real model of NaN weights: does the caller have the raw messages within the deadline
  (300 ms) and 20 ms, after how many tries is the teacher left alone, is it asked again once it is well?
- *Overload*, three times what the teacher can do: goodput (instructed answers within the deadline) against the peak, refusals of a key with
  `on_failure: error`, and the time until all is normal again.
- *Clients that vanish*, thousands with their requests in flight at a teacher of 30 s, each at work or in a full queue: the share that is
  stopped within a second, and what is left behind.

A no-op app asked by the same callers stands beside the times. Writes `benchmarks/results/faults.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.faults_service import BreakableProxy, serve
from benchmarks.results_file import save, say_load
from benchmarks.service_overhead import free_port, process
from teacher.run_directory import git_commit

NAME = "faults"
DEADLINE_S = 0.3
REDIS_FAULTS = ("refused", "hung", "slow", "reset", "READONLY", "killed")
TEACHER_FAULTS = ("hang", "crash", "garbage", "nan")


class Caller:
    """An app in front of the service."""

    def __init__(self, port: int, key: str | None = None) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=512, keepalive_expiry=2.0)  # sooner than the server's 5 s
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False, limits=limits)
        self._numbers = itertools.count()

    async def ask(self) -> dict[str, Any]:
        """One request with a query of its own: status, source, reason, seconds."""
        began = time.perf_counter()
        reply = await self.http.post("/instruct", json={"query": f"What is {next(self._numbers)} and {time.monotonic_ns()}?"})
        took, body = time.perf_counter() - began, reply.json()
        return {
            "status": reply.status_code,
            "source": body.get("source"),
            "degraded": reply.headers.get("wst-degraded"),
            "retry_after": reply.headers.get("retry-after"),
            "s": took,
        }

    async def held(self) -> dict[str, Any]:
        """What the process holds."""
        found: dict[str, Any] = (await self.http.get("/held")).json()
        return found


@asynccontextmanager
async def service(mood: str, **environment: str) -> AsyncIterator[tuple[int, Path]]:
    """(port, file of the teacher's mood) of a service of its own."""
    with tempfile.TemporaryDirectory(prefix="wst-faults-") as folder:
        file, port = Path(folder) / "mood", free_port()
        file.write_text(mood)
        command = [sys.executable, "-m", "benchmarks.faults", "--serve", str(port)]
        settings = {"MOOD": str(file), "EVENTS": f"{folder}/events.db", **environment}
        with process(command, port, **settings):
            yield port, file


def new_key(file: Path, *options: str) -> str:
    made = [sys.executable, "-m", "server.keys", "--keys", str(file), "create", "--tenant", "bench", *options]
    return subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()


def milliseconds(found: list[dict[str, Any]]) -> list[float]:
    return [1000 * one["s"] for one in found]


async def redis_faults(requests: int) -> list[dict[str, Any]]:
    """A row a fault."""
    from tests.redis_server import RedisServer

    rows = []
    with tempfile.TemporaryDirectory(prefix="wst-faults-") as name:
        folder, redis = Path(name), RedisServer(Path(name))
        proxy = BreakableProxy(free_port(), redis.port)
        key = new_key(folder / "keys.json", "--requests-per-minute", "1000000", "--concurrency", "1000")
        try:
            for fault in REDIS_FAULTS:
                await proxy.set("good")
                store = f"redis://127.0.0.1:{proxy.port}/0"
                async with service("good", KEYS=str(folder / "keys.json"), REDIS=store, HOST="0.0.0.0") as (port, _):
                    caller = Caller(port, key)
                    healthy = milliseconds([await caller.ask() for _ in range(requests)][requests // 4 :])
                    if fault == "killed":
                        redis.kill()
                    else:
                        await proxy.set(fault)
                    found = [await caller.ask() for _ in range(requests)]
                    took, usual = milliseconds(found), statistics.median(healthy)
                    rows.append(
                        {
                            "redis": fault,
                            "answered": sum(one["status"] == 200 and one["source"] == "teacher" for one in found) / requests,
                            "healthy_ms": round(usual, 2),
                            "added_first_ms": round(max(took[:3]) - usual, 2),
                            "added_then_ms": round(statistics.median(took[3:]) - usual, 2),
                        }
                    )
                    print(json.dumps(rows[-1]), flush=True)
                    await caller.http.aclose()
                if fault == "killed":
                    await asyncio.to_thread(redis.start)
        finally:
            await proxy.close()
            redis.kill()
    return rows


async def teacher_faults(requests: int) -> list[dict[str, Any]]:
    """A row a fault: ten callers at a time."""
    rows = []
    for fault in TEACHER_FAULTS:
        async with service(fault if fault == "nan" else "good") as (port, mood):
            caller = Caller(port)
            mood.write_text("good")
            usual = statistics.median(milliseconds([await caller.ask() for _ in range(20)]))
            before = await caller.held()
            mood.write_text(fault)
            found: list[dict[str, Any]] = []
            while not (await caller.held())["breaker_open"] and len(found) < requests:
                found += await asyncio.gather(*(caller.ask() for _ in range(10)))
            tries = (await caller.held())["asked"] - before["asked"]
            then = [await caller.ask() for _ in range(20)]
            mood.write_text("good")
            began = time.monotonic()
            while (await caller.ask())["source"] != "teacher" and time.monotonic() - began < 120:  # noqa: ASYNC110 -- of another process
                await asyncio.sleep(0.05)
            everything = [*found, *then]
            instructed = sum(one["source"] == "teacher" for one in found)
            rows.append(
                {
                    "teacher": fault,
                    "answered": sum(one["status"] == 200 for one in everything) / len(everything),
                    "instructed_meanwhile": instructed,
                    "slowest_ms": round(max(milliseconds(found)), 1),
                    "over_the_deadline_ms": round(max(milliseconds(found)) - 1000 * DEADLINE_S, 1),
                    "tries_before_left_alone": tries,
                    "added_while_left_alone_ms": round(statistics.median(milliseconds(then)) - usual, 2),
                    "well_again_after_s": round(time.monotonic() - began, 2),
                    "reasons": sorted({one["degraded"] for one in everything if one["degraded"]}),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            await caller.http.aclose()
    return rows


async def at_rate(callers: list[Caller], rate: float, seconds: float) -> list[dict[str, Any]]:
    """Answers to requests on a fixed schedule, callers by turns."""
    began, tasks = time.perf_counter(), []
    for i in range(int(rate * seconds)):
        if (wait := began + i / rate - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(callers[i % len(callers)].ask()))
    return await asyncio.gather(*tasks)


def good(found: list[dict[str, Any]]) -> int:
    return sum(one["source"] in ("teacher", "cache") and one["s"] <= DEADLINE_S for one in found)


async def overload(seconds: float) -> dict[str, Any]:
    """Four instructions in 100 ms, so 40/s: three times as many requests, half of them by a key that wants refusals."""
    capacity = 40.0
    with tempfile.TemporaryDirectory(prefix="wst-faults-") as folder:
        file = Path(folder) / "keys.json"
        keys = [new_key(file), new_key(file, "--on-failure", "error")]
        async with service("sleep 0.1", KEYS=str(file), BATCH="4", LANES="1") as (port, _):
            callers = [Caller(port, key) for key in keys]
            await at_rate(callers, capacity / 2, 2.0)  # it learns how long a batch takes
            peak = good(await at_rate(callers, capacity, seconds / 3)) / (seconds / 3)
            found = await at_rate(callers, 3 * capacity, seconds)
            began = time.monotonic()
            while True:  # normal again: a second of ordinary load without a request that is not instructed in time
                after = await at_rate(callers, capacity / 2, 1.0)
                if good(after) == len(after) or time.monotonic() - began > 30:
                    break
            recovered_s = max(0.0, time.monotonic() - began - 1.0)
            for caller in callers:
                await caller.http.aclose()
    refused = [one for one in found if one["status"] == 503]
    row = {
        "overload": 3,
        "peak_goodput_per_s": round(peak, 1),
        "goodput_of_peak": round(good(found) / seconds / peak, 3),
        "refused": len(refused),
        "refused_with_retry_after": sum(one["retry_after"] is not None for one in refused),
        "other_errors": sum(one["status"] not in (200, 503) for one in found),
        "slowest_ms": round(max(milliseconds(found)), 1),
        "normal_again_s": round(recovered_s, 2),
    }
    print(json.dumps(row), flush=True)
    return row


async def vanishing(clients: int, *, queued: bool) -> dict[str, Any]:
    """Clients that send a request and are gone when all are in flight."""
    wide = {"DEADLINE_MS": "60000", "QUEUE": str(clients + 1), "BATCH": "32" if queued else "1", "LANES": "2" if queued else str(clients)}
    async with service("good", **wide) as (port, mood):
        caller = Caller(port)
        await caller.ask()
        mood.write_text("hang")
        await asyncio.sleep(0.2)
        before = await caller.held()
        writers = []
        for i in range(clients):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            body = json.dumps({"query": f"Client {i} wants to know."})
            head = f"POST /instruct HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write((head + body).encode())
            writers.append(writer)
        in_flight = 0
        give_up = time.monotonic() + 60
        while in_flight < clients and time.monotonic() < give_up:
            await asyncio.sleep(0.1)
            in_flight = await _in_flight(caller, before, queued)
        for writer in writers:
            writer.transport.abort()
        gone = time.monotonic()
        await asyncio.sleep(1.0)
        left = await _in_flight(caller, before, queued)
        looked_after_s = time.monotonic() - gone
        mood.write_text("good")
        after = await caller.held()
        give_up = time.monotonic() + 15
        while (after["tasks"] > before["tasks"] + 5 or after["descriptors"] > before["descriptors"] + 5) and time.monotonic() < give_up:
            await asyncio.sleep(0.25)
            after = await caller.held()
        served = (await caller.ask())["source"]
        await caller.http.aclose()
    row = {
        "vanishing": "in the queue" if queued else "at work",
        "clients": clients,
        "in_flight": in_flight,
        "stopped": round(1 - left / max(1, in_flight), 5),
        "looked_after_s": round(looked_after_s, 2),
        "tasks_left": after["tasks"] - before["tasks"],
        "descriptors_left": after["descriptors"] - before["descriptors"],
        "the_next_caller_gets": served,
    }
    print(json.dumps(row), flush=True)
    return row


async def _in_flight(caller: Caller, before: dict[str, Any], queued: bool) -> int:
    """Requests at the teacher or before it; batches of the in-process kind hold up to 32 each."""
    held = await caller.held()
    return int(held["queued"] + held["busy"] * (32 if queued else 1))


async def control(requests: int) -> dict[str, Any]:
    """What the same callers wait for a no-op app: one at a time, and ten."""
    port = free_port()
    with process([sys.executable, "-m", "benchmarks.service_overhead", "--serve", "control", "--port", str(port)], port):
        caller = Caller(port)
        alone = milliseconds([await caller.ask() for _ in range(requests)])
        together = [ms for _ in range(requests // 10) for ms in milliseconds(await asyncio.gather(*(caller.ask() for _ in range(10))))]
        await caller.http.aclose()
    row = {"control": "no-op", "median_ms": round(statistics.median(alone), 2), "slowest_ms": round(max(alone), 1)}
    print(json.dumps(row := {**row, "slowest_of_ten_ms": round(max(together), 1)}), flush=True)
    return row


async def measure(seconds: float, requests: int, clients: int) -> list[dict[str, Any]]:
    return [
        await control(requests),
        *await redis_faults(requests),
        *await teacher_faults(requests),
        await overload(seconds),
        await vanishing(clients, queued=False),
        await vanishing(clients, queued=True),
    ]


def headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    redis, teacher = [row for row in rows if "redis" in row], [row for row in rows if "teacher" in row]
    over = next(row for row in rows if "overload" in row)
    return {
        "answered": min(row["answered"] for row in [*redis, *teacher]),
        "redis_added_first_ms": max(row["added_first_ms"] for row in redis),
        "redis_added_then_ms": max(row["added_then_ms"] for row in redis),
        "teacher_over_the_deadline_ms": max(row["over_the_deadline_ms"] for row in teacher),
        "tries_before_left_alone": max(row["tries_before_left_alone"] for row in teacher),
        "control_slowest_ms": max(row["slowest_of_ten_ms"] for row in rows if "control" in row),
        "goodput_of_peak": over["goodput_of_peak"],
        "normal_again_s": over["normal_again_s"],
        "vanished_stopped": min(row["stopped"] for row in rows if "vanishing" in row),
        "left_behind": max(row["tasks_left"] + row["descriptors_left"] for row in rows if "vanishing" in row),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload (default 60)")
    parser.add_argument("--requests", type=int, default=200, help="a fault (default 200)")
    parser.add_argument("--clients", type=int, default=4000, help="that vanish (default 4000)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if args.serve:
        serve(args.serve)
        return 0
    if most < 2 * args.clients:
        parser.error(f"{args.clients} clients need {2 * args.clients} open files; this shell allows {most} (ulimit -Hn)")
    say_load()
    commit, load = git_commit(), os.getloadavg()[0]
    rows = asyncio.run(measure(args.seconds, args.requests, args.clients))
    found = {**headline(rows), "load_average": round(load, 1)}
    if not args.no_save:
        save(NAME, headline=found, runs=rows, commit=commit)
    print(json.dumps({"headline": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
