"""Whole runs against a student behind HTTP that costs money: the cache saves calls, the budget stops the run, and nothing is paid twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab.serve import LabServer, lab_server
from teacher import evaluate
from teacher.run_directory import RunDirectory
from teacher.train import main
from tests.requirements import ROOT
from tests.teacher.test_train_lab import TINY

PRICES = "--budget.prices={student: {input: 1, output: 4, as_of: 2026-11-20}}"


@pytest.fixture
def server() -> Iterator[LabServer]:
    with lab_server("arithmetic", "student") as running:
        yield running


@pytest.fixture
def flags(server: LabServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))
    return [*TINY, "--student.kind=openai", f"--student.base_url={server.url}", "--student.model=student", PRICES]


def spent(run: RunDirectory) -> dict[str, int]:
    import asyncio

    return asyncio.run(run.account().totals("student"))


def test_a_run_stops_at_its_budget_and_goes_on_with_more(
    server: LabServer, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--budget.usd=0.01"]) == 1
    assert "budget.usd=0.01:" in capsys.readouterr().err
    (run,) = map(RunDirectory, (tmp_path / "runs").iterdir())
    assert 0 < sum(spent(run).values()) <= 10_000_000
    assert main([f"--resume={run.path}", "--budget.usd=2"]) == 0
    summary = json.loads((run.path / "summary.json").read_text())
    account = spent(run)
    assert account["held"] == 0
    # The ledger counts what this process and the one before it booked; the account is the truth, and they agree.
    assert summary["student"]["cost_usd"] == pytest.approx(account["spent"] / 1e9)
    assert yaml.safe_load((run.path / "config.yaml").read_text())["budget"]["usd"] == 2
    # What was answered before the stop came from the cache: nothing was asked, or paid for, twice.
    assert summary["student"]["calls"] == server.requests == len(server.different)


def test_the_same_evaluation_again_costs_nothing(
    server: LabServer, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--budget.usd=2"]) == 0
    (run,) = map(RunDirectory, (tmp_path / "runs").iterdir())
    requests, account = server.requests, spent(run)
    before = json.loads((run.path / "summary.json").read_text())["eval"]
    assert evaluate.main([str(run.path)]) == 0
    assert (server.requests, spent(run)) == (requests, account)
    assert json.loads((run.path / "summary.json").read_text())["eval"] == before


def test_an_evaluation_that_is_killed_pays_once(server: LabServer, flags: list[str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "teacher.evaluate",
        *flags[len(TINY) :],
        "--eval.n=60",
        "--eval.include=[]",
        "--budget.usd=2",
        "--student.pacing.concurrency=4",
    ]
    target = str(ROOT / "configs" / "lab_arithmetic_grpo.yaml")
    command.insert(3, target)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while server.answered < 40 and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert server.answered < 200, "killed too late to show anything"
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    # Asked twice at most: the four that were in flight when the process died.
    assert server.requests <= len(server.different) + 4
    requests = server.requests
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert server.requests == requests


def test_a_paid_student_does_not_start_without_price_or_limit(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*(flag for flag in flags if flag != PRICES), "--budget.usd=1"]) == 2
    assert "budget.prices: no price is known for 'student'" in capsys.readouterr().err
    assert main(flags) == 2
    assert "budget.usd: student costs money" in capsys.readouterr().err
