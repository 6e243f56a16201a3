"""Number extraction on real golds and real model outputs; faulty files."""

import gzip
import json

import pytest

from exchange.settings import SettingError
from tasks import gsm8k
from tasks.gsm8k_answer import equal, extract, gold_number


def test_every_gold_of_the_real_files_is_found_in_its_own_solution(data_dir):
    counts = {}
    for split in ("train", "validation", "test"):
        examples = gsm8k.load(split, path=str(data_dir / "gsm8k"))
        counts[split] = len(examples)
        for example in examples:
            assert equal(extract(example.reference, strict=True), gold_number(example.gold)), example.id
    assert counts == {"train": 6726, "validation": 747, "test": 1319}


def test_strict_rule_reproduces_the_labels_of_real_model_outputs(data_dir):
    agree = total = 0
    with gzip.open(data_dir / "gsm8k" / "example_model_solutions.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            gold = gold_number(row["ground_truth"])
            for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
                output = row[model]
                extracted = extract(output["solution"], strict=True)
                agree += (extracted is not None and equal(extracted, gold)) == output["is_correct"]
                total += 1
    assert total == 5276
    assert agree / total >= 0.999


@pytest.mark.parametrize(
    ("text", "flexible", "strict"),
    [
        ("so 1,234 in all\n#### 1,234", "1234", "1234"),
        ("#### -5", "-5", "-5"),
        ("#### $18.50", "18.5", "18.5"),
        ("The answer is 42.", "42", "42"),
        ("\\boxed{7} apples", "7", "7"),
        ("She has 3 and then 4", "4", None),
        ("no number here", None, None),
        ("#### \n", None, None),
        ("5 #### none", "5", None),
        ("1" * 200, None, None),
        ("#### " + "1" * 31, "1" * 31, "1" * 31),
        ("#### 0." + "3" * 40, "0." + "3" * 40, "0." + "3" * 40),
        ("-\t5 apples", "5", None),
        ("#### -\r\n5", "5", "5"),
        ("---\n42", "42", None),
        ("Final answer:\n- 42", "42", "42"),
        ("#### -$1,250.50", "-1250.5", "-1250.5"),
        ("#### −7", "-7", "-7"),
        ("10-4=6", "6", None),
        ("#### 007", "7", "7"),
        ("#### -0", "0", "0"),
        ("so .50 each", "0.5", None),
        ("", None, None),
    ],
)
def test_extraction(text, flexible, strict):
    assert extract(text) == flexible
    assert extract(text, strict=True) == strict


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "q", "answer": "#### 1"}\n{"question": 3}\n', "train.jsonl:2: field 'question' is missing or not text"),
        ('{"question": "q", "answer": "none"}\n', "train.jsonl:1: the answer has no number after ####"),
        ("{broken\n", "train.jsonl:1: not JSON"),
        ("[1]\n", "train.jsonl:1: expected a JSON object, found list"),
        ("", "the train split is empty"),
    ],
)
def test_faulty_files_are_named_with_their_line(tmp_path, content, message):
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(SettingError, match="train") as caught:
        gsm8k.load("train", path=str(tmp_path))
    assert message in str(caught.value)


def test_a_missing_folder_and_a_folder_without_the_file_say_what_to_do(tmp_path):
    with pytest.raises(SettingError, match=r"task.path=.*no such folder"):
        gsm8k.load("train", path=str(tmp_path / "none"))
    with pytest.raises(SettingError, match=r"neither test.jsonl.gz nor test.jsonl"):
        gsm8k.load("test", path=str(tmp_path))
