"""Virtual environments that a slow test makes for itself, so that `.venv` holds only what the project needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def make_environment(folder: Path, *requirements: str) -> Path:
    """A new virtual environment with these installed; the folder of its programs."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if requirements:
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *requirements], check=True)
    return folder / "bin"


def clean(**settings: str) -> dict[str, str]:
    """The environment of a user who has set nothing but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WST_", "OPENAI_", "PYTHON", "HF_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **settings}
