"""`python -m server --workers 2`: real processes behind one port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.server.test_operations import samples

TEXT = "Be brief."
SETTINGS = {"WST_TEACHERS": json.dumps({"default": {"text": TEXT}}), "WST_DRAIN_DELAY_S": "0.5", "WST_LOG_LEVEL": "warning"}


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **SETTINGS, "WST_RUNS_DIR": str(folder / "runs"), "TMPDIR": str(folder), **settings}
    command = [sys.executable, "-m", "server", "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()  # its workers see that it is gone


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    found = []
    for one in psutil.Process(process.pid).children():
        with suppress(psutil.Error):  # gone, or a zombie
            if "spawn_main" in " ".join(one.cmdline()):
                found.append(one.pid)
    return sorted(found)


def call(url: str, body: Any = None, method: str | None = None) -> bytes:
    """One request on a connection of its own, so that any worker may take it. Raises for whatever is no 2xx."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as reply:
        content: bytes = reply.read()
    return content


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.slow
def test_two_workers_are_one_server(tmp_path: Path) -> None:
    """Figures are summed, a mode holds for both, one that is killed is replaced, and nobody notices the end."""
    with server(tmp_path) as process:
        assert process.stdout is not None
        started = process.stdout.readline()
        assert started.startswith("serving with 2 workers on ")
        use(process, tmp_path, started.split()[-1])


def use(process: subprocess.Popen[str], tmp_path: Path, url: str) -> None:

    def asked(n: int = 20) -> set[str | None]:
        return {json.loads(call(f"{url}/instruct", {"query": f"q{i}"}))["degraded"] for i in range(n)}

    first = workers_of(process)
    assert len(first) == 2
    assert asked(40) == {None}
    figures = samples(call(f"{url}/metrics").decode())
    assert (figures["wst_requests_total", "/instruct", "200"], figures["wst_teacher_queued",]) == (40, 0)

    call(f"{url}/modes/default", {"mode": "off"}, "PUT")  # one worker takes it, both follow, without a Redis
    until(lambda: asked(8) == {"mode_off"})
    call(f"{url}/modes/default", {"mode": "on", "holdback": 0.05}, "PUT")
    counted = samples(call(f"{url}/metrics").decode())["wst_requests_total", "/instruct", "200"]

    os.kill(first[0], signal.SIGKILL)
    until(lambda: len(workers_of(process)) == 2 and first[0] not in workers_of(process))
    assert first[1] in workers_of(process)
    asked()
    assert samples(call(f"{url}/metrics").decode())["wst_requests_total", "/instruct", "200"] == counted + 20  # the dead one's count

    failed: list[Exception] = []
    draining = threading.Event()

    def keep_asking() -> None:
        while not draining.is_set():
            try:
                asked(1)
            except Exception as error:
                failed.append(error)

    last, asker = workers_of(process), threading.Thread(target=keep_asking)
    asker.start()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)  # within the delay, in which requests are taken still
    draining.set()
    asker.join()
    _, stderr = process.communicate(timeout=60)
    assert not failed
    assert process.returncode == -signal.SIGTERM
    assert not any(psutil.pid_exists(pid) for pid in last)
    assert not list(tmp_path.glob("wst-metrics-*"))
    assert f"worker {first[0]} died and was replaced by" in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_server(tmp_path: Path) -> None:
    with server(tmp_path, WST_TEACHERS="{}", WST_TEACHER=str(tmp_path)) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (1, "")
    assert str(tmp_path) in stderr.splitlines()[0]
    assert stderr.splitlines()[-1] == "server: a worker could not start; it has said why"
    assert "Traceback" not in stderr
