"""The replication kit: what it runs, what it keeps, and that claimed and measured stand apart."""

from __future__ import annotations

import pytest

from benchmarks.paper import CELLS, STRONGER, command, main, outcome, table
from benchmarks.results_file import DOCS
from exchange.settings import find_config

ARMS = ("raw", "static", STRONGER, "untrained", "trained")


def summary(relative: float | None) -> dict[str, object]:
    pair = {"difference": 0.2, "low": 0.1, "high": 0.3, "relative_gain": relative, "relative_low": 0.2, "relative_high": 0.7}
    evaluation = {"n": 500, "verdict": "gain", "arms": {arm: {"mean": 0.4} for arm in ARMS}, "vs_raw": {"trained": pair}}
    return {"eval": evaluation, "wall_s": 7200.0, "student": {"cost_usd": 1.5, "calls": 10}}


def test_every_benchmark_has_a_config_for_either_student() -> None:
    for name in CELLS:
        for student in ("openai", "vllm", "tiny"):
            assert find_config(command(name, student, 0, "org/model", [])[0]).is_file()


def test_the_stronger_instructor_and_further_flags_reach_the_training() -> None:
    arguments = command("math", "vllm", 2, "org/model", ["--budget.usd=3"])
    assert arguments == ["math_vllm", "--seed=2", "--eval.arms.model:stronger.model=org/model", "--budget.usd=3"]


def test_a_row_has_the_gain_with_its_interval_beside_the_claim() -> None:
    run = outcome(summary(0.5), 1, "math", "vllm", 2.0)
    (row,) = [line for line in table([run]).splitlines() if line.startswith("| math")]
    for cell in ("+20.0% (+10.0% .. +30.0%)", "+50% (+20% .. +70%)", "+98 % relative", "| 4.00 | 1.50 |"):
        assert cell in row


def test_a_win_rate_has_no_relative_gain() -> None:
    assert outcome(summary(0.5), 0, "hh_rlhf", "vllm", 1.0)["relative"] is None
    assert outcome(summary(None), 0, "math", "vllm", 1.0)["relative"] is None


def test_what_nobody_ran_is_said_so() -> None:
    assert table([]).count("not run yet") == len(CELLS)
    widths = {line.count("|") for line in table([outcome(summary(0.5), 1, "math", "vllm", 2.0)]).splitlines()}
    assert len(widths) == 1
    assert "claimed; not reproduced here" in DOCS.read_text(encoding="utf-8")


def test_a_number_of_cards_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpus", "0", "--dry-run"]) == 2
    assert "a number above 0" in capsys.readouterr().err
