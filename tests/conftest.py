"""One environment for every test: offline, one thread, caches and runs in a temporary folder, no setting of the user's own.

The variables are set here, at import, because torch and the Hugging Face libraries read theirs once, when they are imported.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.requirements import ROOT, need

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

# Keys and settings of the person at the keyboard neither steer a test nor reach a provider.
KEPT = {"WST_DATA_DIR", "WST_REQUIRE"}
for name in list(os.environ):
    if name.startswith(("WST_", "OPENAI_")) and name not in KEPT:
        del os.environ[name]

BESIDE_CHECKOUT = ROOT.parent / "shared" / "data"
if BESIDE_CHECKOUT.is_dir():
    os.environ.setdefault("WST_DATA_DIR", str(BESIDE_CHECKOUT))

scratch = tempfile.TemporaryDirectory(prefix="wst-tests-")
os.environ["WST_CACHE_DIR"] = f"{scratch.name}/cache"
os.environ["WST_RUNS_DIR"] = f"{scratch.name}/runs"


# A time limit on one example says something of the machine.
settings.register_profile("wst", deadline=None)
settings.load_profile("wst")


def pytest_unconfigure() -> None:
    scratch.cleanup()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A marker named after a requirement asks for it: `@pytest.mark.redis` skips or fails where redis-server is missing."""
    for name in ("redis", "chromium", "vllm", "gpu"):
        if item.get_closest_marker(name):
            need(name)


@pytest.fixture
def data_dir() -> Path:
    """The folder of public data sets (gsm8k/, math/, hh-rlhf/, reasoning/); the test is skipped where there is none."""
    return need("data")


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    return unused_port()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
