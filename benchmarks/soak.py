"""`python -m benchmarks.soak [--requests 1000000] [--minutes M] [--resume]`: does the service hold more after a million requests?

One worker with everything on (keys, limits and cache in a real Redis, an experiment whose exposures go to the disk and into Redis, proxy
in front of a fake student): `/instruct`, a third of it in the experiment, chat whole and streamed. A fifth of the callers goes away in the
middle; a twentieth of the requests meets a teacher that crashes, a student that fails or breaks its stream off, or is no JSON. The
memory's slope is a least-squares line over the samples after the first fifth of a run, and not before its 50,000th request: until about
then the process's own 10,000 cached instructions fill up. Descriptors and tasks are compared when all callers are gone and idle
connections are closed, with what they were after the first 500 requests.

`--minutes` ends it early with what was reached; `--resume` adds what is missing, with a new worker, as a further run of the same file
(`benchmarks/results/soak.json`); the headline takes the worst run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from benchmarks.faults import new_key
from benchmarks.faults_service import MoodyTeacher, serve, serve_upstream
from benchmarks.results_file import load_runs, save, say_load
from benchmarks.service_overhead import free_port, process
from teacher.run_directory import git_commit

NAME = "soak"
CALLERS = 32
DISCONNECTS, FAULTS = 0.20, 0.05
SAMPLES = 100
"""Looks at the process, evenly over the requests, at least."""
STEP = 5_000
"""Requests between two looks at the process, at most."""
WARM = 50_000
"""Requests of a run that its slope leaves out, unless they are more than half of it."""
IDLE_S = 6.0
"""Longer than the server, and its pool of connections to the student, keep an idle connection."""
EXPERIMENT = {
    "id": "soak",
    "arms": [{"name": "raw", "raw": True, "weight": 0.5}, {"name": "taught", "teacher": MoodyTeacher.sha256, "weight": 0.5}],
    "control": "raw",
    "metric": "success",
}
UNITS = 1000
ONE_QUESTION = {"model": "m", "messages": [{"role": "user", "content": "1 + 1?"}]}


class Callers:
    """Many apps that ask one after another, each on a connection of its own until it breaks."""

    def __init__(self, port: int, key: str, requests: int, until: float) -> None:
        self.port, self.key, self.requests, self.until = port, key, requests, until
        self.rng = random.Random(0)
        self.sent = 0
        self.seen: Counter[str] = Counter()

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    async def _caller(self) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while self.sent < self.requests and time.monotonic() < self.until:
            self.sent += 1
            if streams is None:
                streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = streams
            try:
                writer.write(self._request())
                if self.rng.random() < DISCONNECTS:
                    await asyncio.sleep(self.rng.random() * 0.01)
                    writer.transport.abort()
                    self.seen["left"] += 1
                    streams = None
                    continue
                self.seen[await answer(reader)] += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                self.seen["broken off"] += 1
                writer.transport.abort()
                streams = None
        if streams is not None:
            streams[1].close()

    def _request(self) -> bytes:
        chance, fault = self.rng.random(), self.rng.random() < FAULTS
        number = self.rng.randrange(1000) if self.rng.random() < 0.5 else self.sent  # half of the queries are old ones
        path, query = "/instruct", f"What is {number} and {number}?"
        if chance < 0.6:
            query += " !crash" if fault else ""
            body: dict[str, Any] = {"query": query}
            if chance < 0.2:
                body |= {"unit": f"u{self.rng.randrange(UNITS)}", "experiment": EXPERIMENT["id"]}
        else:
            path, stream = "/v1/chat/completions", chance < 0.8
            query += self.rng.choice([" !500", " !break"]) if fault else ""
            body = {"model": "m", "messages": [{"role": "user", "content": query}], "stream": stream}
        content = json.dumps(body).encode()
        if fault and self.rng.random() < 0.3:
            content = content[:-5]
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def answer(reader: asyncio.StreamReader) -> str:
    """Read one answer to its end; its status, and why it was raw. Raises IncompleteReadError where it has none."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = head[9:12]
    if "transfer-encoding: chunked" in head:
        while True:
            size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
            await reader.readexactly(size + 2)
            if not size:
                break
    else:
        await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
    reason = head.split("wst-degraded:")[1].split("\r\n")[0].strip() if "wst-degraded:" in head else ""
    return f"{status} {reason}".strip()


