"""Captured texts: only where switched on, with their outcomes out of the log as `teacher.collect` reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.export import body
from exchange.settings import SettingError
from tests.requirements import ROOT
from tests.server.online import asked, created, online, told
from tests.server.test_instruct import assert_error


def export(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "evaluation.export", *arguments]
    return [json.loads(line) for line in subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.splitlines()]


def test_texts_are_kept_where_capture_is_on_and_join_their_outcomes(tmp_path: Path) -> None:
    with online(tmp_path, capture_text=True) as client:
        created(client)
        history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        plain = {"query": "2+2?", "system": "Be brief.", "history": history, "unit": "u"}
        client.post("/instruct", json=plain, headers={"x-request-id": "r1"})
        in_experiment = asked(client, "v", request_id="r2")
        asked(client, "qa", request_id="r3", force_arm="raw")
        for request_id, metric, value in (("r1", "stars", 4.5), ("r2", "resolved", 1), ("r3", "resolved", 0)):
            assert told(client, request_id=request_id, metric=metric, value=value).status_code == 200
        assert told(client, request_id="r1", metric="stars", value=4.5).json()["duplicate"] is True
        assert told(client, request_id="r1", metric="stars", value=1).status_code == 409
        rows = export(str(tmp_path / "events.db"), "--texts")  # while the server runs
    times = [row.pop("time") for row in rows]
    assert times[:3] == sorted(times[:3])
    text = "" if in_experiment["experiment"]["arm"] == "raw" else "Think about 2+2?"
    first = {
        "request_id": "r1", "unit": "u", "task": "gsm8k", "query": "2+2?", "system": "Be brief.", "history": history,
        "instruction": "Think about 2+2?", "source": "teacher", "teacher": "ab" * 32,
    }  # fmt: skip
    assert rows[0] == first
    assert (rows[1]["request_id"], rows[1]["experiment"], rows[1]["instruction"]) == ("r2", "e1", text)
    assert rows[2]["forced"] is True
    assert rows[3:] == [
        {"request_id": "r1", "metric": "stars", "value": 4.5},
        {"request_id": "r2", "metric": "resolved", "value": 1.0},
        {"request_id": "r3", "metric": "resolved", "value": 0.0},
    ]


def test_nothing_is_kept_by_default(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        created(client)
        client.post("/instruct", json={"query": "secret query"}, headers={"x-request-id": "r1"})
        assert_error(told(client, request_id="r1", metric="stars", value=1), 404, "not_found", "or had its text kept")
        asked(client, "u", query="secret query", system="secret system")
    assert export(str(tmp_path / "events.db"), "--texts") == []
    for file in tmp_path.iterdir():
        assert b"secret" not in file.read_bytes()


def test_an_experiments_log_is_what_the_server_gives(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        created(client)
        for unit in ("u", "v"):
            told(client, request_id=asked(client, unit)["request_id"], value=1)
        lines = client.get("/experiments/e1/log").text
    assert export(str(tmp_path / "events.db"), "--experiment", "e1") == [json.loads(line) for line in lines.splitlines()]


def test_wrong_arguments_are_one_line(tmp_path: Path) -> None:
    with online(tmp_path) as client:
        created(client)
    path = str(tmp_path / "events.db")
    (tmp_path / "text").write_text("no database " * 100)
    for arguments, message in [
        ([path], "give exactly one of --experiment ID and --texts"),
        ([path, "--texts", "--experiment", "e1"], "give exactly one"),
        ([path, "--experiment", "e2"], "--experiment=e2: no such experiment in .*; known: e1"),
        ([path, "--experiment", "e1", "--tenant", "other"], "known: none"),
        ([str(tmp_path / "nope.db"), "--texts"], "no such file"),
        ([str(tmp_path / "text"), "--texts"], "is no SQLite database"),
    ]:
        with pytest.raises(SettingError, match=message):
            body(arguments)
