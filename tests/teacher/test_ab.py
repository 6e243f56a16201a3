"""An A/B over a file of prompts: graded, paired, in a directory of its own, with the settings of the teacher's run."""

import json

import pytest

from tasks.lab_arithmetic import load
from teacher.ab import main

FIELDS = ["--task.own.query=prompt", "--task.own.answer=label", "--task.own.answer_type=number"]


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": e.query, "label": int(e.gold or 0)}) + "\n" for e in load("test", limit=30)))
    return path


def test_every_prompt_is_answered_raw_and_taught(prompts, tmp_path, capsys):
    assert main([str(prompts), *FIELDS, "--eval.arms.static:mine.text=Add the two numbers.", "--run.dir", str(tmp_path / "ab")]) == 2
    assert "settings are written --name=value" in capsys.readouterr().err
    assert main([str(prompts), *FIELDS, "--eval.arms.static:mine.text=Add the two numbers.", f"--run.dir={tmp_path / 'ab'}"]) == 0
    printed = capsys.readouterr().out
    assert "prompts.jsonl: 30 prompts" in printed and "verdict: gain" in printed
    summary = json.loads((tmp_path / "ab" / "summary.json").read_text())["eval"]
    assert list(summary["arms"]) == ["raw", "static:mine", "trained"] and summary["n"] == 30
    assert summary["arms"]["trained"]["mean"] > summary["arms"]["raw"]["mean"]
    assert (tmp_path / "ab" / "report.html").is_file()


def test_the_dry_run_counts_every_prompt_twice(prompts, capsys):
    assert main([str(prompts), *FIELDS, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.rindex('{\n "student_calls_at_most"') :])["student_calls_at_most"]["total"] == 60


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "field 'question' is missing or not text (fields: prompt, label)"),
        (["--task.own.query=prompt"], "field 'answer' is missing"),
        ([*FIELDS, "--task.path=x"], "task.path: the file of prompts is the task"),
        ([*FIELDS, "--eval.include=[router]"], "eval.include: router is searched on training questions"),
        ([*FIELDS, "--teacher=/nowhere"], "holds no teacher.json"),
    ],
)
def test_bad_input_is_one_clear_line(prompts, capsys, flags, message):
    assert main([str(prompts), *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_file_that_is_not_there(capsys):
    assert main(["/nowhere.jsonl"]) == 2
    assert "/nowhere.jsonl: no such file" in capsys.readouterr().err
