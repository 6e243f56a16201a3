"""The command: its output line by line, its totals, and what it says to bad input."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from rewards.grade import main
from tests.requirements import ROOT


def write(tmp_path, rows, name="answers.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def grade(capsys, *arguments):
    assert main(arguments) == 0
    said = capsys.readouterr()
    return [json.loads(line) for line in said.out.splitlines()], said.err


def test_lines_come_back_with_two_more_fields(tmp_path, capsys):
    rows = [
        {"id": 7, "gold": "Natalia sold 48+24=72.\n#### 72", "output": "So the total is 72."},
        {"gold": 1234, "output": "#### 1,234", "extra": ["é", None]},
        {"gold": "72", "output": "nothing"},
        {"gold": "no gold", "output": "#### 3"},
    ]
    out, err = grade(capsys, "--task", "gsm8k", write(tmp_path, rows))
    assert out == [
        rows[0] | {"correct": True, "extracted": "72"},
        rows[1] | {"correct": True, "extracted": "1234"},
        rows[2] | {"correct": False, "extracted": None},
        rows[3] | {"correct": None, "extracted": "3"},
    ]
    assert err == "4 graded: 2 correct (66.7%), 1 wrong, 1 undecided [1 without an answer, 1 with an unusable gold]\n"


def test_strict_reads_only_what_a_marker_announces(tmp_path, capsys):
    file = write(tmp_path, [{"gold": "72", "output": "She has 72"}, {"gold": "72", "output": "The answer is 72."}])
    assert [row["correct"] for row in grade(capsys, "--task=gsm8k", file)[0]] == [True, True]
    assert [row["correct"] for row in grade(capsys, "--task=gsm8k", "--strict", file)[0]] == [False, True]


@pytest.mark.parametrize(
    ("task", "gold", "output", "correct", "extracted"),
    [
        ("math", r"$\frac{1}{2}$", r"so $\boxed{\dfrac{2}{4}}$", True, r"\dfrac{2}{4}"),
        ("math", r"x^2+2x+1", "The answer is $(x+1)^2$.", True, "(x+1)^2"),
        ("math", r"\sqrt{2}", r"\boxed{9^{9^{9^{9}}}}", None, "9^{9^{9^{9}}}"),
        ("svamp", "51.0", "51 dollars", True, "51"),
        ("yes_no", "yes", "So the answer is Yes.", True, "yes"),
        ("choice", "C", "The answer is (C).", True, "C"),
        ("knights_knaves", "Ada: knight, Bo: knave", "Bo is a knave and Ada is a knight.", True, "Ada: knight, Bo: knave"),
        ("own/text", "The Eiffel Tower", "Answer: Eiffel tower.", True, "Eiffel tower"),
    ],
)
def test_every_kind_of_answer(tmp_path, capsys, task, gold, output, correct, extracted):
    out, _ = grade(capsys, "--task", task, write(tmp_path, [{"gold": gold, "output": output}]))
    assert (out[0]["correct"], out[0]["extracted"]) == (correct, extracted)


def test_an_option_may_be_named_by_its_text_where_the_query_lists_it(tmp_path, capsys):
    row = {"gold": "B", "output": "Answer: an oasis", "query": "Where?\nA. a bank\nB. an oasis\nC. a river"}
    assert grade(capsys, "--task=choice", write(tmp_path, [row]))[0][0]["correct"] is True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"gold": "1", "output": "1"}\n{"gold": "1"}\n', "answers.jsonl:2: field 'output' is missing"),
        (b'{"gold": "1", "output": "1"}\n\n{"output": "1"}\n', "answers.jsonl:3: field 'gold' is missing"),
        (b'{"gold": "1", "output": "1"}\n{"gold": \n', "answers.jsonl:2: not JSON"),
        (b'{"gold": "1", "output": "1"}\n{"gold": "1", "output": "\xff"}\n', "answers.jsonl:2: not UTF-8 text"),
        (b'{"gold": "1", "output": null}\n', "answers.jsonl:1: field 'output' is not text"),
        (b'{"gold": null, "output": "1"}\n', "answers.jsonl:1: field 'gold' is neither text nor a number"),
        (b"[1, 2]\n", "answers.jsonl:1: expected a JSON object, found list"),
        (b"\n\n", "answers.jsonl: is empty"),
        (b"[" * 100_000, "answers.jsonl:1: not JSON"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, capsys, content, message):
    (tmp_path / "answers.jsonl").write_bytes(content)
    assert main(["--task=gsm8k", str(tmp_path / "answers.jsonl")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task=gsm8", "x.jsonl"], "--task=gsm8: no such task; did you mean gsm8k?"),
        (["--task=hh_rlhf", "x.jsonl"], "--task=hh_rlhf: this task has no gold to grade by"),
        (["--task=gsm8k", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
    ],
)
def test_bad_arguments_are_one_line(capsys, arguments, message):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and said.err.count("\n") == 1


def test_a_damaged_archive_is_named(tmp_path, capsys):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"gold": "1", "output": "1"}\n')[:-9])
    assert main(["--task=gsm8k", str(tmp_path / "a.jsonl.gz")]) == 2
    assert "a.jsonl.gz: damaged gzip file" in capsys.readouterr().err


def test_from_stdin_and_into_a_closed_pipe():
    row = b'{"gold": "x+1", "output": "\\\\boxed{1+x}"}\n'
    command = [sys.executable, "-W", "error", "-m", "rewards.grade", "--task", "math", "-"]
    done = subprocess.run(command, input=row, cwd=ROOT, capture_output=True, timeout=120)
    assert json.loads(done.stdout)["correct"] is True
    assert done.stderr.startswith(b"1 graded: 1 correct (100.0%)")
    head = " ".join(f"'{part}'" for part in command) + " | head -c 1"
    piped = subprocess.run(["bash", "-c", head], input=row * 20_000, cwd=ROOT, capture_output=True, timeout=120, env={**os.environ})
    assert b"Traceback" not in piped.stderr
