"""`python -m server` as a user meets it: help, refusals, a busy port, the ready line, stopping, and real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import server.__main__ as command
from exchange.command import run_command
from exchange.records import Instruction, PublicExample
from exchange.settings import SettingError
from server.app import create_app
from server.engine import TeacherEngine
from server.settings import ServerSettings
from tests.server.fakes import FakePolicy, FakeTeacher

ROOT = Path(__file__).parents[2]
WITHOUT_MODEL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
import sys
import server.__main__ as command
from exchange.command import run_command
from tests.server.fakes import *
command.load = lambda settings: FakeTeacher({policy})
sys.exit(run_command("server", lambda: command.main(sys.argv[1:])))
"""


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WST_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


@contextmanager
def running(policy: str = "FakePolicy()", *flags: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own around a fake teacher, and its address from the ready line."""
    arguments = [sys.executable, "-c", WITHOUT_MODEL.replace("{policy}", policy), "--port", "0", *flags]
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("serving teacher fake-teacher (sha256 abababababab…) on http://"), ready
            yield process, ready.split()[-1]
        finally:
            process.kill()


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{url}/instruct", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int) -> str:
    """Run the command in this process; its one line on stderr."""
    assert run_command("server", lambda: command.main(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("WST_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(command, "load", lambda settings: FakeTeacher(FakePolicy()))


def test_help_is_light_and_names_every_variable() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['server', '--help']\n"
        "try: runpy.run_module('server', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'uvicorn', 'trl', 'starlette'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--check" in result.stdout
    assert "WST_DEADLINE_MS (default 2000)" in result.stdout


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "abc"], "server: --port='abc': input should be a valid integer"),
        (["--host", "0.0.0.0"], "server: --host='0.0.0.0': no keys are configured"),
        (["--prot", "80"], "server: --prot: no such flag; did you mean --port?"),
        (["--prot=80"], "server: --prot=80: no such flag; did you mean --port?"),
        (["extra"], "server: extra: no such flag"),
        (["--port"], "server: argument --port: expected one argument"),
        (["--check", "--port", "70000"], "server: --port='70000'"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, arguments, 2).startswith(line)


@pytest.mark.usefixtures("no_load")
def test_a_bad_variable_is_one_line_and_exit_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WST_DEADLINE", "5")
    assert "did you mean WST_DEADLINE_MS?" in refused(capsys, [], 2)


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("WST_STORE", "redis://h:99999/x", "server: WST_STORE or WST_EVENT_LOG: not the URL of a Redis server"),
        ("WST_EVENT_LOG", "/", "server: WST_EVENT_LOG='/': / is a folder; set the path of a file"),
        ("WST_REDACT", "nosuch:fn", "server: redact='nosuch:fn': ModuleNotFoundError: No module named 'nosuch'; write module:function"),
        ("WST_GUARDRAIL_PERIOD_S", "0", "server: WST_GUARDRAIL_PERIOD_S='0': input should be greater than 0"),
    ],
)
def test_a_bad_log_store_or_redaction_is_one_line_and_exit_2(
    name: str, value: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    for arguments in ([], ["--check"]):
        assert refused(capsys, arguments, 2).startswith(line)


@pytest.mark.usefixtures("no_load")
def test_a_busy_port_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        line = refused(capsys, ["--port", str(port)], 1)
    assert line == f"server: cannot listen on http://127.0.0.1:{port} (Address already in use); choose another --port\n"


@pytest.mark.usefixtures("no_load")
def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("server", lambda: command.main(["--check", "--host", "::1"])) == 0
    assert capsys.readouterr().out == "good: teacher fake-teacher (sha256 abababababab…) for http://[::1]:8000\n"


def test_check_of_a_bad_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WST_TEACHER", raising=False)
    assert "nowhere" in refused(capsys, ["--check", "--teacher", str(tmp_path / "nowhere")], 2)
    (tmp_path / "teacher.json").write_text("{}")
    assert "the teacher is damaged" in refused(capsys, ["--check", "--teacher", str(tmp_path)], 2)
    (tmp_path / "teacher.json").write_text("not JSON")
    assert "the teacher is damaged" in refused(capsys, ["--check", "--teacher", str(tmp_path)], 2)


def test_load_keeps_a_setting_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(flag: str | None) -> Path:
        raise SettingError("no trained teacher")

    monkeypatch.setattr("teacher.locate.find_teacher", missing)
    with pytest.raises(SettingError, match=r"^no trained teacher$"):
        command.load(ServerSettings())


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_serves_and_stops_on_a_signal(sent: signal.Signals, code: int) -> None:
    with running() as (process, url):
        status, reply = post(url, b'{"query": "secret 2+2?"}')
        assert (status, reply["instruction"]) == (200, "Think about secret 2+2?")
        assert post(url, b"nonsense")[0] == 400
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert "POST /instruct 200" in stderr
    assert "secret" not in stderr
    assert "Traceback" not in stderr


def test_a_body_far_past_the_limit_still_sees_the_413() -> None:
    with running(WST_LOG_LEVEL="warning") as (_, url):
        for size in (300_000, 20_000_000):
            status, reply = post(url, b'{"query": "' + b"x" * size + b'"}')
            assert (status, reply["error"]["type"]) == (413, "too_large")
        assert post(url, b'{"query": "q"}')[0] == 200


def test_a_running_request_outlives_sigterm(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with running(f"FileGatedPolicy(gate={str(gate)!r})", WST_DEADLINE_MS="20000") as (process, url), ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, url, b'{"query": "last"}')
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        gate.touch()
        assert reply.result()[1]["instruction"] == "Think about last"
        assert process.wait(30) == -signal.SIGTERM


def test_clients_on_many_sockets_share_one_batch() -> None:
    class Company(FakePolicy):
        """Holds its first batch until everybody else waits."""

        async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
            while not self.batches and len(engine._waiting) + len(examples) < 16:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.001)
            return await super().instruct(examples)

    policy = Company()
    app = create_app(ServerSettings(deadline_ms=20_000), FakeTeacher(policy))
    engine: TeacherEngine = app.state.teachers.default.engine
    web = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(17) as pool:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        stopped = pool.submit(web.run, [listener])
        replies = [pool.submit(post, url, json.dumps({"query": f"q{i}"}).encode()) for i in range(16)]
        texts = [reply.result()[1]["instruction"] for reply in replies]
        web.should_exit = True
        stopped.result(30)
    assert texts == [f"Think about q{i}" for i in range(16)]
    assert len(policy.batches) <= 2
