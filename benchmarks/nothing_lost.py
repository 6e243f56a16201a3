"""`python -m benchmarks.nothing_lost [--events N] [--kills K] [--redis-kills R]`: what was acknowledged survives everything, once.

Two replicas of the server (their teacher is a fixed silence, so that a start takes seconds) share a real Redis (`appendfsync always`).
Clients enter an experiment and report an outcome for each request, at whichever replica, some of them twice; meanwhile replicas are killed
with SIGKILL by turns, and Redis too. A client that got no answer, or 503, sends the same again, to either replica. In the end a checker
compares what was acknowledged with the log of both replicas and of a new one. Writes `benchmarks/results/nothing_lost.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from benchmarks.results_file import save, say_load
from benchmarks.service_overhead import free_port
from benchmarks.service_process import ServiceProcess, compare
from store import EventLog
from teacher.run_directory import git_commit

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

NAME = "nothing_lost"
CLIENTS = 24
BATCH = 20
"""Requests that enter together, by /instruct/batch."""
GIVE_UP_S = 120.0
SERVE = """
import sys
import server.__main__ as command
from exchange.command import run_command
from evaluation.arms import FixedPolicy
from types import SimpleNamespace
command.load = lambda settings: SimpleNamespace(
    id="silence", sha256="00" * 32, task="any", policy=FixedPolicy(""), max_instruction_tokens=None)
sys.exit(run_command("server", lambda: command.main(sys.argv[1:])))
"""
EXPERIMENT = {
    "id": "e",
    "arms": [{"name": "raw", "raw": True, "weight": 0.5}, {"name": "also-raw", "raw": True, "weight": 0.5}],
    "control": "raw",
    "metric": {"name": "m", "kind": "real"},
}


@dataclass
class History:
    """What was acknowledged."""

    exposures: list[str] = field(default_factory=list)
    outcomes: dict[str, float] = field(default_factory=dict)
    resent: int = 0
    """Requests that had to be sent again."""
    early_404: int = 0
    """Outcomes that a replica did not take yet: the one that served the request was dead before Redis was back."""

    def __len__(self) -> int:
        return len(self.exposures) + len(self.outcomes)


class Clients:
    """Many apps in front of two replicas."""

    def __init__(self, urls: list[str], history: History, rng: random.Random) -> None:
        self.replicas = [httpx2.AsyncClient(base_url=url, timeout=20) for url in urls]
        self.history, self.rng = history, rng

    async def send(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        """The reply of the first replica that gives one."""
        give_up = time.monotonic() + GIVE_UP_S
        while True:
            try:
                response = await self.rng.choice(self.replicas).post(path, json=body, headers=headers)
                if response.is_success:
                    return response.json()
                if response.status_code not in (404, 503):
                    raise RuntimeError(f"{path}: {response.status_code} {response.text}")
                self.history.early_404 += response.status_code == 404
            except httpx2.TransportError:
                pass
            self.history.resent += 1
            if time.monotonic() > give_up:
                raise TimeoutError(path)
            await asyncio.sleep(0.1)

    async def work(self, numbers: Iterator[int], events: int) -> None:
        while len(self.history) < events:
            number = next(numbers)
            items = [{"query": "q", "unit": f"u{number}-{i}", "experiment": "e"} for i in range(BATCH)]
            reply = await self.send("/instruct/batch", {"items": items}, {"x-request-id": f"r{number}"})
            for item in reply["items"]:
                if item["experiment"] is None:  # a server that has not heard of the experiment again
                    continue
                self.history.exposures.append(item["request_id"])
                value = round(self.rng.random(), 6)
                await self.send("/outcomes", {"request_id": item["request_id"], "metric": "m", "value": value})
                self.history.outcomes[f"{item['request_id']} m"] = value
                if self.rng.random() < 0.02:  # an app that is not sure whether it has reported
                    await self.send("/outcomes", {"request_id": item["request_id"], "metric": "m", "value": value})


async def destroy(history: History, events: int, replicas: list[ServiceProcess], redis: RedisServer, kills: int, redis_kills: int) -> None:
    """Kill at even steps of the acknowledged events."""
    plan = [(events * (i + 1) // (kills + 1), i % len(replicas)) for i in range(kills)]
    plan += [(events * (i + 1) // (redis_kills + 1), -1) for i in range(redis_kills)]
    for at, which in sorted(plan):
        while len(history) < at:  # noqa: ASYNC110 -- a count that two dozen tasks raise
            await asyncio.sleep(0.02)
        if which < 0:
            redis.kill()
            await asyncio.sleep(0.5)
            await asyncio.to_thread(redis.start)
        else:
            replicas[which].kill()
            await asyncio.to_thread(replicas[which].start)


async def check(folder: Path, redis: RedisServer, history: History) -> dict[str, int]:
    """Every replica's log and a new one's against the history; the worst of each count."""
    logs = [EventLog(folder / f"{name}.db", redis_url=redis.url, redis_timeout_s=10) for name in ("0", "1", "new")]
    for _ in range(2):  # what one sends, the others fetch
        for log in logs:
            while await log.exchange():
                pass
    topic = "experiment//e"
    counts = [await compare(log, topic, history.exposures, history.outcomes) for log in logs]
    first, *others = [await log.read_all(topic) for log in logs]
    for log in logs:
        await log.aclose()
    worst = {name: max(count[name] for count in counts) for name in counts[0]}
    return {**worst, "events_in_log": len(first), "replicas_that_differ": sum(other != first for other in others)}


async def measure(events: int, kills: int, redis_kills: int) -> dict[str, Any]:
    from tests.redis_server import RedisServer

    began, history = time.monotonic(), History()
    with tempfile.TemporaryDirectory(prefix="wst-lost-") as name:
        redis = RedisServer(Path(name), "--appendonly", "yes", "--appendfsync", "always")
        command = [sys.executable, "-c", SERVE]
        replicas = [ServiceProcess(free_port(), {"WST_EVENT_LOG": f"{name}/{i}.db", "WST_STORE": redis.url}, command) for i in range(2)]
        try:
            for replica in replicas:
                replica.start()
            clients = Clients([replica.url for replica in replicas], history, random.Random(0))
            await clients.send("/experiments", EXPERIMENT)
            numbers = itertools.count()
            destroying = asyncio.create_task(destroy(history, events, replicas, redis, kills, redis_kills))
            await asyncio.gather(*(clients.work(numbers, events) for _ in range(CLIENTS)))
            await destroying
            for client in clients.replicas:
                await client.aclose()
        finally:
            for replica in replicas:
                replica.kill()
        found = await check(Path(name), redis, history)
        redis.kill()
    return {
        **found,
        "service_kills": kills,
        "redis_kills": redis_kills,
        "resent": history.resent,
        "early_404": history.early_404,
        "wall_s": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nothing_lost", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--events", type=int, default=100_000, help="acknowledged exposures and outcomes (default 100000)")
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs of a replica (default 50)")
    parser.add_argument("--redis-kills", type=int, default=20, help="SIGKILLs of Redis (default 20)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    say_load()
    commit = git_commit()
    run = asyncio.run(measure(args.events, args.kills, args.redis_kills))
    headline = {name: run[name] for name in ("acknowledged", "lost", "doubled")}
    if not args.no_save:
        save(NAME, headline=headline, runs=[run], commit=commit)
    print(json.dumps({"headline": headline, **run}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
