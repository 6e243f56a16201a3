"""`python -m benchmarks.proxy_peers [--seconds 10] [--venv DIR]`: our proxy beside LiteLLM's, before the same fake student.

One worker each, without keys and without a store, on this machine, by turns; ours asks a teacher that answers at once, so that each of its
requests is read, instructed, composed and rewritten. The student alone is the control. Throughput is that of 32 connections that are always
busy; latency is that of one connection, request after request; both for whole answers and for streams. The first run makes a virtual
environment for LiteLLM (its pins fit no other); it lies in the cache folder and is found again.

Writes `benchmarks/results/proxy_peers.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.faults_service import serve, serve_upstream
from benchmarks.results_file import save, say_load
from benchmarks.service_overhead import cpu_s, free_port, process
from benchmarks.soak import answer
from teacher.run_directory import git_commit

NAME = "proxy_peers"
LITELLM = "1.105.0"
CONNECTIONS = 32
ROUNDS = 3
START_S = 300.0


class App:
    """An app in front of one of the servers."""

    def __init__(self, port: int) -> None:
        self.port, self.asked, self.errors = port, 0, 0

    def request(self, stream: bool) -> bytes:
        self.asked += 1
        messages = [{"role": "user", "content": f"What is {self.asked} and {time.monotonic_ns()}?"}]
        body = json.dumps({"model": "m", "messages": messages, "stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer x\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"Content-Type: application/json\r\n\r\n" + body

    async def one_after_another(self, until: float, stream: bool) -> list[float]:
        """Latencies in ms of one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        found = []
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(self.request(stream))
            self.errors += await answer(reader) != "200"
            found.append(1000 * (time.perf_counter() - began))
        writer.close()
        return found

    async def measure(self, seconds: float, stream: bool, pid: int) -> dict[str, Any]:
        await self.one_after_another(time.perf_counter() + seconds / 4, stream)  # warm
        alone = await self.one_after_another(time.perf_counter() + seconds, stream)
        used, began = cpu_s(pid), time.perf_counter()
        together = await asyncio.gather(*(self.one_after_another(began + seconds, stream) for _ in range(CONNECTIONS)))
        n, took = sum(map(len, together)), time.perf_counter() - began
        return {
            "stream": stream,
            "median_ms": round(statistics.median(alone), 3),
            "rps": round(n / took, 1),
            "cpu_ms_per_request": round(1000 * (cpu_s(pid) - used) / n, 3),
            "errors": self.errors,
            "load": round(os.getloadavg()[0], 1),
        }


def litellm_program(folder: Path) -> Path:
    """The command `litellm` of a virtual environment, made where it is not there yet."""
    program = folder / "bin" / "litellm"
    if not (folder / ".done").exists():
        print(f"making {folder} for litellm {LITELLM}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", f"litellm[proxy]=={LITELLM}"], check=True)
        (folder / ".done").touch()
    return program


def litellm_config(folder: Path, upstream: str) -> Path:
    """One model, nothing that reports anywhere."""
    student = {"model": "openai/m", "api_base": upstream, "api_key": "x", "max_retries": 0}
    file = folder / "litellm.json"  # JSON is YAML
    file.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": student}], "litellm_settings": {"telemetry": False}}))
    return file


async def answers(port: int) -> None:
    """Wait for the first good answer. Raises TimeoutError."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                app = App(port)
                await app.one_after_another(time.perf_counter() + 0.01, False)
                if not app.errors:
                    return
            except (OSError, asyncio.IncompleteReadError):
                pass
            await asyncio.sleep(0.5)


def measure(seconds: float, venv: Path) -> list[dict[str, Any]]:
    """A row a server, kind and round."""
    program, rows = litellm_program(venv), []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wst-peers-")))
        ports = {name: free_port() for name in ("student", "ours", "litellm")}
        upstream, mood = f"http://127.0.0.1:{ports['student']}/v1", folder / "mood"
        mood.write_text("good")
        module = [sys.executable, "-m", "benchmarks.proxy_peers"]
        ours = {"UPSTREAM": upstream, "MOOD": str(mood), "EVENTS": str(folder / "events.db"), "DEADLINE_MS": "2000"}
        quiet = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "HOME": str(folder),
        }
        peer = [str(program), "--config", str(litellm_config(folder, upstream)), "--host", "127.0.0.1", "--num_workers", "1"]
        pids = {
            "student": stack.enter_context(process([*module, "--upstream", str(ports["student"])], ports["student"])),
            "ours": stack.enter_context(process([*module, "--serve", str(ports["ours"])], ports["ours"], **ours)),
            "litellm": stack.enter_context(process([*peer, "--port", str(ports["litellm"])], ports["litellm"], **quiet)),
        }
        for port in ports.values():
            asyncio.run(answers(port))
        for number in range(ROUNDS):
            for stream in (False, True):
                for name, port in ports.items():
                    found = asyncio.run(App(port).measure(seconds, stream, pids[name]))
                    rows.append({"server": name, "round": number, **found})
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def median(server: str, stream: bool, field: str) -> float:
        return statistics.median(float(row[field]) for row in rows if (row["server"], row["stream"]) == (server, stream))

    kinds = {"whole": False, "streamed": True}
    ratios = {kind: median("ours", s, "rps") / median("litellm", s, "rps") for kind, s in kinds.items()}
    added = {
        kind: {name: median(name, s, "median_ms") - median("student", s, "median_ms") for name in ("ours", "litellm")}
        for kind, s in kinds.items()
    }
    return {
        "throughput_ratio": round(min(ratios.values()), 2),
        "added_latency_ratio": round(max(one["ours"] / one["litellm"] for one in added.values()), 3),
        "by_kind": {
            kind: {
                "throughput_ratio": round(ratios[kind], 2),
                "added_ms": {name: round(ms, 2) for name, ms in added[kind].items()},
                "cpu_ms_per_request": {name: median(name, s, "cpu_ms_per_request") for name in ("student", "ours", "litellm")},
            }
            for kind, s in kinds.items()
        },
        "errors": sum(row["errors"] for row in rows),
        "litellm": LITELLM,
        "load_average": max(row["load"] for row in rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy_peers", description=(__doc__ or "").split("\n")[0])
    default = Path(os.environ.get("WST_CACHE_DIR") or ".cache/wst") / f"litellm-{LITELLM}"
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default 10)")
    parser.add_argument("--venv", type=Path, default=default, help=f"LiteLLM's environment (default {default})")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve or args.upstream:
        (serve if args.serve else serve_upstream)(args.serve or args.upstream)
        return 0
    say_load()
    commit = git_commit()
    rows = measure(args.seconds, args.venv.absolute())
    if not args.no_save:
        save(NAME, headline=headline(rows), runs=rows, commit=commit)
    print(json.dumps({"headline": headline(rows)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
