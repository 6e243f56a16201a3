"""The examples, each in an environment with its own library, against the lab's service: two processes over HTTP, as a user has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.serve import lab_server
from tests.conftest import unused_port
from tests.environments import clean, make_environment
from tests.requirements import ROOT

pytestmark = pytest.mark.slow
QUESTION = "Ruth has 8 stamps but needs 47. How many stamps are missing?"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the shipped teacher, in front of the lab's student."""
    folder, port = tmp_path_factory.mktemp("service"), unused_port()
    with lab_server("arithmetic", "student") as student:
        settings = clean(
            WST_STUDENTS=f"{{student: {{base_url: {student.url}}}}}", WST_PORT=str(port), WST_RUNS_DIR=str(folder), WST_DEADLINE_MS="60000"
        )
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "server"], cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("serving teacher"), (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("libraries") / "venv", "-r", str(ROOT / "examples" / "requirements.txt"))


def said(python: Path | str, name: str, address: str) -> str:
    environment = clean(OPENAI_API_KEY="none", DSPY_CACHEDIR=f"{os.environ['WST_CACHE_DIR']}/dspy", LITELLM_LOCAL_MODEL_COST_MAP="True")
    command = [str(python), str(ROOT / "examples" / name), address, "student", QUESTION]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_openais_library_gets_the_right_answer_with_an_instruction_and_another_without(service: str) -> None:
    output = said(sys.executable, "openai_app.py", f"{service}/v1")
    source, instructed, raw = re.fullmatch(
        r"instruction from: (\w+).*?\nanswer: (.*?)\nraw answer: (.*)", output.strip(), re.DOTALL
    ).groups()
    assert source in ("teacher", "cache")
    assert "39" in instructed and "39" not in raw


def test_an_app_in_an_ab_test_comes_to_a_verdict(service: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / "ab_app.py"), service, "student", "first", "40"]
    done = subprocess.run(command, env=clean(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "teacher is better than raw" in done.stdout


def test_langchain(service: str, libraries: Path) -> None:
    assert "39" in said(libraries / "python", "langchain_app.py", f"{service}/v1")


def test_llamaindex(service: str, libraries: Path) -> None:
    assert "39" in said(libraries / "python", "llamaindex_app.py", f"{service}/v1")


def test_dspy_asks_for_an_instruction_and_composes_by_itself(service: str, libraries: Path) -> None:
    output = said(libraries / "python", "dspy_app.py", service)
    assert output.splitlines()[0].removeprefix("instruction:").strip() and "answer:" in output
