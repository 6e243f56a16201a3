"""`python -m benchmarks.restarts [--restarts 100] [--reloads 100] [--resume]`: nobody notices that the service is exchanged.

- *Rolling restarts*: two replicas (`python -m server`) behind a balancer that routes by `/readyz`, as any does; requests come on a fixed
  schedule, 200 a second, whether or not earlier ones were answered. One replica after the other gets SIGTERM, drains, ends and comes back.
  Failed is whatever is no 200 with the instruction, a connection that breaks included; nothing is sent twice.
- *Hot reloads*: one server, 100 requests a second, `POST /teachers/default/reload` between two real checkpoints that write different
  instructions. An answer is mixed where its text is not the one that the checkpoint of its sha256 writes for this query.

The same load on a bare no-op app stands beside both. Broken off, `--resume` adds what is missing. Writes
`benchmarks/results/restarts.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.results_file import load_runs, save, say_load
from benchmarks.service_overhead import free_port, process
from teacher.run_directory import git_commit

NAME = "restarts"
RESTART_RATE, RELOAD_RATE = 200, 100
CHUNK = 20
"""Restarts or reloads after which the results are written."""
TEXT = "Think step by step."
LOOK_S = 0.05
"""How often the balancer asks whether a replica is ready."""
QUERIES = tuple(f"What is {a} more than {b}?" for a, b in itertools.product(range(11, 16), range(21, 25)))

Ask = Callable[[], Awaitable[str]]
"""One request; what came of it: "good", or what was wrong."""


class Replica:
    """`python -m server` at one port, over several lives, and the balancer's connections to it."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.port, self.ready = free_port(), False
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.http = self._client()

    def _client(self) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=2.0)  # sooner than the server's 5 s
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False, limits=limits)

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WST_LOG_LEVEL": "warning", **self.settings}
        command = [sys.executable, "-m", "server", "--port", str(self.port)]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    async def restart(self) -> None:
        """SIGTERM, its end, a new one, ready."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self._process.wait)
        self.ready, old, self.http = False, self.http, self._client()
        await old.aclose()
        self.start()
        await self.is_ready()

    async def is_ready(self) -> None:
        """Raises TimeoutError."""
        async with asyncio.timeout(180):
            while not self.ready:  # noqa: ASYNC110 -- the balancer's look, at its pace
                await asyncio.sleep(LOOK_S)

    async def watch(self) -> None:
        """The balancer's eye on this replica."""
        while True:
            try:
                self.ready = (await self.http.get("/readyz", timeout=1.0)).status_code == 200
            except Exception:  # down, or its connections were closed meanwhile, which has many names
                self.ready = False
            await asyncio.sleep(LOOK_S)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def on_schedule(ask: Ask, rate: int, over: asyncio.Event) -> dict[str, Any]:
    """Requests at a fixed rate until `over`: how many, what was wrong, latencies from when each was due."""
    wrong: Counter[str] = Counter()
    took: list[float] = []

    async def one(due: float) -> None:
        said = await ask()
        took.append(1000 * (time.perf_counter() - due))
        if said != "good":
            wrong[said] += 1

    began, tasks = time.perf_counter(), set()
    for i in itertools.count():
        if over.is_set():
            break
        due = began + i / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    cuts = statistics.quantiles(took, n=100)
    return {
        "requests": len(took),
        "failed": sum(wrong.values()),
        "wrong": dict(wrong.most_common(5)),
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "load": round(os.getloadavg()[0], 1),
    }


async def control(port: int, rate: int, seconds: float) -> dict[str, Any]:
    """The same load on a no-op app."""
    over = asyncio.Event()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, limits=httpx2.Limits(max_connections=None)) as http:

        async def ask() -> str:
            return "good" if (await http.post("/instruct", json={"query": "q"})).status_code == 200 else "status"

        asyncio.get_running_loop().call_later(seconds, over.set)
        return {"what": "control", "rate": rate, **await on_schedule(ask, rate, over)}


async def rolling(restarts: int, folder: Path) -> dict[str, Any]:
    """One row: so many restarts under load."""
    settings = {"WST_TEACHERS": json.dumps({"default": {"text": TEXT}}), "WST_DRAIN_DELAY_S": "0.5"}
    replicas = [Replica({**settings, "WST_EVENT_LOG": str(folder / f"{i}.db")}) for i in range(2)]
    over, turn = asyncio.Event(), itertools.count()

    async def ask() -> str:
        ready = [replica for replica in replicas if replica.ready]
        if not ready:
            return "no replica ready"
        try:
            reply = await ready[next(turn) % len(ready)].http.post("/instruct", json={"query": "What is 2 and 3?"})
        except httpx2.HTTPError as error:
            return type(error).__name__
        return "good" if reply.status_code == 200 and reply.json()["instruction"] == TEXT else f"status {reply.status_code}"

    watching = []
    try:
        for replica in replicas:
            replica.start()
            watching.append(asyncio.create_task(replica.watch()))
        for replica in replicas:
            await replica.is_ready()
        asking = asyncio.create_task(on_schedule(ask, RESTART_RATE, over))
        for i in range(restarts):
            replica = replicas[i % 2]
            await replica.restart()
        over.set()
        return {"what": "restarts", "n": restarts, **await asking}
    finally:
        for task in watching:
            task.cancel()
        for replica in replicas:
            replica.kill()
            with suppress(RuntimeError):
                await replica.http.aclose()


