"""Logs of a service become the next teacher's data, and a teacher trains on them."""

import json

import pytest

from tasks.lab_arithmetic import load
from tasks.own_data import split_of
from teacher.collect import main
from teacher.train import main as train

EXAMPLES = load("train", limit=120)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def events():
    """A service's events in three kinds, their text in lines of its own, out of order."""
    for i, example in enumerate(EXAMPLES):
        yield {
            "kind": "outcome",
            "id": f"o{i}",
            "time": 9.0,
            "content": {"request_id": f"r{i}", "metric": "resolved", "value": float(i % 4 > 0)},
        }
        yield {"kind": "exposure", "content": {"request_id": f"r{i}", "unit": f"u{i % 7}", "arm": "teacher", "forced": False}}
        if i >= 10:  # the first ten have no text
            gold = {"gold": example.gold} if i < 100 else {}
            yield {"request_id": f"r{i}", "query": example.query, "instruction": example.oracle if i % 5 else "", **gold}
    yield {"kind": "forced", "content": {"request_id": "r900", "query": "by hand", "instruction": "x", "value": 1, "forced": True}}
    yield {"request_id": "r901", "query": "late", "instruction": "x", "value": float("nan")}
    yield {"value": 1}


def test_a_log_is_joined_split_and_what_is_missing_is_said(tmp_path, capsys):
    assert main([write(tmp_path / "log.jsonl", events()), "--out", str(tmp_path / "next")]) == 0
    printed = capsys.readouterr().out
    train_rows, test_rows = rows_of(tmp_path / "next", "train.jsonl"), rows_of(tmp_path / "next", "test.jsonl")
    assert len(train_rows) + len(test_rows) == 90  # 10 have no text, 20 no right answer
    assert {split_of(row["question"]) for row in test_rows} == {"test"} and not {split_of(row["question"]) for row in train_rows} & {"test"}
    kept = rows_of(tmp_path / "next", "instructions.jsonl")
    by_query = {example.query: i for i, example in enumerate(EXAMPLES)}
    assert kept and all(by_query[row["query"]] % 4 > 0 for row in kept)  # only what worked
    held_out = rows_of(tmp_path / "next", "held_out.jsonl")
    assert {row["query"] for row in held_out}.isdisjoint(row["query"] for row in kept)
    assert {row["worked"] for row in held_out} == {True, False}
    for line in (
        "10 requests without their text", "1 lines left out: they put into their arm by hand", "no finite number",
        "name neither a request nor a query", "1 instructed requests without resolved", "instructions that worked; 200",
    ):  # fmt: skip
        assert line in printed, line


def test_the_next_teacher_trains_on_what_was_collected(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    flat = [{"question": e.query, "instruction": e.oracle, "outcome": 1, "answer": e.gold} for e in EXAMPLES]
    assert main([write(tmp_path / "log.jsonl", flat), "--out", str(tmp_path / "next")]) == 0
    capsys.readouterr()
    flags = [
        "--task.name=own", f"--task.path={tmp_path / 'next'}", "--task.own.answer_type=number", "--max_steps=0", "--eval.n=8",
        "--eval.include=[]",
        "--teacher.warm_start.questions=0", f"--teacher.warm_start.file={tmp_path / 'next' / 'instructions.jsonl'}",
        "--task.validation_size=4", "--trl.per_device_train_batch_size=16", "--trl.num_generations=4",
    ]  # fmt: skip
    assert train(flags) == 0
    [run] = (tmp_path / "runs").iterdir()
    arms = json.loads((run / "summary.json").read_text())["eval"]["arms"]
    assert arms["trained"]["use"] != arms["untrained"]["use"]  # it has learnt something from the log


def test_the_better_may_be_lower_and_several_metrics_want_a_name(tmp_path, capsys):
    rows = [{"query": f"q {i}", "instruction": "Do.", "metric": m, "value": i} for i in range(40) for m in ("seconds",)]
    log = write(tmp_path / "a.jsonl", rows)
    assert main([log, "--out", str(tmp_path / "x"), "--good=5", "--lower-is-better"]) == 0
    kept = rows_of(tmp_path / "x", "instructions.jsonl") + [r for r in rows_of(tmp_path / "x", "held_out.jsonl") if r["worked"]]
    assert sorted(row["value"] for row in kept) == [0, 1, 2, 3, 4, 5]
    other = write(tmp_path / "b.jsonl", [{"query": "q", "instruction": "Do.", "metric": "clicks", "value": 1}])
    assert main([log, other, "--out", str(tmp_path / "y")]) == 2
    assert "the log holds these metrics: seconds (40), clicks (1)" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("{}\n{", [], "log.jsonl:2: not JSON"),
        ('{"query": "q"}', [], "the log holds these metrics: none"),
        ('{"query": "q", "value": 1}', ["--metric=x"], "--metric=x: the log holds these metrics: outcome (1)"),
        ('{"query": "q", "value": 1}', ["--good=much"], "--good=much: must be a finite number"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, content, flags, message):
    (tmp_path / "log.jsonl").write_text(content)
    assert main([str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "next"), *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
