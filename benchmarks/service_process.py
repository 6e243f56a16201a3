"""The service in a process of its own that a benchmark may kill -9 and start again, a client that outlives it, and a checker of its log."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import httpx2

from store import EventLog

GIVE_UP_S = 900.0
"""Longest wait for a service that was killed to be back; a machine may stand still for minutes meanwhile."""


class ServiceProcess:
    """`python -m server` (or another command with its ready line) at a port that stays the same over its lives."""

    def __init__(self, port: int, settings: dict[str, str], command: list[str] | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.kills = 0
        self._command = [*(command or [sys.executable, "-m", "server"]), "--port", str(port)]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "WST_LOG_LEVEL": "warning", **settings}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns once it listens. Raises RuntimeError where it ends instead."""
        self._process = subprocess.Popen(self._command, env=self._environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith("serving"):
            raise RuntimeError(f"{' '.join(self._command)} ended with {self._process.wait()}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
            self.kills += 1


async def compare(log: EventLog, topic: str, exposures: Iterable[str], outcomes: Mapping[str, float]) -> dict[str, int]:
    """What the log lacks and has twice of what was acknowledged: exposures by request id, outcomes by "REQUEST_ID METRIC" with values."""
    found: dict[str, list[float | None]] = {}
    for event in await log.read_all(topic):
        content = event.content
        key = f"{content['request_id']} {content['metric']}" if event.kind == "outcome" else content["request_id"]
        found.setdefault(key, []).append(content.get("value"))
    acknowledged: dict[str, float | None] = {**dict.fromkeys(exposures), **outcomes}
    return {
        "acknowledged": len(acknowledged),
        "lost": sum(value not in found.get(key, []) for key, value in acknowledged.items()),
        "doubled": sum(len(values) - 1 for values in found.values()),
    }


async def persistent(client: httpx2.AsyncClient, method: str, path: str, **request: Any) -> httpx2.Response:
    """The response to a request that is sent again, the same, until a living server has answered it."""
    give_up = time.monotonic() + GIVE_UP_S
    while True:
        try:
            response = await client.request(method, path, **request)
            if response.status_code != 503:
                return response
        except httpx2.TransportError:
            pass
        if time.monotonic() > give_up:
            raise TimeoutError(f"no answer to {method} {path} for {GIVE_UP_S:g} s")
        await asyncio.sleep(0.05)
