"""Evaluated runs beside each other: paired where the questions are the same, over seeds, over students and tasks."""

import json

import pytest
import yaml

from evaluation.paired import newcombe
from evaluation.report import Facts, write_report
from evaluation.table import summarise
from exchange.compose import compose
from exchange.records import Completion, Episode, Example, Instruction, Score
from teacher.compare import main


def examples(prefix="q", task="gsm8k"):
    return [Example(id=f"{prefix}{i}", task=task, split="test", query=f"{prefix} {i}?", gold="1") for i in range(80)]


def run_of(tmp_path, name, right, *, seed=0, model="m", task="gsm8k", prefix="q", sha="aa" * 32):
    folder = tmp_path / name
    folder.mkdir()
    asked = examples(prefix, task)

    def episodes(rule, text):
        instruction = Instruction(text=text, source="static" if text else "silence")
        return [
            Episode(
                example_id=e.id, arm="x", instruction=instruction, messages=compose(e.public(), instruction),
                completions=(Completion(text="1", prompt_tokens=5),),
                scores=(Score(value=float(rule(i)), parts={"correct": float(rule(i))}, extracted="1"),),
            )
            for i, e in enumerate(asked)
        ]  # fmt: skip

    found = {"raw": episodes(lambda i: i < 20, ""), "trained": episodes(right, "Do.")}
    summary = summarise(found, asked)
    write_report(folder, name, Facts(task=task, student=model), summary, asked, found)
    held = {"task": task, "teacher_sha256": sha, "eval": summary.model_dump(mode="json")}
    (folder / "summary.json").write_text(json.dumps(held))
    (folder / "config.yaml").write_text(yaml.safe_dump({"student": {"model": model}, "seed": seed, "task": {"name": task}}))
    return str(folder)


def compared(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_same_questions_are_paired_and_others_are_not(tmp_path, capsys):
    first = run_of(tmp_path, "first", lambda i: i < 40)
    second = run_of(tmp_path, "second", lambda i: i < 50)
    third = run_of(tmp_path, "third", lambda i: i < 50, prefix="other")
    found = compared(capsys, first, second, third)
    paired, apart = found["versus"]
    assert (paired["paired"], paired["questions"], paired["difference"]) == (True, 80, pytest.approx(10 / 80))
    assert paired["p_value"] == paired["p_holm"] == pytest.approx(2 * 0.5**10)
    assert (apart["paired"], apart["questions"], apart["p_value"]) == (False, 160, None)
    assert (apart["low"], apart["high"]) == pytest.approx(newcombe((50, 80), (40, 80)))
    assert apart["high"] - apart["low"] > paired["high"] - paired["low"]


def test_three_seeds_are_one_statement(tmp_path, capsys):
    runs = [run_of(tmp_path, f"s{seed}", lambda i, seed=seed: i < 40 + 4 * seed, seed=seed) for seed in range(3)]
    found = compared(capsys, *runs)
    [seeds] = found["seeds"]
    assert seeds["seeds"] == [0, 1, 2] and seeds["arms"]["trained"] == [0.5, 0.55, 0.6]
    assert seeds["vs_raw"]["trained"]["difference"] == pytest.approx(0.3)
    assert compared(capsys, *runs[:2])["seeds"] == []


def test_one_teacher_over_students_and_tasks(tmp_path, capsys):
    runs = [
        run_of(tmp_path, f"{model}-{task}", lambda i: i < 60, model=model, task=task)
        for model in ("small", "large")
        for task in ("gsm8k", "svamp")
    ]
    runs.append(run_of(tmp_path, "another", lambda i: i < 60, sha="bb" * 32))
    [table] = compared(capsys, *runs)["transfer"].values()
    assert {student: list(tasks) for student, tasks in table.items()} == {"small": ["gsm8k", "svamp"], "large": ["gsm8k", "svamp"]}
    assert table["small"]["svamp"].startswith("+50.0%")
    assert main(runs) == 0
    assert "transfer of teacher aaaaaaaa: trained - raw" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_line(tmp_path, capsys):
    run = run_of(tmp_path, "a", lambda i: i < 40)
    for arguments, message in [
        ([run], "give at least two directories"),
        ([run, str(tmp_path)], "holds no summary.json; measure it first"),
        ([run, run, "--arm=oracle"], "has no arm 'oracle'; it has: raw, trained"),
        ([run, run, "--alpha=2"], "--alpha=2: must be a finite number"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error
