"""The path of a task without golds at toy size: one preference model pays, one watches, and training stops where they part."""

import json

import pytest

from evaluation.table import EvalSummary
from teacher.run_directory import RunDirectory
from teacher.train import main
from teacher.validation import Validator
from tests.student_clients.faulty_server import faulty_server, reply

TINY = [
    "lab_alignment_grpo",
    "--max_steps=3",
    "--eval.every=1",
    "--eval.n=24",
    "--task.train_size=40",
    "--task.validation_size=12",
    "--teacher.warm_start.questions=4",
    "--teacher.warm_start.samples=4",
    "--teacher.warm_start.epochs=1",
    "--trl.per_device_train_batch_size=16",
    "--trl.num_generations=4",
]
VERDICT = {
    "id": "j",
    "object": "chat.completion",
    "created": 0,
    "model": "judge",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "[[A]]"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 4, "total_tokens": 104},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """train(*flags): a run, its summary and its directory."""
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))

    def train(*flags):
        assert main([*TINY, *flags]) == 0
        (path,) = (tmp_path / "runs").iterdir()
        return json.loads((path / "summary.json").read_text()), RunDirectory(path)

    return train


def test_a_run_is_paid_by_one_judge_and_watched_by_another(run, capsys):
    summary, directory = run()
    found = EvalSummary.model_validate(summary["eval"])
    assert found.arms["raw"].mean == 0.5 == found.beside.watched["second"].arms["raw"].mean
    assert found.vs_raw["trained"].difference == pytest.approx(found.arms["trained"].mean - 0.5)
    assert found.beside.counted == "win" and set(found.beside.watched) == {"second"}
    guards = found.beside.guardrails
    assert guards["raw"].harmful_compliance.mean == 1.0 and guards["raw"].over_refusal.mean == 0.0
    assert guards["oracle"].harmful_compliance.mean < 0.1 and guards["oracle"].over_refusal.mean < 0.1
    assert found.vs_raw["oracle"].low > 0 and found.beside.watched["second"].vs_raw["oracle"].low > 0
    for line in directory.lines("validation.jsonl"):
        assert 0 < line["second"] < 1 and line["parted"] is False and len(line["wins"]["first"]) == 12
    trained = [episode for episode in directory.lines("episodes.jsonl") if episode["step"] > 0]
    assert trained and not any("second" in score["beside"] for episode in trained for score in episode["scores"]), (
        "the second is not paid for"
    )
    assert directory.lines("metrics.jsonl")[0]["undecided_rate"] == 0.0
    assert "complies with" in capsys.readouterr().out and "parted_at" not in summary


def test_training_stops_where_the_judges_part_and_ships_what_came_before(run, monkeypatch, capsys):
    second = Validator._second

    def parting(self, episodes):
        found = second(self, episodes)
        return {**found, "parted": len(self.run.lines("validation.jsonl")) == 2}  # the third validation: step 2

    monkeypatch.setattr(Validator, "_second", parting)
    summary, directory = run()
    assert summary["parted_at"] == 2 and summary["teacher_step"] < 2
    assert [line["step"] for line in directory.lines("metrics.jsonl")] == [1, 2]
    assert "the judges part" in capsys.readouterr().err


def test_a_judge_over_http_is_counted_and_paid_from_the_runs_budget(run):
    with faulty_server() as server:
        server.script = [reply(200, VERDICT)]  # whatever stands first: a tie
        summary, directory = run(
            "--task.name=lab_arithmetic",
            "--teacher.warm_start.questions=2",
            "--student.model=lab:arithmetic/student",
            "--teacher.model=lab:arithmetic/teacher",
            "--reward.kind=judge",
            "--reward.preference=null",
            "--reward.second=null",
            f"--reward.judge.client={{base_url: '{server.url}', model: judge}}",
            "--budget.prices={judge: {input: 1, output: 1, as_of: 2026-11-20}}",
            "--budget.usd=5",
        )
        asked = server.requests
    judged = summary["judges"]["judge"]
    assert judged["calls"] == asked - 1 > 20, "one more request asked for the list of models"
    assert judged["cost_usd"] > 0 and summary["student"]["cost_usd"] == pytest.approx(judged["cost_usd"])
    found = EvalSummary.model_validate(summary["eval"])
    assert found.arms["trained"].mean == 0.5 and found.beside.watched["correct"].arms["oracle"].mean > 0.9
    assert 0 <= directory.lines("metrics.jsonl")[0]["gold_rate"] <= 1 and "gold" in directory.lines("validation.jsonl")[0]


def test_an_arm_with_another_student_and_a_vote_are_judged_and_do_not_tie_with_raw(run):
    """Nobody instructs in either, and yet the answers are not the raw ones."""
    _, directory = run("--eval.include=[raw_again,majority]", "--student.temperature=1.0", "--max_steps=1",
                             "--eval.arms.other={student: {model: 'lab:alignment/student', temperature: 2.0, seed: 5}}")  # fmt: skip
    rows = directory.lines("evaluation.jsonl")
    wins = {arm: [row["score"] for row in rows if row["arm"] == arm] for arm in ("raw", "raw_again", "majority", "other")}
    assert set(wins["raw"]) == {0.5}
    for arm in ("raw_again", "majority", "other"):
        assert len(set(wins[arm])) > 1, f"{arm} was scored as a tie without being judged"
