"""What a test needs of the machine beyond Python: found, skipped with a reason that says how to get it, or, when promised, failed.

`WST_REQUIRE=redis,chromium,vllm` promises those: a test that needs one of them then fails where it is missing instead of skipping.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


def _program(*names: str) -> Callable[[], Path | None]:
    def find() -> Path | None:
        return next((Path(found) for name in names if (found := shutil.which(name))), None)

    return find


def _vllm() -> Path | None:
    """The interpreter of `.venv-vllm`; the stamp beside it is written when the install is whole."""
    return VLLM_PYTHON if (VLLM_PYTHON.parent.parent / ".done").exists() else None


def _data() -> Path | None:
    """`WST_DATA_DIR`, which tests/conftest.py sets where the folder lies beside the checkout."""
    folder = os.environ.get("WST_DATA_DIR")
    return Path(folder) if folder and Path(folder).is_dir() else None


# name -> (how to find it, what to do where it is missing)
KNOWN: dict[str, tuple[Callable[[], Path | None], str]] = {
    "redis": (_program("redis-server"), "install redis-server (Debian: apt-get install redis-server)"),
    "chromium": (_program("chromium", "chromium-browser", "google-chrome"), "install Chromium (Debian: apt-get install chromium)"),
    "vllm": (_vllm, "run `make vllm-env`"),
    "git": (_program("git"), "install git"),
    "curl": (_program("curl"), "install curl"),
    "gpu": (_program("nvidia-smi"), "use a machine with an NVIDIA GPU"),
    "data": (_data, "set WST_DATA_DIR to a folder that holds gsm8k/, math/, hh-rlhf/ and reasoning/"),
}


def need(name: str) -> Path:
    """The path of something a test needs. Where it is missing the test is skipped, or fails if `WST_REQUIRE` names it."""
    if name not in KNOWN:
        raise ValueError(f"{name!r}: not a known requirement; known: {', '.join(KNOWN)}")
    find, remedy = KNOWN[name]
    found = find()
    if found is None:
        if name in os.environ.get("WST_REQUIRE", "").replace(" ", "").split(","):
            pytest.fail(f"{name} is missing although WST_REQUIRE names it: {remedy}", pytrace=False)
        pytest.skip(f"needs {name}: {remedy}")
    return found
