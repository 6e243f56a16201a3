"""Algebra in other processes, asked from any thread: lazily started, bounded in time and memory, gone with this process.

math-verify's own time limit is an alarm signal, which only the main thread may set, and trainers and servers grade in threads. Here each
thread of a small pool owns one worker process; a worker that overruns is ended and replaced.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rewards.math_worker import HARD_CPU_S, framed

ROOT = Path(__file__).parent.parent
WALL_S = 20.0
"""Longest wait for a reply. The worker counts processor time; this is for a machine so loaded that it gets none."""
START_WALL_S = 120.0
"""Longest wait for the first reply, which includes loading sympy."""
WORKERS = max(1, min(4, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True)
class Verdict:
    """What the worker says about one gold and some readings of an answer."""

    equal: tuple[bool | None, ...]
    """One a reading; empty where the question was lost."""
    unparsed: int = 0
    """Readings that could not be parsed (and count as unequal)."""
    lost: str | None = None
    """Why there is no verdict: `time` or `memory`."""


class Worker:
    """One process. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._fresh = True
        self._asked = 0
        self._unread = b""

    def ask(self, gold: str, answers: tuple[str, ...]) -> Verdict:
        """Put one question; `lost` where the worker ran over."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        process = self._process
        assert process is not None and process.stdin is not None
        self._asked += 1
        question = framed(json.dumps({"id": self._asked, "gold": gold, "answers": answers}).encode())
        deadline = time.monotonic() + (START_WALL_S if self._fresh else WALL_S)
        try:
            process.stdin.write(question)
            process.stdin.flush()
            while line := self._read(process, deadline):
                self._fresh = False
                said = json.loads(line)
                if "lost" in said:
                    if "last" in said:
                        self.close()
                    return Verdict((), lost=said["lost"])
                if said["id"] == self._asked:  # else the answer to a question that was taken for lost
                    return Verdict(tuple(said["equal"]), said["unparsed"])
        except BrokenPipeError:
            pass
        self.close()
        return Verdict((), lost="time")

    def _start(self) -> None:
        self.close()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from rewards.math_worker import main; raise SystemExit(main())"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            start_new_session=True,  # Ctrl-C is for the run, which then ends its workers
        )
        self._fresh = True

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """The next line; b"" where it does not come in time or the process is gone."""
        assert process.stdout is not None
        handle = process.stdout.fileno()
        while b"\n" not in self._unread:
            ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(handle, 1 << 16) if ready else b""
            if not chunk:
                return b""
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def close(self) -> None:
        """End the process and its child; the kernel ends a child that is still counting within its limit of processor time."""
        process, self._process, self._unread = self._process, None, b""
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
            process.wait(timeout=HARD_CPU_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            os.killpg(process.pid, 9)
            process.wait()
        process.stdout.close()


class WorkerPool:
    """Workers behind a thread each. Nothing starts before the first question."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._all: list[Worker] = []

    def submit(self, gold: str, answers: tuple[str, ...]) -> Future[Verdict]:
        """Ask without waiting."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._workers, "grading")
                atexit.register(self.close)
            return self._executor.submit(self._ask, gold, answers)

    def _ask(self, gold: str, answers: tuple[str, ...]) -> Verdict:
        worker = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = Worker()
            with self._lock:
                self._all.append(worker)
        return worker.ask(gold, answers)

    def close(self) -> None:
        """End all workers; the pool can be used again."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(cancel_futures=True)
            atexit.unregister(self.close)
        for worker in self._all:
            worker.close()
        self._all, self._local = [], threading.local()


@cache
def shared_pool() -> WorkerPool:
    """The pool of this process: rubrics come and go, workers are dear."""
    return WorkerPool()


# Threads do not survive a fork: the child starts workers of its own.
os.register_at_fork(after_in_child=shared_pool.cache_clear)
