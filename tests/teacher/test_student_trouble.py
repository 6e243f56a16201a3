"""What a user sees of a student that does not work: one line that says what to do, and never the key."""

import json
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from teacher.train import main
from tests.student_clients.conftest import ScriptedServer, chat, server
from tests.teacher.test_train_lab import TINY

__all__ = ["server"]
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def flags(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return [*TINY, f"--student.base_url={server.url}", "--student.model=m", "--student.pacing.backoff_s=0"]


def wrong_key(server: ScriptedServer) -> None:
    # The real API answers so to /models as well; the scripted server's list needs no key, so the first question finds out.
    server.replies = [(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}, {})]


def overflow(server: ScriptedServer) -> None:
    message = "This model's maximum context length is 8 tokens. However, you requested 300 tokens."
    server.replies = [(400, {"error": {"message": message, "code": "context_length_exceeded"}}, {})]


@pytest.mark.parametrize(
    ("trouble", "more", "code", "complaint"),
    [
        (wrong_key, [], 1, "refuses the API key from the environment variable OPENAI_API_KEY"),
        (overflow, [], 1, "shorten the prompt or lower student.max_tokens"),
        (lambda _: None, ["--student.model=n"], 2, "does not serve 'n'; it serves m"),
        (lambda _: None, ["--student.cache.url=nothing://here"], 2, "student.cache.url"),
        (lambda _: None, ["--student.kind=openai", "--budget.usd=1"], 2, "no price is known for 'm'"),
        (lambda _: None, ["--budget.prices={m: {input: -1, output: 1, as_of: 2026-11-20}}"], 2, "budget.prices.m.input=-1"),
        (lambda _: None, ["--budget.prices={m: {input: 1, output: 1}}"], 2, "budget.prices.m.as_of"),
    ],
    ids=["wrong key", "context overflow", "unknown model", "no such cache", "no price", "negative price", "price without a day"],
)
def test_one_line_says_what_to_do(
    server: ScriptedServer, flags: list[str], capsys: pytest.CaptureFixture[str],
    trouble: Callable[[ScriptedServer], None], more: list[str], code: int, complaint: str,
) -> None:  # fmt: skip
    trouble(server)
    assert main([*flags, *more]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("teacher.train: ") and complaint in error, error
    assert KEY not in error


def test_a_base_url_without_v1_is_told(server: ScriptedServer, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, f"--student.base_url={server.url.removesuffix('/v1')}"]) == 2
    assert "student.base_url has no /v1, try" in capsys.readouterr().err


def test_a_cache_of_another_version_is_told(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.sqlite3"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("CREATE TABLE entries (a)")
    database.close()
    assert main([*flags, f"--student.cache.url={path}"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and "student.cache.enabled=false" in error


def test_the_key_is_nowhere(
    server: ScriptedServer, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that repeats the key in everything it says, in a run that records all it can."""
    caplog.set_level(logging.DEBUG)
    good: Any = chat("#### 4")
    said = {"error": {"message": f"Bearer {KEY} is over its limit"}}
    server.replies = [item for _ in range(30) for item in ((429, said, {}), (500, said, {}), good)] + [good]
    assert main([*flags, f"--student.record={tmp_path / 'traffic.jsonl'}", "--dry-run"]) == 0
    assert main([*flags, f"--student.record={tmp_path / 'traffic.jsonl'}"]) == 0
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err + caplog.text
    assert server.keys[0] == f"Bearer {KEY}"  # it was sent, and to nobody else
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "config.yaml" for path in written) and any(path.name == "traffic.jsonl" for path in written)
    assert [str(path) for path in written if KEY.encode() in path.read_bytes()] == []
    assert json.loads(next(tmp_path.glob("runs/*/summary.json")).read_text())["student"]["calls"] == len(server.bodies)
