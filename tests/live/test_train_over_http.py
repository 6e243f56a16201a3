"""Real input through a real server: the lab student served by vLLM's CPU build answers real GSM8K questions for a training run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.weights_folder import model_dir
from tests.live.servers import transformers_server, vllm_server

ROOT = Path(__file__).parents[2]
SMALL = ["--eval.n=40", "--task.validation_size=20", "--teacher.warm_start.questions=8", "--trl.gradient_accumulation_steps=4"]


def train(server, runs, data_dir):
    flags = [
        f"--teacher.model={model_dir('arithmetic', 'teacher')}",
        f"--student.base_url={server.base_url}",
        f"--student.model={server.model}",
        f"--task.path={data_dir / 'gsm8k'}",
        "--max_steps=3",
        *SMALL,
    ]
    result = subprocess.run(
        [sys.executable, "-m", "teacher.train", "configs/gsm8k_openai.yaml", *flags],
        cwd=ROOT, env={**os.environ, "WST_RUNS_DIR": str(runs)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(next(runs.glob("*/summary.json")).read_text())


@pytest.mark.slow
@pytest.mark.vllm
def test_training_on_gsm8k_against_vllm_counts_every_call(tmp_path, data_dir):
    with vllm_server(model_dir("arithmetic", "student"), "lab-student", log_dir=tmp_path) as server:
        summary = train(server, tmp_path / "runs", data_dir)
        served = server.requests_served()
    assert summary["student"]["failures"] == 0
    assert summary["student"]["calls"] == served > 0
    assert summary["eval"]["arms"]["trained"]["failed"] == 0


@pytest.mark.slow
def test_training_on_gsm8k_against_transformers_serve(tmp_path, data_dir):
    with transformers_server(model_dir("arithmetic", "student"), log_dir=tmp_path) as server:
        summary = train(server, tmp_path / "runs", data_dir)
        served = server.requests_served()
    assert summary["student"]["failures"] == 0
    assert summary["student"]["calls"] == served > 0