def two_runs(folder: Path) -> None:
    """Run directories `a` and `b`: the shipped teacher, and the same with weaker first weights, which writes other instructions."""
    from safetensors.torch import load_file, save_file

    from lab.weights_folder import weights_dir
    from teacher.folder import MANIFEST, teacher_sha256

    for name in ("a", "b"):
        run = folder / name / "teacher"
        shutil.copytree(weights_dir("arithmetic") / "trained_teacher", run)
        if name == "b":
            tensors = load_file(run / "model.safetensors")
            first = next(key for key in tensors if "mlp" in key)
            save_file({**tensors, first: tensors[first] * 0.2}, run / "model.safetensors", metadata={"format": "pt"})
        manifest = json.loads((run / MANIFEST).read_text())
        (run / MANIFEST).write_text(json.dumps({**manifest, "sha256": teacher_sha256(run)}))


async def reloading(reloads: int, folder: Path) -> dict[str, Any]:
    """One row: so many reloads under load."""
    two_runs(folder / "runs")
    settings = {"WST_RUNS_DIR": str(folder / "runs"), "WST_TEACHER": str(folder / "runs/a"), "WST_DEADLINE_MS": "30000"}
    server, over, turn = Replica(settings), asyncio.Event(), itertools.count()
    server.start()
    watching = asyncio.create_task(server.watch())
    try:
        await server.is_ready()
        texts: dict[tuple[str, str], str] = {}
        for run in ("a", "b"):
            (await server.http.post("/teachers/default/reload", json={"run": run})).raise_for_status()
            for query in QUERIES:
                reply = (await server.http.post("/instruct", json={"query": query})).json()
                texts[reply["teacher"]["sha256"], query] = reply["instruction"]
        shas = {sha for sha, _ in texts}
        told_apart = sum(len({texts[sha, query] for sha in shas}) == 2 for query in QUERIES)
        if len(shas) != 2 or not told_apart:
            raise RuntimeError("the two checkpoints write the same; nothing could be mixed")
        passed = 0

        async def ask() -> str:
            nonlocal passed
            query = QUERIES[next(turn) % len(QUERIES)]
            try:
                reply = await server.http.post("/instruct", json={"query": query})
            except httpx2.HTTPError as error:
                return type(error).__name__
            if reply.status_code != 200:
                return f"status {reply.status_code}"
            told = reply.json()
            passed += told["source"] == "passthrough"
            if told["teacher"] is None:
                return "good" if told["source"] == "passthrough" else "no teacher"
            return "good" if texts.get((told["teacher"]["sha256"], query)) == told["instruction"] else "mixed"

        asking = asyncio.create_task(on_schedule(ask, RELOAD_RATE, over))
        for i in range(reloads):
            (await server.http.post("/teachers/default/reload", json={"run": "ab"[i % 2]})).raise_for_status()
            await asyncio.sleep(0.2)
        over.set()
        row = await asking
        return {"what": "reloads", "n": reloads, **row, "passed_through": passed, "queries_told_apart": told_apart}
    finally:
        watching.cancel()
        server.kill()
        await server.http.aclose()


def headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what in ("restarts", "reloads"):
        mine = [row for row in rows if row["what"] == what]
        if mine:
            found[what] = {key: sum(row[key] for row in mine) for key in ("n", "requests", "failed")}
            found[what]["p99_ms"] = max(row["p99_ms"] for row in mine)
    if "reloads" in found:
        found["reloads"]["passed_through"] = sum(row.get("passed_through", 0) for row in rows)
    found["control_p99_ms"] = {str(row["rate"]): row["p99_ms"] for row in rows if row["what"] == "control"}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restarts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--restarts", type=int, default=100, help="all runs of the file together (default 100)")
    parser.add_argument("--reloads", type=int, default=100, help="all runs of the file together (default 100)")
    parser.add_argument("--resume", action="store_true", help="add what is missing to the runs that the results hold")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    say_load()
    commit, rows = git_commit(), load_runs(NAME) if args.resume else []

    def done(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if not args.no_save:
            save(NAME, headline=headline(rows), runs=rows, commit=commit)

    wanted = {"restarts": (args.restarts, rolling), "reloads": (args.reloads, reloading)}
    for what, (number, run) in wanted.items():
        while (missing := number - sum(row["n"] for row in rows if row["what"] == what)) > 0:
            with tempfile.TemporaryDirectory(prefix="wst-restarts-") as folder:
                done(asyncio.run(run(min(missing, CHUNK), Path(folder))))
    with ExitStack() as stack:
        port = free_port()
        stack.enter_context(process([sys.executable, "-m", "benchmarks.service_overhead", "--serve", "control", "--port", str(port)], port))
        for rate in (RESTART_RATE, RELOAD_RATE):
            if not any(row["what"] == "control" and row["rate"] == rate for row in rows):
                done(asyncio.run(control(port, rate, 10.0)))
    print(json.dumps({"headline": headline(rows)}, indent=1))
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
