"""The command that measures a teacher: on a run directory, on a config, with extra arms, and when something is wrong."""

import json

import pytest

from exchange.settings import SettingError, load, parse_flags
from teacher.arms import extra_policy
from teacher.config import TrainConfig, resolve
from teacher.evaluate import main
from teacher.policy import load_model, save_teacher
from teacher.prompt import TeacherPrompt
from teacher.run_directory import RunDirectory

FLAGS = ["--eval.n=12", "--eval.include=[]"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run whose teacher is the untrained base, so that it costs no training."""
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    run = RunDirectory.create(resolve(TrainConfig()))
    model, tokenizer = load_model("lab:arithmetic/teacher")
    facts = {"id": "base", "task": "lab_arithmetic", "max_instruction_tokens": 40}
    save_teacher(run.teacher, model, tokenizer, TeacherPrompt.named("lab"), facts)
    (run.path / "summary.json").write_text(json.dumps({"task": "lab_arithmetic", "wall_s": 7.5, "eval": {"n": 1}}))
    return run


def test_on_a_run_directory_only_the_eval_block_is_replaced(run, capsys):
    assert main([str(run.path), *FLAGS]) == 0
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["task"], summary["wall_s"], summary["eval"]["n"]) == ("lab_arithmetic", 7.5, 12)
    assert list(summary["eval"]["arms"]) == ["raw", "static", "untrained", "trained", "oracle"]
    # The trained teacher is the untrained one here, so both arms must agree to the question.
    assert summary["eval"]["arms"]["trained"] == summary["eval"]["arms"]["untrained"]
    assert "verdict" in capsys.readouterr().out


def test_the_same_command_gives_the_same_numbers(run):
    summaries = []
    for _ in range(2):
        assert main([str(run.path), *FLAGS]) == 0
        summaries.append((run.path / "summary.json").read_bytes())
    assert summaries[0] == summaries[1]


def test_without_an_argument_the_newest_run_is_measured_in_its_place(run, capsys):
    assert main(FLAGS) == 0
    assert f"teacher: {run.teacher}\n" in capsys.readouterr().out
    assert json.loads((run.path / "summary.json").read_text())["eval"]["n"] == 12


def test_with_a_config_the_summary_goes_into_a_directory_of_its_own(run, tmp_path):
    before = (run.path / "summary.json").read_bytes()
    (tmp_path / "c.yaml").write_text("task:\n  dial: 0\n")
    assert main([str(tmp_path / "c.yaml"), *FLAGS]) == 0
    assert (run.path / "summary.json").read_bytes() == before
    [other] = [path for path in run.path.parent.iterdir() if path != run.path]
    assert json.loads((other / "summary.json").read_text())["eval"]["arms"]["raw"]["mean"] > 0.9


def test_an_unfinished_run_is_sent_back_to_training(run, capsys):
    (run.path / "summary.json").unlink()
    assert main([str(run.path), *FLAGS]) == 2
    assert f"teacher.train --resume={run.path}" in capsys.readouterr().err


def test_the_dry_run_asks_nothing(run, capsys):
    assert main([str(run.path), *FLAGS, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.rindex('{\n "student_calls_at_most"') :])["student_calls_at_most"]["total"] == 60


def test_extra_arms_are_texts_files_runs_and_models(run, tmp_path, capsys):
    (tmp_path / "cot.txt").write_text("Think step by step.\n")
    arms = [
        "--eval.arms.static:mine.text=Think.",
        f"--eval.arms.static:file.file={tmp_path / 'cot.txt'}",
        f"--eval.arms.blind.run={run.path}",
        "--eval.arms.model:base.model=lab:arithmetic/teacher",
    ]
    assert main([str(run.path), *FLAGS, *arms]) == 0
    names = list(json.loads((run.path / "summary.json").read_text())["eval"]["arms"])
    assert names == ["raw", "static", "untrained", "static:mine", "static:file", "model:base", "blind", "trained", "oracle"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval.arms.x.text=a", "--eval.arms.x.model=b"], "eval.arms.x: give exactly one of text, file, run, model (given: text, model)"),
        (["--eval.arms.raw.text=a"], "eval.arms.raw: this name is reserved"),
        (["--eval.arms.x.file=/nowhere"], "eval.arms.x.file='/nowhere': no such file"),
        (["--eval.arms.x.run=/nowhere"], "teacher '/nowhere': holds no teacher.json"),
        (["--eval.arms.x.txt=a"], "eval.arms.x.txt='a': no such setting"),
    ],
)
def test_bad_arms_are_one_clear_line(run, capsys, flags, message):
    assert main([str(run.path), *FLAGS, *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_what_is_no_run_and_a_student_that_is_not_there(run, tmp_path, capsys, free_port):
    assert main([str(tmp_path)]) == 2
    assert "not a run directory" in capsys.readouterr().err
    flags = [f"--student.base_url=http://127.0.0.1:{free_port}/v1", "--student.model=m", "--student.kind=openai"]
    assert main([str(run.path), *FLAGS, *flags]) == 2
    assert "a run is measured with its own settings" in capsys.readouterr().err
    assert main(["lab_arithmetic_grpo", *FLAGS, *flags, "--student.pacing.max_attempts=1"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("teacher.evaluate: student: ") and "\n" not in error


def test_an_empty_arm_is_refused():
    config = load(TrainConfig, {}, parse_flags(["--eval.arms.x.text="]))
    with pytest.raises(SettingError, match="given: none"):
        extra_policy(resolve(config), "x", config.eval.arms["x"])
