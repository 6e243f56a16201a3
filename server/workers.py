"""Several worker processes behind one port: `python -m server --workers N`.

The supervisor stands on uvicorn's: it starts them, puts another in the place of one whose process dies or stands still (a blocked event
loop is not noticed: a thread answers for it), and ends them; SIGHUP exchanges them one after another. Each loads the teacher for itself,
from the folders that the supervisor found, and makes up for the reloads since. They share what replicas share: with `WST_STORE` limits,
cache and log through Redis, and on this machine without it the event log's file, so that experiments, modes and reloads hold for all of
them, and the file of budgets. `/metrics` is their sum, whichever answers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from exchange.command import RunError
from exchange.settings import SettingError
from server.settings import ServerSettings
from server.teachers import DEFAULT, TeacherSource, found

if TYPE_CHECKING:
    from fastapi import FastAPI

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client keeps its figures in files that all workers read."""
HUNG_S = 30.0
"""A worker that does not answer its supervisor for so long is replaced; loading a model can keep it from answering for seconds."""
START_S = 600.0
"""Longest that SIGHUP waits for a new worker to serve."""
STEP_S = 0.1
LONGEST_WAIT_S = 30.0
"""Between a death and the next start: 1, 2, 4 … seconds. One that lived longer than this begins at 1 again."""
ORPHAN_LOOK_S = 1.0
ENDING = (signal.SIGTERM, signal.SIGINT)
FORCE = signal.SIGUSR1
"""From the supervisor to its workers: end now. SIGTERM and SIGINT reach them more than once where the whole process group gets them."""


def serve_workers(settings: ServerSettings, config: Config, listener: socket.socket, ready: str) -> None:
    """Run until SIGTERM or Ctrl-C. `config` says how uvicorn serves one worker. Raises SettingError where a teacher is nowhere, RunError
    where no worker can be started."""
    if settings.keys is not None and settings.store is None:
        print(
            f"server: without WST_STORE each of the {settings.workers} workers counts requests, tokens and concurrency for itself, so a key"
            f" may take {settings.workers} times its limits; budgets, experiments and modes are shared",
            file=sys.stderr,
            flush=True,
        )
    # Found once: a run that ends later must not make the next worker serve another teacher than its siblings.
    app = partial(worker, settings, found(settings.teachers, settings.teacher), os.getpid(), time.time())
    config.app, config.factory, config.workers = app, True, settings.workers
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


class Worker(Process):
    """uvicorn's, with what became of it and of those before it in its place."""

    def __init__(self, config: Config, sockets: list[socket.socket], deaths: int = 0) -> None:
        super().__init__(config, sockets)
        self.deaths = deaths
        """In its place, each soon after its start."""
        self.began = time.monotonic()
        self.next_at: float | None = None
        """When another takes its place; None = it lives."""

    def died(self) -> float:
        """Seconds until the next one may start."""
        now = time.monotonic()
        self.deaths = self.deaths + 1 if now - self.began < LONGEST_WAIT_S else 1
        wait = min(LONGEST_WAIT_S, 2.0 ** (self.deaths - 1))
        self.next_at = now + wait
        return wait


