"""A disk that takes no more in the middle of training: one line that says so, the last checkpoint whole, and the run goes on from it.

A limit on file sizes (RLIMIT_FSIZE) stands for the disk: a write beyond it fails as one beyond the last free block does.
"""

import os
import resource
import subprocess
import sys

import pytest

from teacher.run_directory import RunDirectory
from tests.teacher.test_train_lab import ROOT, TINY, wait_for

FLAGS = [*TINY, "--max_steps=6", "--eval.every=2"]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1_000, 800_000], ids=["nothing can be written", "logs and weights can, the optimiser cannot"])
def test_a_full_disk_leaves_the_last_checkpoint_and_one_line(tmp_path, limit):
    environment = {**os.environ, "WST_RUNS_DIR": str(tmp_path / "runs"), "WST_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "teacher.train", *FLAGS]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert wait_for(lambda: list((tmp_path / "runs").glob("*/checkpoints/checkpoint-2/complete")), process), process.communicate()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    _, errors = process.communicate(timeout=300)
    (run,) = map(RunDirectory, (tmp_path / "runs").iterdir())
    assert process.returncode == 1 and "Traceback" not in errors, errors
    last = errors[errors.rindex("teacher.train: ") :].replace("\n", "")
    assert "cannot be" in last and f"--resume={run.path}" in last, last
    assert run.last_step() == 2 and not run.finished
    again = subprocess.run([*command[:3], f"--resume={run.path}"], env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in run.lines("metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
