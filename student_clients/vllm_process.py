"""A vLLM server as our own child: started on a free port of 127.0.0.1, waited for, logged to a file, and gone when we are.

vLLM pins other versions of torch and transformers than ours, so it lives in an environment of its own and is reached over HTTP like any
other server; what is launched is the command `vllm serve`.

A server that outlives us holds the GPU. Its process group therefore holds a guard, a shell that reads from a pipe of which we have the
other end: when we end, however we end, the pipe closes and the guard ends the group. The guard is started by the shell that then turns
into the server, so there is no moment without it; and as a member of the group it keeps the group's number from being given to others.
`PR_SET_PDEATHSIG` would do less: it fires when the *thread* that forked ends, knows only the server and not its workers, and exists on
Linux only.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from student_clients.errors import StudentUnreachable

STOP_S = 20
"""Seconds that a server has to leave after SIGTERM, before SIGKILL."""
POLL_S = 0.2
TAIL_LINES = 12
GUARDED = f"""
exec 3<&0
(
  trap '' TERM INT HUP
  {{
    read -r _ <&3
    kill -TERM 0
    tries={5 * STOP_S}
    while [ $tries -gt 0 ] && kill -0 $$; do sleep 0.2; tries=$((tries - 1)); done
    kill -KILL 0
  }} >/dev/null 2>&1 &
)
exec 3<&-
exec "$@" </dev/null
"""
"""Leaves the guard behind and becomes the command in "$@". The guard closes nothing else of ours: Python marks its files close-on-exec."""


class VLLMProcess:
    """`command MODEL --host 127.0.0.1 --port FREE --served-model-name NAME args…`, with our own environment (`OMP_NUM_THREADS`, …).

    `served_name` None = `model`. `command` that does not end in `serve`, e.g. `python -m vllm.entrypoints.openai.api_server`, is given
    `--model MODEL`: that one takes a bare name and ignores it. `log` takes all that the server prints and is begun anew. `ready_s` is the
    time from the start to a healthy server; 600 s bear the loading and compiling of a large model, not its download.

    A server that has ended is not started again: what killed it, memory most often, would kill it again.
    """

    def __init__(
        self,
        model: str,
        *,
        log: Path,
        served_name: str | None = None,
        command: Sequence[str] = ("vllm", "serve"),
        args: Sequence[str] = (),
        ready_s: float = 600.0,
    ) -> None:
        if not command:
            raise ValueError("an empty command starts nothing; the usual one is vllm serve")
        self.model = model
        self.served_name = served_name or model
        self.command = tuple(command)
        self.args = tuple(args)
        self.log = log
        self.ready_s = ready_s
        self._lock = threading.Lock()
        self._ready: Future[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """The server's process and process group; None before the start."""
        return self._process.pid if self._process else None

    def start(self) -> Future[str]:
        """The future base URL (`http://127.0.0.1:PORT/v1`) of the healthy server, or StudentUnreachable; the first call starts it.

        The waiting is done on a daemon thread, so that no event loop stands still for minutes and Ctrl-C need not wait for it.
        """
        with self._lock:
            if self._ready is None:
                self._ready = Future()
                self._ready.set_running_or_notify_cancel()  # or a waiter that is cancelled would cancel it for the others
                threading.Thread(target=self._start, args=(self._ready,), name="vllm-start", daemon=True).start()
            return self._ready

    def _start(self, ready: Future[str]) -> None:
        try:
            port = _free_port()
            process = self._launch(port)
            self._await_health(process, port)
        except OSError as error:
            self.stop()
            ready.set_exception(StudentUnreachable(f"cannot start vLLM ({shlex.join(self.command)}): {error}"))
        except BaseException as error:  # whoever waits must hear of it
            self.stop()
            ready.set_exception(error)
        else:
            ready.set_result(f"http://127.0.0.1:{port}/v1")

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        if shutil.which(self.command[0]) is None:
            raise StudentUnreachable(
                f"there is no command {self.command[0]!r} to start vLLM with; install vLLM in an environment of its own (its pins do not "
                "fit ours) and set student.vllm.command to the vllm in its bin folder, e.g. [/opt/vllm/bin/vllm, serve]"
            )
        model = [self.model] if self.command[-1] == "serve" else ["--model", self.model]
        words = [*self.command, *model, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", self.served_name, *self.args]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self.log.open("wb") as log:
            if self._stopped:
                raise StudentUnreachable("the vLLM server was stopped before it had started")
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", GUARDED, "vllm", *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the terminal is for us, and its workers share its group with nobody else
            )
            atexit.register(self.stop)
            return self._process

    def _await_health(self, process: subprocess.Popen[bytes], port: int) -> None:
        """Return when GET /health succeeds. Raises StudentUnreachable when the server has ended or the time is up."""
        import httpx2

        until = time.monotonic() + self.ready_s
        # No proxy: one that the environment names cannot reach this machine's loopback.
        with httpx2.Client(trust_env=False, timeout=5.0) as client:
            while True:
                if (gone := self.why_gone()) is not None:
                    raise StudentUnreachable(gone)
                with suppress(httpx2.HTTPError):
                    if client.get(f"http://127.0.0.1:{port}/health").is_success:
                        return
                if time.monotonic() > until:
                    raise StudentUnreachable(
                        f"the vLLM server ({shlex.join(self.command)}) was not healthy after {self.ready_s:g} s; if it only needs longer, "
                        f"raise student.vllm.ready_s; {self._tail()}"
                    )
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)

    def why_gone(self) -> str | None:
        """One line on why the server has ended and what to do; None before its start and while it runs."""
        code = self._process.poll() if self._process else None
        if code is None:
            return None
        if self._stopped:
            return "the vLLM server was stopped; make a new student"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        advice = "SIGKILL is often the kernel out of memory: " if code == -signal.SIGKILL else ""
        advice += "mend student.vllm.args or give the model more memory"
        return f"the vLLM server ({shlex.join(self.command)}) {how}; {advice}; {self._tail()}"

    def _tail(self) -> str:
        lines = [" ".join(line.split()) for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
        last = [line[:300] for line in lines if line][-TAIL_LINES:]
        return f"its log {self.log} ends: {' | '.join(last)}" if last else f"its log {self.log} is empty"

    def stop(self) -> None:
        """SIGTERM to the server's process group, up to STOP_S seconds to leave, SIGKILL to what is left. Blocks; a second call does
        nothing."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        process = self._process
        if process is None:
            return
        atexit.unregister(self.stop)
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        _signal_group(process.pid, signal.SIGKILL)  # the guard, and workers that did not leave with their server
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _signal_group(group: int, sign: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, sign)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
