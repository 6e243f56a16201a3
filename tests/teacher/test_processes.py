"""Several processes of one run under torchrun: one of them asks, books and writes; all learn, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model

from teacher.algorithms import lora_config, whole
from teacher.config import TrainConfig
from teacher.policy import load_model, resolve_model
from teacher.processes import Processes
from teacher.rewarder import local_part
from teacher.run_directory import RunDirectory
from tests.teacher.test_train_lab import ROOT, TINY

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "teacher.train", *TINY]


def environment(tmp_path):
    return {**os.environ, "WST_RUNS_DIR": str(tmp_path), "WST_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def the_run(tmp_path):
    return RunDirectory(next(path.parent for path in tmp_path.glob("*/config.yaml")))


def test_one_process_sends_nothing_anywhere(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Processes()
    assert alone.main and alone.count == 1
    assert alone.share("x") == "x"
    assert alone.gather("x") == ["x"]
    assert local_part([1.0, 2.0], alone) == [1.0, 2.0]


def test_each_process_gets_the_values_of_its_own_completions(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert local_part([1.0, None, 3.0, 4.0], Processes()) == [3.0, 4.0]


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
def test_weights_that_are_shared_out_are_gathered_into_a_model_of_their_own(lora):
    """As accelerate gathers them; the tied head is not among them."""
    config = TrainConfig.model_validate({"teacher": {"model": "lab:arithmetic/teacher", "lora": lora}})
    start = Path(resolve_model("lab:arithmetic/teacher"))
    trained, _ = load_model(str(start))
    if lora is not None:
        trained = get_peft_model(trained, lora_config(config))
    with torch.no_grad():
        for weights in trained.parameters():
            weights.add_(0.1)
    gathered = {name: weights.clone() for name, weights in trained.state_dict().items() if "lm_head" not in name}
    accelerator = SimpleNamespace(get_state_dict=lambda _: gathered, is_main_process=True, device="cpu")
    trainer = SimpleNamespace(accelerator=accelerator, model_wrapped=trained)
    copy = whole(trainer, start, lora_config(config))
    assert copy is not trained and all(torch.equal(a, b) for a, b in zip(copy.parameters(), trained.parameters(), strict=True))
    gathered["model.of_another.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="not the model's"):
        whole(trainer, start, lora_config(config))
    accelerator.is_main_process = False
    assert whole(trainer, start, lora_config(config)) is None


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--rollout_ahead=1"], ["--algorithm=ppo"]])
def test_two_processes_ask_each_question_once_and_leave_one_run(flags, tmp_path):
    result = subprocess.run(
        [*TWO, "--trl.per_device_train_batch_size=8", *flags],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    run = the_run(tmp_path)
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["steps"] == 2 and run.last_step() == 2
    lines = run.lines("episodes.jsonl")
    for step in (1, 2):  # a batch of 16 in all, as one process would have it: 4 questions of 4 instructions
        asked = [line["example_id"] for line in lines if line["step"] == step]
        assert len(asked) == 16 and len(set(asked)) == 4
    assert [line["step"] for line in run.lines("metrics.jsonl")] == [1, 2]
    assert [line["step"] for line in run.lines("validation.jsonl")] == [0, 1, 2]
    assert "arm trained" in result.stderr
    assert result.stderr.count("warm start:") == 1


@pytest.mark.slow
def test_a_signal_stops_both_with_one_checkpoint_and_a_resumed_run_goes_on(tmp_path):
    long = [*TWO, "--trl.per_device_train_batch_size=8", "--max_steps=200", "--eval.every=200"]
    process = subprocess.Popen(long, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    run = the_run(tmp_path)
    stopped = run.last_step()
    assert 0 < stopped < 200, errors[-3000:]
    torchrun = [*TWO[:6], "teacher.train", f"--resume={run.path}"]
    process = subprocess.Popen(torchrun, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.lines("metrics.jsonl")[-1]["step"] <= stopped:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)
    steps = [line["step"] for line in run.lines("metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > stopped


@pytest.mark.slow
def test_a_plan_ends_both(tmp_path):
    result = subprocess.run(
        [*TWO, "--dry-run"], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("student_calls_at_most") == 1
    assert json.loads(result.stdout[result.stdout.index("\n{") :])["student_calls_at_most"]["training"] == 2 * 2 * 16


@pytest.mark.slow
def test_an_error_of_the_main_process_ends_the_other(tmp_path):
    result = subprocess.run(
        [*TWO, "--trl.no_such_field=1"], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode != 0
    assert result.stderr.count("trl.no_such_field: TRL's GRPOConfig has no such field") == 1
