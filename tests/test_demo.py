"""The promise of the README's first command: a teacher learns on the lab world, and where there is nothing to teach the run says so."""

import json
import os
import subprocess
import sys

import pytest

from tests.requirements import ROOT

pytestmark = pytest.mark.slow


def run(runs, *flags):
    result = subprocess.run(
        [sys.executable, "-m", "teacher.train", *flags],
        cwd=ROOT,
        env={**os.environ, "WST_RUNS_DIR": str(runs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(next(runs.glob("*/summary.json")).read_text())["eval"], result.stdout


def test_the_demo_learns_nine_tenths_of_the_oracle(tmp_path):
    summary, table = run(tmp_path)
    arms = summary["arms"]
    assert arms["trained"]["mean"] >= 0.90 * arms["oracle"]["mean"]
    assert arms["untrained"]["mean"] < arms["raw"]["mean"]
    assert summary["vs_raw"]["trained"]["low"] > 0
    assert "verdict: gain" in table


def test_where_raw_is_right_already_there_is_no_gain(tmp_path):
    summary, table = run(tmp_path, "--task.dial=0")
    pair = summary["vs_raw"]["trained"]
    assert pair["low"] <= 0 <= pair["high"]
    assert "verdict: no gain" in table
