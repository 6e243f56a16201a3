"""`python -m server --workers 2`: real processes behind one port."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import SIGNALS

from server.__main__ import web_config
from server.settings import ServerSettings
from server.workers import Worker, Workers
from tests.server.test_operations import samples
from tests.student_clients.conftest import chat
from tests.student_clients.faulty_server import FaultyServer, faulty_server, reply

TEXT = "Be brief."
SETTINGS = {"WST_TEACHERS": json.dumps({"default": {"text": TEXT}}), "WST_DRAIN_DELAY_S": "0.5", "WST_LOG_LEVEL": "warning"}


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **SETTINGS, "WST_RUNS_DIR": str(folder / "runs"), "TMPDIR": str(folder), **settings}
    command = [sys.executable, "-m", "server", "--port", "0", "--workers", "2"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
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


def test_how_one_worker_is_served_reaches_its_process() -> None:
    config = pickle.loads(pickle.dumps(web_config(ServerSettings(max_head_bytes=4096, body_time_s=3.0), "server.workers")))
    assert config.http.keywords == {"max_head_bytes": 4096, "head_time_s": 3.0}


@pytest.mark.slow
def test_two_workers_are_one_server(tmp_path: Path) -> None:
    """Figures are summed, a mode holds for both, one that is killed is replaced, SIGHUP exchanges both, and nobody notices the end."""
    with faulty_server() as upstream, server(tmp_path, WST_STUDENTS=json.dumps({"m": {"base_url": upstream.url}})) as process:
        assert process.stdout is not None
        started = process.stdout.readline()
        assert started.startswith("serving with 2 workers on ")
        use(process, tmp_path, started.split()[-1], upstream)


def use(process: subprocess.Popen[str], tmp_path: Path, url: str, upstream: FaultyServer) -> None:

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

    second = workers_of(process)
    process.send_signal(signal.SIGHUP)
    until(lambda: len(workers_of(process)) == 2 and not set(second) & set(workers_of(process)))
    asked()
    until(lambda: len(gauges_of(tmp_path)) == 2)  # those of the ones that went are taken out
    assert gauges_of(tmp_path) == set(workers_of(process))

    failed: list[Exception] = []
    draining, answered = threading.Event(), threading.Event()

    def keep_asking() -> None:
        while not draining.is_set():
            try:
                asked(1)
            except Exception as error:
                failed.append(error)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(answered.wait, 60)
        await reply(200, chat("4"))(reader, writer)

    upstream.script = [slow]
    got: list[bytes] = []
    body = {"model": "m", "messages": [{"role": "user", "content": "2+2?"}]}
    last_one = threading.Thread(target=lambda: got.append(call(f"{url}/v1/chat/completions", body)))
    last_one.start()
    assert upstream.asked.wait(60)
    last, asker = workers_of(process), threading.Thread(target=keep_asking)
    asker.start()
    os.killpg(process.pid, signal.SIGTERM)  # all of them, as a terminal and systemd do it; the supervisor passes it on as well
    for pid in last:
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)  # within the delay, in which requests are taken still
    draining.set()
    asker.join()
    until(lambda: len(workers_of(process)) == 1)  # the other one has a request
    time.sleep(0.5)  # and would be gone by now, had it taken one of the signals for a second one
    answered.set()
    last_one.join()
    _, stderr = process.communicate(timeout=60)
    assert not failed
    assert json.loads(got[0])["choices"][0]["message"]["content"] == "4"
    assert process.returncode == -signal.SIGTERM
    assert not any(psutil.pid_exists(pid) for pid in last)
    assert not list(tmp_path.glob("wst-metrics-*"))
    assert f"worker {first[0]} died (exit code -9); another one starts in 1 s" in stderr
    assert "Traceback" not in stderr


def gauges_of(folder: Path) -> set[int]:
    """The processes whose gauges count."""
    return {int(file.stem.rpartition("_")[2]) for file in folder.glob("wst-metrics-*/gauge_live*.db")}


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_server(tmp_path: Path) -> None:
    (tmp_path / "teacher.json").write_text("{}")
    with server(tmp_path, WST_TEACHERS="{}", WST_TEACHER=str(tmp_path)) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (1, "")
    assert str(tmp_path) in stderr.splitlines()[0]
    assert stderr.splitlines()[-1] == "server: a worker could not start; it has said why"
    assert "Traceback" not in stderr


class Dead:
    """A worker that was started and is gone, without a process."""

    exitcode = STARTUP_FAILURE

    def __init__(self, pid: int) -> None:
        self.deaths, self.began, self.next_at, self.process = 0, time.monotonic(), None, self
        self.own_pid, self.parent_conn = pid, self

    pid = property(lambda self: self.own_pid)
    died = Worker.died

    def is_alive(self, timeout: float = 0) -> bool:
        return False

    def send(self, data: bytes) -> None:
        raise BrokenPipeError

    def kill(self) -> None: ...
    def join(self) -> None: ...


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    handlers = {sig: signal.getsignal(sig) for sig in SIGNALS}
    found = Workers(Config("none", workers=2, log_config=None), [], "ready")
    monkeypatch.setattr("server.workers._forget", lambda pid: None)
    yield found
    for sig, handler in handlers.items():
        signal.signal(sig, handler)


def test_one_that_cannot_load_ends_the_server_at_its_start_and_none_of_the_others_later(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = cast(Any, Dead(7))
    started: list[int] = []

    def start(deaths: int) -> Worker:
        started.append(deaths)
        return cast(Worker, one)

    workers.processes = [one]
    workers.serving = True
    monkeypatch.setattr(workers, "_started", start)
    for deaths, wait in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30)):
        workers.keep_subprocess_alive()
        assert capsys.readouterr().err == f"server: worker 7 died (exit code 3); another one starts in {wait} s\n"
        assert one.next_at - time.monotonic() == pytest.approx(wait, abs=1)
        workers.keep_subprocess_alive()
        assert len(started) == deaths - 1  # not before its time
        one.next_at = time.monotonic()
        workers.keep_subprocess_alive()
        assert started[-1] == deaths
        one.next_at = None
    assert not workers.should_exit.is_set()
    one.began -= 31  # it had served
    workers.keep_subprocess_alive()
    assert "starts in 1 s" in capsys.readouterr().err

    workers.serving, one.next_at = False, None
    workers.keep_subprocess_alive()
    assert workers.failed
    assert workers.should_exit.is_set()


def test_the_end_is_heard_while_a_new_worker_starts(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP, and the new worker takes its time: SIGTERM is not kept waiting, and a second one is left to end at once."""
    old, new = cast(Any, Dead(7)), cast(Any, Dead(8))
    workers.processes, workers.signal_queue = [old], [signal.SIGHUP]
    monkeypatch.setattr(workers, "_started", lambda: new)
    monkeypatch.setattr(workers, "keep_subprocess_alive", lambda: None)
    monkeypatch.setattr(new, "is_alive", lambda: True)
    monkeypatch.setattr(new, "send", lambda data: workers.signal_queue.extend([signal.SIGTERM, signal.SIGTERM]))
    workers.handle_signals()
    assert (workers.processes, workers.told_to_end, workers.signal_queue) == ([old], signal.SIGTERM, [signal.SIGTERM])