async def watch(callers: Callers, look: Callable[[], Awaitable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What the process holds, at even steps of the requests."""
    samples, due = [], 0
    running = asyncio.create_task(callers.run())
    while not running.done():
        if callers.sent >= due:
            samples.append({"requests": callers.sent, **await look()})
            due = callers.sent + max(1, min(STEP, callers.requests // SAMPLES))
            print(json.dumps(samples[-1]), flush=True)
        await asyncio.sleep(0.05)
    await running
    return samples


async def measure(port: int, key: str, admin: str, requests: int, minutes: float | None) -> dict[str, Any]:
    """One run against a worker."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {admin}"}, timeout=60) as http:

        async def look() -> dict[str, Any]:
            found: dict[str, Any] = (await http.get("/held")).json()
            return found

        async def settled() -> dict[str, Any]:
            await asyncio.sleep(IDLE_S)
            # The pool closes what idled too long when it is asked for a connection, and not before.
            await http.post("/v1/chat/completions", json=ONE_QUESTION, headers=caller)
            await asyncio.sleep(1.0)
            return await look()

        caller = {"authorization": f"Bearer {key}"}
        (await http.post("/experiments", json=EXPERIMENT, headers=caller)).raise_for_status()
        await Callers(port, key, 500, time.monotonic() + 60).run()  # pools fill, modules load
        before, began = await settled(), time.monotonic()
        callers = Callers(port, key, requests, began + 60 * (minutes or 1e6))
        samples = await watch(callers, look)
        wall_s = time.monotonic() - began
        after = await settled()
    first = max(callers.sent / 5, min(WARM, callers.sent / 2))
    late = [sample for sample in samples if sample["requests"] >= first]
    slope = float(np.polyfit([s["requests"] / 1e5 for s in late], [s["rss_mb"] for s in late], 1)[0]) if len(late) > 2 else float("nan")
    return {
        "requests": callers.sent,
        "mb_per_100k": round(slope, 3),
        "rss_mb": [before["rss_mb"], after["rss_mb"]],
        "descriptors_left": after["descriptors"] - before["descriptors"],
        "tasks_left": after["tasks"] - before["tasks"],
        "answers": dict(sorted(callers.seen.items())),
        "wall_s": round(wall_s, 1),
        "samples": [[s["requests"], s["rss_mb"], s["descriptors"], s["tasks"]] for s in samples],
    }


def run(requests: int, minutes: float | None) -> dict[str, Any]:
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("benchmarks.soak: redis-server is needed: the point is the whole stack")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wst-soak-")))
        redis, upstream, port = free_port(), free_port(), free_port()
        limits = ("--requests-per-minute", "100000000", "--concurrency", "10000")
        key = new_key(folder / "keys.json", *limits, "--scopes", "instruct,proxy,experiments")
        admin = new_key(folder / "keys.json", "--scopes", "admin")
        (folder / "mood").write_text("good")
        stack.enter_context(process([program, "--port", str(redis), "--save", "", "--bind", "127.0.0.1"], redis))
        stack.enter_context(process([sys.executable, "-m", "benchmarks.soak", "--upstream", str(upstream)], upstream))
        settings = {"KEYS": f"{folder}/keys.json", "REDIS": f"redis://127.0.0.1:{redis}/0", "UPSTREAM": f"http://127.0.0.1:{upstream}/v1"}
        # The shipped deadline: with less, a machine that has other things to do makes a soak of refusals.
        settings |= {"MOOD": f"{folder}/mood", "EVENTS": f"{folder}/events.db", "DEADLINE_MS": "2000"}
        stack.enter_context(process([sys.executable, "-m", "benchmarks.soak", "--serve", str(port)], port, **settings))
        return asyncio.run(measure(port, key, admin, requests, minutes))


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs the worst one's; fewer descriptors or tasks than at the start are none left."""
    worst = {name: max(one[name] for one in runs) for name in ("mb_per_100k", "descriptors_left", "tasks_left")}
    return {"requests": sum(one["requests"] for one in runs), **worst}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=1_000_000, help="all runs of the file together (default 1000000)")
    parser.add_argument("--minutes", type=float, help="longest time for this run (default: none)")
    parser.add_argument("--resume", action="store_true", help="add what is missing to the runs that the results hold")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve or args.upstream:
        (serve if args.serve else serve_upstream)(args.serve or args.upstream)
        return 0
    say_load()
    commit, runs = git_commit(), load_runs(NAME) if args.resume else []
    missing = args.requests - sum(one["requests"] for one in runs)
    if missing <= 0:
        print(f"the results hold {args.requests} requests already")
        return 0
    runs.append(run(missing, args.minutes))
    if not args.no_save:
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
    print(json.dumps({"headline": headline(runs), **{k: v for k, v in runs[-1].items() if k != "samples"}}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
