"""The graders on real data: every row's own solution, its gold in a box, and another row's answer; real labelled outputs.

The fast path is off: equal spelling does not count, algebra has to find the two equal.
"""

import gzip
import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards.correctness import Grader
from rewards.worker_pool import WorkerPool
from tasks.gsm8k_answer import equal, extract, gold_number

NO_GOLD = {"train/number_theory/7115.json", "train/number_theory/7117.json"}
"""The last box is empty."""
LAST_BOX_IS_NOT_THE_GOLD = {"test/prealgebra/177.json"}
"""Uses boxes as notation; the gold was set by hand."""
EQUAL_ANSWERS = {
    ("6", r"6\%"), ("4", "x=4"), (r"\frac{1}{2}", r"\frac12"), (r"12 \text{ gm}", "12"), ("3", r"3\text{ cm}"), (r"7 \text{ days}", "7"),
    ("k=3", "3"), (r"40^\circ", "40"), ("45", r"45^\circ"),
}  # fmt: skip
"""Answers of two rows that are spelled differently and are the same but for a unit, a percent sign or a name."""


def rows_of(folder, name):
    path = folder / "math" / name
    with gzip.open(path, "rt") if name.endswith("gz") else path.open() as lines:
        return [json.loads(line) for line in lines]


def check_math(rows, others, pool):
    """(ids where the solution's answer is not the gold, ids where the boxed gold is not, accepted pairs of different rows)."""
    grader = Grader(pool, fast=False)

    def one(numbered):
        number, row = numbered
        gold = row["answer"]
        other = others[random.Random(number).randrange(len(others))]["answer"]
        boxed = grader.grade("math", gold, f"\\boxed{{{gold}}}", strict=True).correct
        solved = grader.grade("math", gold, row["solution"], strict=True).correct
        return boxed, solved, (gold, other), gold != other and grader.grade("math", gold, f"\\boxed{{{other}}}", strict=True).correct

    with ThreadPoolExecutor(3) as threads:
        outcomes = list(threads.map(one, enumerate(rows)))
    unboxed = {row["unique_id"] for row, outcome in zip(rows, outcomes) if outcome[0] is not True}
    unsolved = {row["unique_id"] for row, outcome in zip(rows, outcomes) if outcome[1] is not True}
    return unsolved, unboxed, {outcome[2] for outcome in outcomes if outcome[3] is not False}


def test_math500_against_itself(data_dir, pool):
    rows = rows_of(data_dir, "math500_test.jsonl")
    unsolved, unboxed, accepted = check_math(rows, rows, pool)
    assert (len(rows), unsolved, unboxed) == (500, set(), set())
    assert accepted <= EQUAL_ANSWERS | {("3", r"\$3")}


@pytest.mark.slow
def test_all_of_math_against_itself(data_dir):
    rows = [row for name in ("math500_test.jsonl", "test_without_math500.jsonl.gz", "train.jsonl.gz") for row in rows_of(data_dir, name)]
    usable = [row for row in rows if row["answer"] is not None]
    assert {row["unique_id"] for row in rows} - {row["unique_id"] for row in usable} == NO_GOLD
    assert len(usable) == 12_498
    pool = WorkerPool(2)
    unsolved, unboxed, accepted = check_math(usable, usable, pool)
    pool.close()
    assert unboxed == set()
    assert unsolved == LAST_BOX_IS_NOT_THE_GOLD
    assert accepted <= EQUAL_ANSWERS


def gsm8k_rows(folder):
    for split in ("train", "test"):
        with gzip.open(folder / "gsm8k" / f"{split}.jsonl.gz", "rt") as lines:
            yield from (json.loads(line)["answer"] for line in lines)


def test_gsm8k_against_itself(data_dir, pool):
    answers, grader = list(gsm8k_rows(data_dir)), Grader(pool)
    golds = [answer.rpartition("####")[2].strip() for answer in answers]
    assert len(answers) == 8792
    for answer, gold in zip(answers, golds):
        for output in (answer, f"\\boxed{{{gold}}}", f"The answer is ${gold}."):
            assert grader.grade("number", gold, output, strict=True).correct is True, (gold, output)
        assert grader.grade("math", gold, f"\\boxed{{{gold}}}").correct is True
    rng = random.Random(0)
    for gold in golds:
        other = rng.choice(golds)
        if other.replace(",", "") != gold.replace(",", ""):
            assert grader.grade("number", gold, f"#### {other}", strict=True).correct is False, (gold, other)


def test_labels_of_real_outputs(data_dir):
    """All 5,276 labels are reproduced; the issue asks for 99.9 %."""
    agree = total = 0
    with gzip.open(data_dir / "gsm8k" / "example_model_solutions.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            gold = gold_number(row["ground_truth"])
            for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
                found = extract(row[model]["solution"], strict=True)
                agree += (found is not None and equal(found, gold)) == row[model]["is_correct"]
                total += 1
    assert (agree, total) == (5276, 5276)
