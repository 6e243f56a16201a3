"""What a run says when it collapses, and when it ends by itself."""

import json
import math
from pathlib import Path

import pytest

from teacher.alarms import AlarmConfig, Alarms, diverged, signs
from teacher.run_directory import RunDirectory
from teacher.train import main
from tests.student_clients.conftest import chat, server
from tests.teacher.test_train_lab import TINY

__all__ = ["server"]
HEALTHY = {"entropy": 0.3, "distinct_rate": 0.5, "kl": 0.1, "repetition_rate": 0.0, "frac_reward_zero_std": 0.4, "silence_rate": 0.2}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("entropy", "entropy", 0.01),
        ("distinct", "distinct_rate", 0.01),
        ("kl", "kl", 3.0),
        ("repetition", "repetition_rate", 0.5),
        ("zero_variance", "frac_reward_zero_std", 0.95),
    ],
)
def test_an_alarm_is_raised_once_when_its_sign_has_held_and_again_after_it_was_gone(name, key, value):
    alarms = Alarms(AlarmConfig(over=3))
    sick = {**HEALTHY, key: value}
    raised = [alarms.step(logs) for logs in [HEALTHY, sick, sick, HEALTHY, sick, sick, sick, sick, HEALTHY, sick, sick, sick]]
    assert [len(lines) for lines in raised] == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert raised[6][0].startswith(f"alarm: {name} ")


def test_a_healthy_step_a_silent_teacher_and_an_alarm_that_is_off_raise_nothing():
    config = AlarmConfig()
    assert signs(config, HEALTHY) == {}
    assert signs(config, {**HEALTHY, "silence_rate": 0.9, "distinct_rate": 0.01}) == {}
    assert signs(AlarmConfig(entropy=None), {**HEALTHY, "entropy": 0.0}) == {}


def test_no_signal_counts_steps_in_a_row():
    alarms = Alarms(AlarmConfig(no_signal=3))
    for share, expected in [(1.0, False), (1.0, False), (0.9, False), (1.0, False), (1.0, False), (1.0, True)]:
        alarms.step({"frac_reward_zero_std": share})
        assert alarms.no_signal is expected


def test_what_is_not_finite_is_named():
    assert diverged({"loss": 0.1, "grad_norm": math.inf}) == "grad_norm"
    assert diverged({"loss": math.nan}) == "loss"
    assert diverged({"loss": 0.1, "grad_norm": 2.0, "entropy": 0.0}) is None


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "runs"


def test_a_loss_that_is_not_finite_ends_the_run_at_its_last_checkpoint(runs, capsys):
    assert main([*TINY, "--max_steps=6", "--trl.learning_rate=1.0e+39", "--trl.warmup_steps=0"]) == 1
    error = capsys.readouterr().err
    run = RunDirectory(next(runs.iterdir()))
    assert "start anew with a lower trl.learning_rate" in error and f"--resume={run.path}" in error.replace("\n", "")
    assert not run.finished and run.last_step() < 6


def test_learning_ends_where_validations_get_no_better(runs, capsys):
    flags = [*TINY, "--max_steps=9", "--eval.patience=1", "--trl.learning_rate=0.0"]
    assert main(flags) == 0
    run = RunDirectory(next(runs.iterdir()))
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["ended"] == "no better in 1 validations" and summary["steps"] == 9
    assert [line["step"] for line in run.lines("validation.jsonl")] == [0, 1]
    (run.path / "summary.json").unlink()  # killed in its evaluation
    assert main([f"--resume={run.path}"]) == 0
    assert [line["step"] for line in run.lines("metrics.jsonl")] == [1]


def test_a_run_without_signal_ends_resumable(runs, server, capsys):
    server.replies = [chat("#### -1")]
    flags = [f"--student.base_url={server.url}", "--student.model=m", "--reward.ill_formed_penalty=0", "--alarms.no_signal=2"]
    assert main([*TINY, *flags, "--max_steps=5"]) == 1
    run = RunDirectory(next(runs.iterdir()))
    error = " ".join(capsys.readouterr().err.split())
    assert "in 2 steps no group had rewards that differ (right 0%)" in error
    assert run.last_step() == 2 and not run.finished
    assert Path(run.checkpoints / "checkpoint-2" / "complete").exists()
