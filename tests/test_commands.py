"""Every command answers `--help` at once, and every shipped config is one that the trainer takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.requirements import ROOT
from tests.source_tree import commands

HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "fastapi")
HELP = """
import json, runpy, sys
module, *heavy = sys.argv[1:]
sys.argv = [module, "--help"]
code = None
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    code = stop.code
print(json.dumps([code or 0, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("module", commands())
def test_help_is_instant(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HELP, module, *HEAVY], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    code, loaded = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert loaded == [], "imported on the way to --help; move these imports into the functions that use them"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_is_valid(name: str) -> None:
    from exchange.settings import find_config, load, read_yaml
    from teacher.config import TrainConfig

    load(TrainConfig, read_yaml(find_config(name)))
