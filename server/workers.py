"""Several worker processes behind one port: `python -m server --workers N`.

uvicorn's supervisor starts them, replaces one that dies or hangs, and ends them; SIGHUP exchanges them one after another. Each loads the
teacher for itself. They share what replicas share: with `WST_STORE` limits, cache and log through Redis, and on this machine without it
the event log's file, so that experiments, modes and reloads hold for all of them, and the file of budgets. `/metrics` is their sum,
whichever answers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from exchange.command import RunError
from exchange.settings import SettingError
from server.settings import ServerSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client keeps its figures in files that all workers read."""
HUNG_S = 30.0
"""A worker that does not answer its supervisor for so long is replaced; loading a model can keep it from answering for seconds."""
ORPHAN_LOOK_S = 1.0
ENDING = (signal.SIGTERM, signal.SIGINT)


def serve_workers(settings: ServerSettings, config: Config, listener: socket.socket, ready: str) -> None:
    """Run until SIGTERM or Ctrl-C. `config` says how uvicorn serves one worker. Raises RunError where none can be started."""
    if settings.keys is not None and settings.store is None:
        print(
            f"server: without WST_STORE each of the {settings.workers} workers counts requests, tokens and concurrency for itself, so a key"
            f" may take {settings.workers} times its limits; budgets, experiments and modes are shared",
            file=sys.stderr,
            flush=True,
        )
    config.app, config.factory, config.workers = partial(worker, settings), True, settings.workers
    config.timeout_worker_healthcheck = HUNG_S  # type: ignore[assignment]  # seconds, whole or not
    folder = os.environ[METRICS_FOLDER] = tempfile.mkdtemp(prefix="wst-metrics-")
    workers = Workers(config, [listener], ready)
    try:
        workers.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if workers.told_to_end is not None:  # and end as a server of one process does
        ends = signal.default_int_handler if workers.told_to_end == signal.SIGINT else signal.SIG_DFL
        signal.signal(workers.told_to_end, ends)
        signal.raise_signal(workers.told_to_end)


class Workers(Multiprocess):
    """uvicorn's, with a ready line, an end for workers that cannot start, and a second signal that ends at once."""

    def __init__(self, config: Config, sockets: list[socket.socket], ready: str) -> None:
        super().__init__(config, sockets)
        self.ready = ready
        self.told_to_end: int | None = None

    def handle_signals(self) -> None:
        self.told_to_end = next((sig for sig in self.signal_queue if sig in ENDING), self.told_to_end)
        super().handle_signals()

    def run(self) -> None:
        super().run()
        if any(process.exitcode == STARTUP_FAILURE for process in self.processes):
            raise RunError("a worker could not start; it has said why")

    def init_processes(self) -> None:
        super().init_processes()
        for process in self.processes:
            while not self.should_exit.is_set() and process.process.is_alive() and not process.is_ready(timeout=1):
                self.should_exit.wait(0.05)
                self.handle_signals()
        if not self.should_exit.is_set() and all(process.process.is_alive() for process in self.processes):
            print(self.ready, flush=True)

    def join_all(self) -> None:
        for process in self.processes:
            while process.process.is_alive():
                process.process.join(0.1)
                again = [sig for sig in self.signal_queue if sig in ENDING]
                self.signal_queue.clear()
                if again:
                    for one in self.processes:
                        if one.process.is_alive():
                            one.process.terminate()

    def keep_subprocess_alive(self) -> None:
        before = [process.pid for process in self.processes]
        super().keep_subprocess_alive()
        for pid, process in zip(before, self.processes):
            if process.pid != pid:
                _forget(pid)
                print(f"server: worker {pid} died and was replaced by {process.pid}", file=sys.stderr, flush=True)


def _forget(pid: int | None) -> None:
    """What a dead worker measures now counts no more; what it counted does."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def worker(settings: ServerSettings) -> FastAPI:
    """The app of one worker, made by uvicorn in the worker's process. Ends the process where a teacher cannot be loaded."""
    from server.__main__ import load_all, quiet_broken_off
    from server.app import create_app
    from server.logs import set_up
    from server.teachers import DEFAULT

    set_up(level=settings.log_level, as_json=settings.log_format == "json")
    quiet_broken_off()
    try:
        with ThreadPoolExecutor(1) as thread:  # an event loop runs here already, and teachers are tried out on one of their own
            teachers = thread.submit(load_all, settings).result()
    except SettingError as error:
        print(f"server: {error}", file=sys.stderr, flush=True)
        sys.exit(STARTUP_FAILURE)
    app = create_app(settings, teachers[DEFAULT], teachers)
    _drain_first(app, settings.drain_delay_s)
    return app


def _drain_first(app: FastAPI, delay_s: float) -> None:
    """SIGTERM, and a supervisor that is gone: not ready first, the end after `delay_s`. A second signal: the end. Ctrl-C: at once."""
    loop, end = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    assert callable(end)
    supervisor = os.getppid()

    def handle(sig: int, frame: FrameType | None) -> None:
        again, app.state.draining = app.state.draining, True
        if again:
            end(signal.SIGTERM, frame)
            end(signal.SIGINT, frame)  # to uvicorn: do not wait for requests
        elif sig == signal.SIGTERM and delay_s:
            loop.call_soon_threadsafe(loop.call_later, delay_s, end, sig, None)
        else:
            end(sig, frame)

    def look() -> None:
        if os.getppid() != supervisor:
            handle(signal.SIGTERM, None)
        else:
            loop.call_later(ORPHAN_LOOK_S, look)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    look()