class Workers(Multiprocess):
    """uvicorn's, with a ready line, an end for workers that cannot start, a wait before one that died is started again, and a second
    signal that ends at once. Signals are heard within `STEP_S` whatever it waits for."""

    processes: list[Worker]  # type: ignore[assignment]  # ours alone

    def __init__(self, config: Config, sockets: list[socket.socket], ready: str) -> None:
        super().__init__(config, sockets)
        self.ready = ready
        self.told_to_end: int | None = None
        self.serving = self.failed = False
        self.leaving: list[Worker] = []
        """Told to end, and with their last requests."""

    def run(self) -> None:
        super().run()
        if self.failed:
            raise RunError("a worker could not start; it has said why")

    def init_processes(self) -> None:
        self.processes += [self._started() for _ in range(self.processes_num)]
        while not all(self._serves(one) for one in self.processes):
            self.should_exit.wait(STEP_S)
            self.handle_signals()
            self.keep_subprocess_alive()
            if self.should_exit.is_set():
                return
        self.serving = True
        print(self.ready, flush=True)

    def handle_signals(self) -> None:
        while not self._told() and self.signal_queue:
            sig = self.signal_queue.pop(0)
            if sig == signal.SIGHUP:
                self.restart_all()
            elif sig == signal.SIGTTIN:
                self.processes.append(self._started())
            elif sig == signal.SIGTTOU and len(self.processes) > 1:
                self._let_go(self.processes.pop())

    def keep_subprocess_alive(self) -> None:
        self._look_after_those_who_leave()
        for at, one in enumerate(self.processes):
            if one.next_at is None and self._serves(one) is None:
                if self._told():
                    return
                one.kill()
                one.join()
                _forget(one.pid)
                if one.exitcode == STARTUP_FAILURE and not self.serving:  # what it lacks the others lack too
                    self.failed = True
                    self.should_exit.set()
                    return
                wait = one.died()
                what = f"worker {one.pid} died (exit code {one.exitcode}); another one starts in {wait:g} s"
                print(f"server: {what}", file=sys.stderr, flush=True)
            if one.next_at is not None and time.monotonic() >= one.next_at:
                self.processes[at] = self._started(one.deaths)

    def restart_all(self) -> None:
        """Put a new worker in the place of each, one after another, and only once it serves."""
        for at in range(len(self.processes)):
            new, give_up = self._started(), time.monotonic() + START_S
            while not (serves := self._serves(new)) and new.process.is_alive() and time.monotonic() < give_up and not self._told():
                self.should_exit.wait(STEP_S)
                self.keep_subprocess_alive()
            if not serves:
                new.kill()
                new.join()
                _forget(new.pid)
                if not self._told():
                    what = f"worker {new.pid}, which was to take the place of {self.processes[at].pid}, does not serve; the others stay"
                    print(f"server: {what}", file=sys.stderr, flush=True)
                return
            old, self.processes[at] = self.processes[at], new
            self._let_go(old)
            while self.leaving and not self._told():  # its memory is wanted for the next
                self.should_exit.wait(STEP_S)
                self._look_after_those_who_leave()

    def join_all(self) -> None:
        all_of_them = [*self.processes, *self.leaving]
        for process in all_of_them:
            while process.process.is_alive():
                process.process.join(STEP_S)
                again = any(sig in ENDING for sig in self.signal_queue)
                self.signal_queue.clear()
                if again:
                    for one in all_of_them:
                        if one.process.is_alive() and one.pid is not None:
                            os.kill(one.pid, FORCE)

    def _started(self, deaths: int = 0) -> Worker:
        new = Worker(self.config, self.sockets, deaths)
        # A Ctrl-C must not interrupt its imports, which would print a traceback; it hears the signal as soon as it can.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            new.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return new

    def _serves(self, one: Worker) -> bool | None:
        """Whether a worker has started; None = it is gone or says nothing, or the end was asked for meanwhile."""
        give_up = time.monotonic() + HUNG_S
        try:
            one.parent_conn.send(b"ping")
            while one.process.is_alive() and time.monotonic() < give_up and not self._told():
                if one.parent_conn.poll(STEP_S):
                    return bool(one.parent_conn.recv())
        except (OSError, EOFError):
            pass
        return None

    def _told(self) -> bool:
        """Whether the end was asked for. A second signal stays in the queue, for `join_all`."""
        if not self.should_exit.is_set():
            self.told_to_end = next((sig for sig in self.signal_queue if sig in ENDING), None)
            if self.told_to_end is not None:
                self.signal_queue.remove(self.told_to_end)
                self.should_exit.set()
        return self.should_exit.is_set()

    def _let_go(self, one: Worker) -> None:
        one.terminate()
        self.leaving.append(one)

    def _look_after_those_who_leave(self) -> None:
        for one in [one for one in self.leaving if not one.process.is_alive()]:
            one.join()
            _forget(one.pid)
            self.leaving.remove(one)


def _forget(pid: int | None) -> None:
    """What a dead worker measures now counts no more; what it counted does."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def worker(settings: ServerSettings, sources: Mapping[str, TeacherSource], supervisor: int, since: float) -> FastAPI:
    """The app of one worker, made by uvicorn in the worker's process. Ends the process with one line where it cannot be made. `sources`
    say where its teachers come from, `since` (seconds since 1970) from when on it makes up for reloads, `supervisor` is a process's id."""
    end = signal.getsignal(signal.SIGTERM)  # uvicorn's
    for sig in ENDING:  # it has no requests yet
        signal.signal(sig, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        app = _app(settings, sources)
    except SettingError as error:
        print(f"server: {error}", file=sys.stderr, flush=True)
        sys.exit(STARTUP_FAILURE)
    except Exception as error:  # whatever it is, the next worker would meet it too
        said = " ".join(str(error).split())
        print(f"server: a worker cannot start ({type(error).__name__}: {said})", file=sys.stderr, flush=True)
        sys.exit(STARTUP_FAILURE)
    app.state.reloads.since = since
    assert callable(end)
    _drain_first(app, settings.drain_delay_s, supervisor, end)
    return app


def _app(settings: ServerSettings, sources: Mapping[str, TeacherSource]) -> FastAPI:
    from server.__main__ import load_all, quiet_broken_off
    from server.app import create_app
    from server.logs import set_up

    set_up(level=settings.log_level, as_json=settings.log_format == "json")
    quiet_broken_off()
    with ThreadPoolExecutor(1) as thread:  # an event loop runs here already, and teachers are tried out on one of their own
        teachers = thread.submit(load_all, settings.model_copy(update={"teachers": dict(sources)})).result()
    return create_app(settings, teachers[DEFAULT], teachers)


def _drain_first(app: FastAPI, delay_s: float, supervisor: int, end: Callable[[int, FrameType | None], Any]) -> None:
    """SIGTERM, and a supervisor that is gone: not ready first, the end after `delay_s`. Ctrl-C: at once. Both let running requests finish,
    and come once: from the supervisor and to the whole process group they are one order. What does not wait is `FORCE`."""
    loop = asyncio.get_running_loop()

    def handle(sig: int, frame: FrameType | None) -> None:
        again, app.state.draining = app.state.draining, True
        if again:
            return
        if sig == signal.SIGTERM and delay_s:
            loop.call_soon_threadsafe(loop.call_later, delay_s, end, sig, None)
        else:
            end(sig, frame)

    def force(sig: int, frame: FrameType | None) -> None:
        app.state.draining = True
        end(signal.SIGTERM, frame)
        end(signal.SIGINT, frame)  # to uvicorn: do not wait for requests

    def look() -> None:
        if os.getppid() != supervisor:
            shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)  # which nobody else does now
            handle(signal.SIGTERM, None)
        else:
            loop.call_later(ORPHAN_LOOK_S, look)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    signal.signal(FORCE, force)
    look()
