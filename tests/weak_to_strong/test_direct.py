"""Direct RL: bad settings, what it would sample, and a run whose student is an arm of the prompt teacher's evaluation."""

import json

import pytest

from weak_to_strong.direct import main

SMALL = ["--task.train_size=40", "--task.validation_size=10", "--eval.n=10"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task.name=hh_rlhf"], "direct RL is paid by a right answer"),
        (["--ceiling.run=runs/other"], "a direct run trains its own"),
        (["--strong.model=lab:arithmetic/nobody"], "nobody"),
        (["--strong.model=/nowhere/model"], "strong model '/nowhere/model' cannot be loaded: there is no such folder"),
        (["--ray", "--strong.vllm"], "ray: vllm.launch would start a server in each worker"),
    ],
)
def test_bad_settings_exit_2_with_one_line_and_begin_no_run(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    assert main([*SMALL, *flags]) == 2
    assert not (tmp_path / "runs").exists()
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_dry_run_says_what_it_would_sample(capsys):
    assert main([*SMALL, "--dry-run", "--ceiling.max_steps=5"]) == 0
    plan = capsys.readouterr().out
    assert json.loads(plan[plan.index("{\n") :]) == {"samples_at_most": 5 * 192, "answers_measured": 20}


@pytest.mark.slow
def test_its_student_is_an_arm_of_teacher_evaluate(tmp_path, monkeypatch, capsys):
    from teacher.evaluate import main as evaluate

    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))
    batch = "--ceiling.trl={per_device_train_batch_size: 24, gradient_accumulation_steps: 1}"
    reasoning = ["--strong.model=lab:reasoning/strong", "--task.name=lab_reasoning"]
    assert main([*SMALL, *reasoning, batch, "--ceiling.max_steps=1", "--ceiling.every=1", "--ceiling.watch=10"]) == 0
    folder = next((tmp_path / "runs").glob("*-direct-s0")) / "ceiling" / "student"
    assert f"model: {folder}" in capsys.readouterr().out
    arm = f"--eval.arms.direct={{student: {{kind: embedded, model: '{folder}'}}}}"
    assert evaluate(["--eval.n=10", "--eval.include=[]", arm]) == 0
    assert "direct" in capsys.readouterr().out
