"""Which questions RL leaves out: by what the warm start found, with seeded shares, and never so many that a step has no batch."""

from __future__ import annotations

import json

import pytest

from exchange.records import Episode, Example, Instruction, Score
from teacher.config import FilterConfig
from teacher.query_filter import choose, settled
from teacher.run_directory import RunDirectory
from teacher.train import main
from tests.teacher.test_train_lab import TINY

EXAMPLES = [Example(id=str(i), task="gsm8k", split="train", query=f"{i}?", gold=str(i)) for i in range(40)]


def line(name, grade, text="", arm="warm_start"):
    scores = () if grade is None else (Score(value=grade, parts={"correct": grade}),)
    instruction = Instruction(text=text, source="teacher" if text else "silence")
    error = "StudentTimeout: late" if grade is None else None
    return {"step": 0, **Episode(example_id=name, arm=arm, instruction=instruction, messages=(), scores=scores, error=error).model_dump()}


def test_what_the_warm_start_says_of_a_question():
    lines = [
        line("raw", 1.0),
        *(line("open", 0.0), line("open", 0.0, "Add them."), line("open", 1.0, "Take it away.")),
        *(line("never", 0.0), line("never", 0.0, "Add them."), line("never", 0.0, "Double it.")),
        *(line("unlucky", 0.0), line("unlucky", None, "Add them.")),
        line("only raw asked", 0.0),
        line("probed", 1.0, arm="probe"),
    ]
    assert settled(lines) == {"raw": "raw_right", "never": "hopeless"}


def test_shares_are_kept_in_order_and_by_seed():
    kinds = {**{str(i): "raw_right" for i in range(20)}, **{str(i): "hopeless" for i in range(20, 30)}}
    config = FilterConfig(raw_right=0.25, hopeless=0.5)
    kept, counts = choose(EXAMPLES, kinds, config, seed=0, at_least=8)
    assert counts == {"questions": 40, "raw_right": 20, "raw_right_left_out": 15, "hopeless": 10, "hopeless_left_out": 5}
    assert len(kept) == 20 and kept == [example for example in EXAMPLES if example in kept]
    assert {example.id for example in EXAMPLES[30:]} <= {example.id for example in kept}, "a question that nobody asked stays"
    assert choose(EXAMPLES, kinds, config, seed=0, at_least=8) == (kept, counts)
    assert choose(EXAMPLES, kinds, config, seed=1, at_least=8)[0] != kept


@pytest.mark.parametrize("kinds", [{}, {str(i): "hopeless" for i in range(40)}])
def test_without_information_or_without_a_batch_nothing_is_left_out(kinds):
    kept, counts = choose(EXAMPLES, kinds, FilterConfig(raw_right=0, hopeless=0), seed=0, at_least=8)
    assert kept == EXAMPLES and counts["hopeless_left_out"] == counts["raw_right_left_out"] == 0


def test_a_run_says_what_it_left_out_and_a_resumed_one_leaves_out_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path))
    flags = ["--filter.raw_right=0", "--filter.hopeless=0", "--teacher.warm_start.questions=30"]
    assert main([*TINY, *flags]) == 0
    run = RunDirectory(next(tmp_path.iterdir()))
    counts = run.filtered
    assert counts is not None and 0 < counts["raw_right_left_out"] == counts["raw_right"]
    assert json.loads((run.path / "summary.json").read_text())["filter"] == counts
    kinds = settled(line for line in run.lines("episodes.jsonl") if line["step"] == 0)
    trained_on = {line["example_id"] for line in run.lines("episodes.jsonl") if line["step"]}
    assert kinds and not trained_on & set(kinds)
    assert f"left out: {counts['raw_right']} of {counts['raw_right']} that are right raw" in " ".join(capsys.readouterr().err.split())
    (run.path / "summary.json").unlink()
    for folder in ("checkpoint-2", "best-2"):
        (run.checkpoints / folder / "complete").unlink(missing_ok=True)
    before = [line for line in run.lines("episodes.jsonl") if line["step"] == 2]
    assert main([f"--resume={run.path}"]) == 0
    assert run.filtered == counts
    after = [line for line in run.lines("episodes.jsonl") if line["step"] == 2]
    assert [(line["example_id"], line["instruction"]) for line in after] == [(line["example_id"], line["instruction"]) for line in before]
