"""One vLLM and one `transformers serve` a session, serving the lab's student; each starts when the first test asks for it.

A test that uses one carries the markers `slow` and, for vLLM, `vllm`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.weights_folder import model_dir
from tests.live.servers import LiveServer, transformers_server, vllm_server


@pytest.fixture(scope="session")
def student_dir() -> Path:
    """The lab student, an ordinary Hugging Face folder."""
    return model_dir("arithmetic", "student")


@pytest.fixture(scope="session")
def live_vllm(student_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with vllm_server(student_dir, "student", log_dir=tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="session")
def live_transformers(student_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with transformers_server(student_dir, log_dir=tmp_path_factory.mktemp("transformers")) as server:
        yield server
