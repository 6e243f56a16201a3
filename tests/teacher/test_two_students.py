"""One student teaches, another one chooses the best step and is what is measured; each has its own calls, cache and budget."""

import json

import pytest

from lab.serve import lab_server
from teacher import evaluate
from teacher.run_directory import RunDirectory
from teacher.train import main
from tests.teacher.test_train_lab import TINY


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "runs"


def test_each_student_is_asked_its_own_part_and_pays_from_its_own_budget(runs, tmp_path, capsys):
    prices = "{student_b: {input: 1, output: 4, as_of: 2026-11-20}}"
    with lab_server("arithmetic", "student_b") as server:
        flags = [
            "--validation.student.kind=openai",
            f"--validation.student.base_url={server.url}",
            "--validation.student.model=student_b",
            f"--validation.student.cache.url={tmp_path / 'dear.sqlite3'}",
            f"--validation.budget.prices={prices}",
        ]
        assert main([*TINY, *flags]) == 2
        assert "validation.budget.usd: student_b costs money" in capsys.readouterr().err
        assert main([*TINY, *flags, "--validation.budget.usd=0.001"]) == 1
        assert "give more with --validation.budget.usd" in capsys.readouterr().err
        (run,) = map(RunDirectory, runs.iterdir())
        assert main([f"--resume={run.path}", "--validation.budget.usd=1"]) == 0
        summary = json.loads((run.path / "summary.json").read_text())
        trained, validated = summary["student"], summary["validation_student"]
        episodes = run.lines("episodes.jsonl")
        raw = len({line["example_id"] for line in episodes if line["step"]})
        assert trained["calls"] + trained["cache_hits"] == len(episodes) + raw and trained["cost_usd"] == 0.0
        # Three validations and the raw answers of 12 questions (some of them twice, around the stop), six arms of 24.
        assert validated["calls"] == server.requests == len(server.different)
        assert validated["calls"] + validated["cache_hits"] >= 4 * 12 + 6 * 24 and validated["cost_usd"] > 0
        assert (run.path / "validation-budget.sqlite3").exists() and not (run.path / "budget.sqlite3").exists()
        assert json.loads((run.teacher / "teacher.json").read_text())["validated_on"] == "student_b"
        requests, before = server.requests, summary["eval"]
        assert evaluate.main([str(run.path)]) == 0
        assert server.requests == requests
        assert json.loads((run.path / "summary.json").read_text())["eval"] == before


def test_the_dry_run_shows_both(runs, capsys):
    assert main([*TINY, "--validation.student.model=lab:arithmetic/student_b", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    shown = json.loads(printed[printed.rindex('{\n "student_calls_at_most"') :])
    assert shown["student_calls_at_most"] == {"warm_start": 30, "training": 32, "raw": 8, "total": 70}
    assert shown["validation_student"]["student_calls_at_most"] == {"validation": 84, "evaluation": 144, "total": 228}


def test_a_validating_student_that_cannot_answer_is_one_line(runs, free_port, capsys):
    flags = [f"--validation.student.base_url=http://127.0.0.1:{free_port}/v1", "--validation.student.model=m"]
    assert main([*TINY, *flags, "--validation.student.pacing.max_attempts=1"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("teacher.train: validation.student") and "\n" not in error
    assert main([*TINY, "--validation.student.model=lab:arithmetic/nobody"]) == 2
    assert "validation.student.model='lab:arithmetic/nobody'" in capsys.readouterr().err
    assert not runs.exists()
