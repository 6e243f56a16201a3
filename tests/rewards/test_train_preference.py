"""`python -m rewards.train_preference`: learns pairs it can learn, splits them honestly, names what is wrong with a file."""

from __future__ import annotations

import json
import random

import pytest

from rewards.train_preference import FACTS, half_of, load_pairs, main
from tasks.hh_rlhf import TEST_FILES, TRAIN_FILES
from tests.requirements import need


@pytest.fixture
def pairs_file(tmp_path):
    """300 pairs whose preferred answer says please."""
    rng = random.Random(0)
    words = "red green blue one two three four five six".split()
    rows = []
    for i in range(300):
        text = " ".join(rng.choices(words, k=4))
        rows.append({"prompt": f"question {i} {rng.choice(words)}?", "chosen": f"{text} please", "rejected": f"{text} never"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_from_scratch_it_learns_a_plain_preference(pairs_file, tmp_path, capsys):
    out = tmp_path / "rm"
    flags = ["--epochs", "6", "--learning-rate", "3e-3", "--batch-size", "16", "--hidden", "64", "--layers", "1", "--vocabulary", "400"]
    assert main(["--scratch", "--pairs", str(pairs_file), "--out", str(out), *flags]) == 0
    facts = json.loads((out / FACTS).read_text())
    held_out = facts["held_out"]["all"]
    assert held_out["accuracy"] > 0.9 and held_out["low"] < held_out["accuracy"] <= held_out["high"]
    assert facts["training_pairs"] + held_out["n"] == 300 and 15 < held_out["n"] < 50
    assert held_out["longer_wins"] == 1.0  # "please" is longer than "never": the file says so itself
    assert not (out / "trainer").exists() and "held-out pairs" in capsys.readouterr().out
    # What was trained can be trained on, and an occupied folder is refused.
    assert main(["--base", str(out), "--pairs", str(pairs_file), "--out", str(tmp_path / "rm2"), "--limit", "32", "--half", "1"]) == 0
    assert main(["--scratch", "--pairs", str(pairs_file), "--out", str(out)]) == 2


def test_halves_share_no_question_and_held_out_pairs_none_with_either(pairs_file):
    train, held_out = load_pairs(str(pairs_file))
    halves = [half_of(train, half) for half in (0, 1)]
    questions = [{pair.messages[0].content for pair in pairs} for pairs in (*halves, held_out)]
    assert len(halves[0]) + len(halves[1]) == len(train) and min(map(len, halves)) > 0.4 * len(train)
    assert not questions[0] & questions[1] and not (questions[0] | questions[1]) & questions[2]


def test_hh_rlhf_trains_on_online_and_sampled_and_is_measured_on_the_base_sets():
    need("data")
    train, held_out = load_pairs("hh_rlhf")
    assert {pair.family for pair in train} == set(TRAIN_FILES) and {pair.family for pair in held_out} == set(TEST_FILES)
    assert (len(train), len(held_out)) == (3848, 4664)
    assert not {pair.messages[0].content for pair in train} & {pair.messages[0].content for pair in held_out}
    assert all(pair.chosen != pair.rejected for pair in (*train, *held_out))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (['{"prompt": "q", "chosen": "a"}'], r"bad\.jsonl:1: field 'rejected' is missing"),
        (['{"prompt": "q", "chosen": "a", "rejected": "b"}', "{"], r"bad\.jsonl:2: not JSON"),
        (['{"chosen": [{"role": "robot", "content": "x"}], "rejected": []}'], r"bad\.jsonl:1: field 'chosen' is no list"),
        (['{"chosen": "hello", "rejected": "hello"}'], r"bad\.jsonl:1: the dialogue does not open with a human turn"),
        (['{"prompt": "q", "chosen": "a", "rejected": "a"}'], "need some of both"),
        ([], "holds no pair"),
    ],
)
def test_faulty_pairs_are_named(tmp_path, capsys, rows, reason):
    import re

    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(rows))
    assert main(["--scratch", "--pairs", str(path), "--out", str(tmp_path / "out")]) == 2
    assert re.search(reason, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--hidden", "100"], "multiple of 64"),
        (["--epochs", "0"], "above 0"),
        (["--limit", "0"], "--limit=0: must be above 0"),
        (["--limit", "-3"], "--limit=-3: must be above 0"),
        (["--pairs", "nowhere.jsonl"], "no such file"),
    ],
)
def test_bad_flags_exit_2_with_a_line(tmp_path, capsys, flags, reason):
    assert main(["--scratch", "--out", str(tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_dialogues_as_lists_of_messages_are_read(tmp_path):
    path = tmp_path / "p.jsonl"
    asked = {"role": "user", "content": "q"}
    rows = [{side: [asked, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from tasks.own_pairs import read_pairs

    (pair,) = read_pairs(path)
    assert (pair.messages[0].content, pair.chosen, pair.rejected) == ("q", "chosen", "rejected")


def test_a_half_that_no_pair_falls_into_is_named(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"question {i}", "chosen": "a", "rejected": "b"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held_out = load_pairs(str(path))
    kept = [*half_of(train, 0)[:1], *held_out]
    rows = [{"prompt": pair.messages[0].content, "chosen": "a", "rejected": "b"} for pair in kept]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["--scratch", "--pairs", str(path), "--out", str(tmp_path / "out"), "--half", "1"]) == 2
    error = capsys.readouterr().err
    assert "--half=1: none of the 1 training pairs" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
