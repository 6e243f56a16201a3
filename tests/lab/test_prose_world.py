"""lab-m's questions and documents: right golds, thousands of templates, and nothing of the test split or of which procedure fits."""

import gzip
import json
import random
import re
from collections import Counter

import pytest

from exchange.compose import compose
from exchange.records import Instruction, PublicExample
from lab import prose_corpus as corpus
from lab.prose_texts import FAMILIES, FRAMES
from lab.prose_world import (
    HABIT,
    NAMES,
    NUMBERS,
    PROCEDURES,
    TEST_NAMES,
    all_advice,
    answer,
    draw,
    load,
    templates,
    work,
)
from rewards.correctness import Grader

GOLDS = {
    "total": lambda a, b: a + b,
    "growth": lambda a, b: a + b,
    "left": lambda a, b: abs(a - b),
    "compare": lambda a, b: abs(a - b),
    "groups": lambda a, b: a * b,
    "price": lambda a, b: a * b,
    "share": lambda a, b: max(a, b) / min(a, b),
    "packs": lambda a, b: max(a, b) / min(a, b),
    "average": lambda a, b: (a + b) / 2,
    "round": lambda a, b: 2 * (a + b),
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of data sets with a few rows of each kind."""

    def legs(i):
        return {"question": f"Ada has {i} cows. How many legs?", "answer": f"4*{i}=<<4*{i}={4 * i}>>{4 * i}\n#### {4 * i},000"}

    rows = {
        "gsm8k/train": [legs(i) for i in range(9)],
        "gsm8k/test": [{"question": "How many?", "answer": "1+1=<<1+1=2>>2\n#### 2"}],
        "math/train": [
            {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "answer": "2"},
            {"problem": "[asy] draw [/asy]", "solution": "x", "answer": None},
        ],
    }
    for name, lines in rows.items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    monkeypatch.setenv("WST_DATA_DIR", str(tmp_path))
    corpus.real_text.cache_clear()
    yield tmp_path
    corpus.real_text.cache_clear()


def numbers_of(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def test_every_family_asks_for_what_its_gold_says():
    rng = random.Random(0)
    seen = Counter()
    for i in range(1500):
        asked = draw(rng, test=i % 2 == 0, uniform=True)
        first, second = numbers_of(asked.text)
        assert (max(first, second), min(first, second)) == (asked.big, asked.small)
        assert asked.gold == GOLDS[asked.family](first, second), asked
        assert not asked.text[0].islower() and asked.text.endswith("?") and "{" not in asked.text
        seen[asked.family, first > second] += 1
    assert len(seen) == 2 * len(FAMILIES), "both orders of the numbers in every family"


def test_answers_end_in_their_result_and_every_step_is_right():
    for procedure in PROCEDURES:
        for big, small in NUMBERS:
            text = answer(procedure, big, small)
            for step in text.split("\n")[:-1]:
                left, sign, right, _, result = step.split(" ")
                found = {
                    "+": int(left) + int(right),
                    "-": int(left) - int(right),
                    "x": int(left) * int(right),
                    "/": int(left) // int(right),
                }
                assert found[sign] == int(result)
            assert text.endswith(f"= {result}\n#### {work(procedure, big, small)[1]}")


def test_there_are_thousands_of_templates_and_a_fifth_of_them_is_the_test_splits():
    sides = {test: [t for family in FAMILIES for t in templates(family, test=test)] for test in (False, True)}
    every = [t.skeleton for side in sides.values() for t in side]
    assert len(every) == len(set(every)) > 3000
    assert 0.17 < len(sides[True]) / len(every) < 0.23
    assert all(templates(family, test=True) for family in FAMILIES)


def test_splits_share_no_question_and_the_oracle_is_right_in_words_that_were_held_out():
    splits = {split: load(split, 150) for split in ("train", "validation", "test")}
    queries = [row.query for rows in splits.values() for row in rows]
    assert len(queries) == len(set(queries))
    assert splits["test"] == load("test", 200)[:150]
    advice = {a.text: a for a in all_advice()}
    assert len(advice) == len(all_advice()) > 300
    for row in splits["test"]:
        assert advice[row.oracle].held_out
        first, second = numbers_of(row.query)
        assert answer(advice[row.oracle].procedure, max(first, second), min(first, second)).endswith(f"#### {row.gold}")


def test_the_habit_is_right_on_a_third_of_the_questions_and_no_procedure_on_more():
    rows = load("test", 600)
    share = Counter()
    for row in rows:
        first, second = numbers_of(row.query)
        for procedure in PROCEDURES:
            share[procedure] += answer(procedure, max(first, second), min(first, second)).endswith(f" {row.gold}")
    assert 0.25 < share[HABIT] / len(rows) < 0.42
    assert max(share.values()) == share[HABIT]


def test_composer_and_grader_are_the_projects():
    from lab.prose_teacher import HIDDEN, right
    from teacher import prompt

    for text in ("", "Add the two numbers.", "{query}"):
        example = PublicExample(id="", task="lab_m", split="test", query="How many {instruction}?")
        assert corpus.compose(example.query, text) == compose(example, Instruction(text=text, source="static"))[-1].content
    assert prompt.HIDDEN == HIDDEN
    grader = Grader()
    answers = ("1 + 1 = 2\n#### 2", "#### 3", "#### 1,200", "#### $1200", "#### 2.0", "#### -2", "#### two", "2", "#### 5\n#### 2")
    for text in answers:
        for gold in ("2", "1200", "-2"):
            assert right(text, gold) == bool(grader.grade("number", gold, text, strict=True).correct), (text, gold)


def test_what_the_student_reads_says_nothing_of_which_procedure_fits(data):
    rng = random.Random(0)
    by_text = {a.text: a for a in all_advice()}
    held_out = {a.text for a in all_advice() if a.held_out}
    fitting = Counter()
    for _ in range(3000):
        document = corpus.student_document(rng, real=0.05)
        said = document.asked.partition("<advice>\n")[2].partition("\n</advice>")[0]
        assert said not in held_out
        assert not set(re.findall(r"[A-Z][a-z]+", document.asked)) & set(TEST_NAMES)
        if said in by_text and len(found := numbers_of(document.asked)) == 2 and "?" in document.asked:
            assert document.answered == answer(by_text[said].procedure, max(found), min(found))
            if by_text[said].procedure != "steps":
                fitting[by_text[said].procedure] += 1
    assert min(fitting.values()) > 0.7 * max(fitting.values())


def test_real_text_is_answered_at_once_unless_steps_are_asked_for(data):
    rng = random.Random(1)
    made = [corpus.real_document(rng) for _ in range(300)]
    stepwise = [d for d in made if "<advice>" in d.asked]
    assert stepwise and all(d.answered.startswith("4*") and "<<" not in d.answered for d in stepwise)
    bare = Counter(d.answered.startswith("#### ") for d in made if d.asked.startswith("Ada"))
    assert bare[True] > 3 * bare[False] > 0
    assert corpus.gsm8k("train")[2].final == "8000"
    assert not any("asy" in d.asked for d in made)


def test_a_missing_data_folder_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("WST_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"WST_DATA_DIR=.*gsm8k/train.jsonl.gz"):
        corpus.data_folder()


def test_the_tokenizer_gives_any_text_back_and_a_number_below_100_is_one_token(data, tmp_path):
    from lab.prose_models import chat
    from lab.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(corpus.tokenizer_corpus(300), 1200, tmp_path / "tokenizer")
    odd = ["naïve café — 12½ 千 £1,234.50\n\t  x", "def f(x):\n    return x**2", *NAMES, *TEST_NAMES, *FRAMES]
    for text in (*odd, *(row.query for row in load("test", 30)), *(a.text for a in all_advice())):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert all(len(tokenizer(str(number))["input_ids"]) == 1 for number in range(100))
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "How many?"}], add_generation_prompt=True, tokenize=False)
    assert turn == chat("How many?")
