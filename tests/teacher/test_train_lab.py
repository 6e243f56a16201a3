"""The whole line at toy size: every phase of a run on the embedded lab world, and what it leaves behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.table import EvalSummary
from tasks.lab_arithmetic import load
from teacher.folder import end_biases
from teacher.locate import find_teacher
from teacher.run_directory import RunDirectory
from teacher.train import main

TINY = [
    "--max_steps=2",
    "--eval.every=1",
    "--eval.n=24",
    "--eval.include=[]",
    "--task.train_size=80",
    "--task.validation_size=12",
    "--teacher.warm_start.questions=6",
    "--teacher.warm_start.samples=4",
    "--teacher.warm_start.epochs=1",
    "--trl.per_device_train_batch_size=16",
    "--trl.num_generations=4",
]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def command(*flags):
    return [sys.executable, "-m", "teacher.train", *TINY, *flags]


def bias_calls(run):
    """What choosing the bias towards silence asked: both ways where the teacher is in doubt, and all 12 once more under it."""
    found = json.loads((run.path / "silence.json").read_text())
    assert found["hesitant"] == found.get("judged", 0)
    return 2 * found["hesitant"] + (12 if found.get("chosen") else 0)


def test_a_run_leaves_a_teacher_a_summary_and_every_line_of_its_logs(runs, capsys, monkeypatch):
    monkeypatch.setenv("WST_CACHE_DIR", str(runs.parent / "cache"))  # no other test has paid for its answers
    assert main(TINY) == 0
    run = RunDirectory(next(runs.iterdir()))
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["task"], summary["algorithm"], summary["seed"], summary["steps"]) == ("lab_arithmetic", "grpo", 0, 2)
    arms = EvalSummary.model_validate(summary["eval"]).arms
    assert list(arms) == ["raw", "static", "untrained", "sft", "trained", "oracle"]
    assert all(arm.n == 24 and arm.failed == 0 for arm in arms.values())
    # The warm start asks each of 6 questions raw and those it must up to 4 times more; then 3 validations of 12, 2 steps of 16, each
    # question of those once raw, and 6 arms of 24. Equal requests in flight are asked once.
    warm_start = [line for line in run.lines("episodes.jsonl") if line["step"] == 0]
    assert 6 <= len(warm_start) <= 6 + 6 * 4
    trained_on = {line["example_id"] for line in run.lines("episodes.jsonl") if line["step"]}
    student = summary["student"]
    assert student["calls"] + student["cache_hits"] == len(warm_start) + 3 * 12 + 2 * 16 + len(trained_on) + 12 + 6 * 24 + bias_calls(run)
    assert student["failures"] == 0 and student["completion_tokens"] > 0
    assert [line["step"] for line in run.lines("metrics.jsonl")] == [1, 2]
    assert [line["step"] for line in run.lines("validation.jsonl")] == [0, 1, 2]
    assert len(run.lines("episodes.jsonl")) == len(warm_start) + 2 * 16
    assert find_teacher() == run.teacher
    bias = json.loads((run.path / "silence.json").read_text())["bias"]
    assert summary["silence_bias"] == bias == max(end_biases(run.teacher).values(), default=0.0)
    table = capsys.readouterr().out
    assert "trained" in table and "verdict:" in table


def test_a_student_that_samples_is_asked_several_times_and_pays_the_mean(runs):
    flags = ["--student.samples=3", "--student.temperature=0.7", "--student.seed=0", "--max_steps=1", "--teacher.silence_bias=0"]
    assert main([*TINY, *flags]) == 0
    run = RunDirectory(next(runs.iterdir()))
    lines = run.lines("episodes.jsonl")
    assert {len(line["completions"]) for line in lines} == {3}
    student = json.loads((run.path / "summary.json").read_text())["student"]
    raw = len({line["example_id"] for line in lines if line["step"]}) + 12
    # Two validations of 12, and an evaluation with one answer in each of six arms.
    assert student["calls"] + student["cache_hits"] == 3 * (len(lines) + 2 * 12 + raw) + 6 * 24
    assert not end_biases(run.teacher)


def test_the_stage_sft_is_the_warm_start_alone_also_from_a_file(runs, tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"query": example.query, "instruction": example.oracle} for example in load("train", limit=40)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--stage=sft", "--teacher.silence_bias=1.5", "--teacher.warm_start.questions=0", f"--teacher.warm_start.file={pairs}"]
    assert main([*TINY, *flags]) == 0
    run = RunDirectory(next(runs.iterdir()))
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["steps"] == summary["teacher_step"] == 0 and not run.lines("metrics.jsonl")
    student = summary["student"]
    assert student["calls"] + student["cache_hits"] == 2 * 12 + 6 * 24, "the file costs no call"
    assert summary["silence_bias"] == 1.5 and set(end_biases(run.teacher).values()) == {1.5}
    assert "warm start: 40 instructions from" in capsys.readouterr().err
    assert main([*TINY, "--stage=sft", "--teacher.warm_start.file=nowhere.jsonl"]) == 2


def test_the_dry_run_counts_the_calls_and_asks_nothing(runs, capsys):
    assert main([*TINY, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    calls = json.loads(printed[printed.rindex('{\n "student_calls_at_most"') :])["student_calls_at_most"]
    assert calls == {"warm_start": 30, "training": 32, "raw": 20, "validation": 72, "evaluation": 144, "total": 298}
    assert not runs.exists()


def estimated(flags, capsys):
    assert main([*TINY, *flags, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    return json.loads(printed[printed.rindex('{\n "student_calls_at_most"') :])


def test_the_dry_run_counts_searches_as_long_as_the_training_is_to_be(runs, capsys):
    flags = ["--eval.include=[best_static,router]", "--eval.search_calls"]
    without = estimated(["--eval.include=[]"], capsys)["student_calls_at_most"]
    calls = estimated([flags[0], f"{flags[1]}=null"], capsys)["student_calls_at_most"]
    arms = 2 * 24
    assert calls["evaluation"] == without["evaluation"] + arms + 2 * (calls["warm_start"] + calls["training"])
    assert estimated([flags[0], f"{flags[1]}=7"], capsys)["student_calls_at_most"]["evaluation"] == without["evaluation"] + arms + 14


def test_the_dry_run_counts_every_model_that_training_holds(runs, capsys):
    grpo, ppo, kl, sft = (
        estimated(flags, capsys)["memory_gib"]["teacher_parts"] for flags in ([], ["--algorithm=ppo"], ["--trl.beta=0.01"], ["--stage=sft"])
    )
    assert set(grpo) == set(sft) == {"weights", "optimizer", "logits", "activations", "other_phases"}
    float_bytes = ppo["critic"] / 4  # weight, gradient and two moments
    assert float_bytes > 0
    assert kl["weights"] - grpo["weights"] == pytest.approx(float_bytes, abs=1e-3)


def test_unreachable_student_is_one_line_before_anything_is_written(runs, free_port, capsys):
    flags = [f"--student.base_url=http://127.0.0.1:{free_port}/v1", "--student.model=m", "--student.pacing.max_attempts=1"]
    assert main([*TINY, *flags]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("teacher.train: student") and "\n" not in error
    assert not runs.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--reward.silence=1"], "did you mean reward.silence_bonus?"),
        (["nowhere.yaml"], "nowhere.yaml: no such config file; shipped ones: custom_openai, custom_vllm, gsm8k_openai"),
        (["--trl.num_generation=4"], "did you mean trl.num_generations?"),
        (["--trl.num_generations=5"], "trl: generation_batch_size (16) must be divisible by num_generations (5)"),
        (["--algorithm=grop"], "algorithm='grop': input should be 'grpo', 'rloo' or 'ppo'"),
        (["--teacher.max_instruction_tokens=90000"], "leave no room for 90000 tokens of instruction in its context of"),
        (["--trl.save_steps=3"], "trl.save_steps=3: set eval.every instead"),
        (["--student.samples=2"], "student={'samples': 2}: a greedy student gives the same answer each time; set student.temperature"),
        (["--trl.steps_per_generation=2", "--eval.every=1"], "eval.every=1: checkpoints must fall between generated batches"),
        (["--teacher.model=/nowhere/model"], "teacher model '/nowhere/model' cannot be loaded"),
        (["--resume"], "no unfinished run with these settings"),
        (["--resume=/nowhere"], "not a run directory"),
        (["--task.name=gsm8k", "--task.path=/nowhere"], "task.path='/nowhere': no such folder"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(runs, capsys, flags, message):
    assert main([*TINY, *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error, error


def test_a_config_file_that_is_no_config_says_so(runs, tmp_path, capsys):
    for content, message in [("- a\n- b\n", "expected settings as 'key: value'"), ("a: [", "not valid YAML"), ("\xff", "")]:
        path = tmp_path / "c.yaml"
        path.write_text(content, encoding="latin-1")
        assert main([str(path)]) == 2
        assert message in capsys.readouterr().err


def environment(runs):
    return {**os.environ, "WST_RUNS_DIR": str(runs), "PYTHONPATH": str(ROOT)}


def wait_for(path, process):
    """Wait until a file appears or the process ends."""
    while not path() and process.poll() is None:
        time.sleep(0.01)
    return path()


def final_weights(runs):
    run = RunDirectory(next(runs.iterdir()))
    return (run.teacher / "model.safetensors").read_bytes(), json.loads((run.path / "summary.json").read_text())["eval"]


LONGER = ["--max_steps=6", "--eval.every=2"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo"])
def test_killed_anywhere_and_resumed_ends_in_the_same_teacher(tmp_path, algorithm):
    """kill -9 before the warm start, between checkpoints, in the middle of writing one and at a random step; the resumed run ends bit for
    bit the same."""
    flags = [*LONGER, f"--algorithm={algorithm}"]
    whole = tmp_path / "whole"
    subprocess.run(command(*flags), check=True, env=environment(whole), capture_output=True)
    expected = final_weights(whole)

    broken = tmp_path / "broken"

    def found(pattern):
        return lambda: list(broken.glob(pattern))

    random_step = random.randint(3, 5)
    print(f"killed at step {random_step}")  # pytest shows it where the test fails

    def at_random_step():
        return [path for path in broken.glob("*/metrics.jsonl") if path.read_text().count("\n") >= random_step]

    moments = [
        found("*/config.yaml"),  # before the warm start
        found("*/checkpoints/checkpoint-2/model.safetensors"),  # a checkpoint is being written
        found("*/checkpoints/checkpoint-2/complete"),  # between checkpoints
        at_random_step,
        found("*/checkpoints/checkpoint-6/model.safetensors"),
        found("*/teacher/teacher.json"),  # the evaluation has begun
    ]
    for i, moment in enumerate(moments):
        process = subprocess.Popen(
            command(*flags, *(["--resume"] if i else [])), env=environment(broken), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert wait_for(moment, process), process.communicate()
        process.kill()
        process.communicate()
        assert not list(broken.glob("*/summary.json"))
    subprocess.run(command(*flags, "--resume"), check=True, env=environment(broken), capture_output=True)
    assert len(list(broken.iterdir())) == 1
    assert final_weights(broken) == expected
    run = RunDirectory(next(broken.iterdir()))
    assert [line["step"] for line in run.lines("metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in run.lines("validation.jsonl")] == [0, 2, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_with_a_checkpoint_and_says_how_to_go_on(tmp_path, number, code):
    process = subprocess.Popen(
        command("--max_steps=500", "--eval.every=100"), env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert wait_for(lambda: list(tmp_path.glob("*/metrics.jsonl")), process), process.communicate()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    run = RunDirectory(next(tmp_path.iterdir()))
    step, _ = run.last_checkpoint()
    assert step == run.lines("metrics.jsonl")[-1]["step"] < 500
    assert f"go on with: python -m teacher.train --resume={run.path}" in errors.replace("\n", "")
