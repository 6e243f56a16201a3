"""The form of every file under `benchmarks/results/`: headline, commit, machine, command, runs."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from teacher.run_directory import write_json

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs" / "results.md"
EVIDENCE = DOCS.with_name("evidence.md")
LOAD = round(os.getloadavg()[0], 2)
"""The machine's load average over the minute before the benchmark, which has started nothing yet."""


def machine() -> dict[str, Any]:
    """What the figures were taken on; no names."""
    import torch

    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}


def say_load() -> None:
    """One line where the machine is busy with other things; for a benchmark that times something."""
    if LOAD > 1:
        print(f"the load average is {LOAD:.1f}: do not believe what this finds of times; the results name it", file=sys.stderr, flush=True)


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """Run a command to its end, its output dropped; the CPU seconds it took, its own children included. On a busy machine they
    say what the work costs, and the wall clock does not. Raises CalledProcessError."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return round(usage.ru_utime + usage.ru_stime, 1)


def train(flags: list[str]) -> tuple[dict[str, Any], float]:
    """(summary.json, CPU seconds) of one `python -m teacher.train` with one OpenMP thread, whose run and cache are its own and are gone
    after it: no run answers from what another paid for. The lines of validation.jsonl stand in the summary as `validation`."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "WST_RUNS_DIR": f"{folder}/runs", "WST_CACHE_DIR": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        cpu_s = cpu_seconds([sys.executable, "-m", "teacher.train", *flags], environment)
        run = next(Path(folder).glob("runs/*/summary.json")).parent
        steps = [json.loads(line) for line in (run / "validation.jsonl").read_text(encoding="utf-8").splitlines()]
        return {**json.loads((run / "summary.json").read_text(encoding="utf-8")), "validation": steps}, cpu_s


def load_runs(name: str) -> list[dict[str, Any]]:
    """The runs measured so far; empty before the first."""
    path = RESULTS / f"{name}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["runs"]) if path.exists() else []


def save(name: str, *, headline: dict[str, Any], runs: list[dict[str, Any]], commit: str | None) -> None:
    """Write the results file anew. `commit` is taken before the first result changes the tree."""
    RESULTS.mkdir(exist_ok=True)
    arguments = [re.sub(r"(^|=)/.*", r"\1PATH", argument) for argument in sys.argv[1:]]  # no path of one machine
    command = "python -m " + " ".join(["benchmarks." + name, *arguments])
    about = {"commit": commit, "machine": machine(), "load_average_before": LOAD, "command": command}
    write_json(RESULTS / f"{name}.json", {"headline": headline, **about, "runs": runs})


def write_docs(name: str, table: str, *, page: Path = DOCS) -> None:
    """Put a table between the benchmark's markers on the page of results, or another one."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, rest = page.read_text(encoding="utf-8").split(start)
    page.write_text(f"{head}{start}\n{table}\n{end}{rest.split(end)[1]}", encoding="utf-8")
