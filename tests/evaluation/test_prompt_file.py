"""Files of instructions: plain text, DSPy programs, GEPA results, and what is none of them."""

import json

import pytest

from evaluation.prompt_file import read_prompt
from exchange.settings import SettingError

SIGNATURE = {"instructions": "Solve it.", "fields": [{"prefix": "Question:", "description": "${question}"}]}
PREDICTOR = {"traces": [], "train": [], "demos": [], "signature": SIGNATURE, "lm": None}


@pytest.mark.parametrize(
    "data",
    [
        {"predict": PREDICTOR, "metadata": {"dependency_versions": {"dspy": "3.3.1"}}},
        {**PREDICTOR, "metadata": {"dependency_versions": {"dspy": "3.3.1"}}},
        {"system_prompt": "Solve it."},
        {"candidates": [{"p": "Bad."}, {"p": "Solve it."}], "val_aggregate_scores": [0.1, 0.7], "best_idx": 1},
        {"candidates": [{"p": "Bad."}, {"p": "Solve it."}], "val_aggregate_scores": [0.1, 0.7]},
    ],
)
def test_the_instruction_is_found(tmp_path, data):
    path = tmp_path / "program.json"
    path.write_text(json.dumps(data))
    assert read_prompt(path, "x") == "Solve it."


def test_plain_text_is_the_instruction(tmp_path):
    (tmp_path / "p.txt").write_text(" Think.\n")
    assert read_prompt(tmp_path / "p.txt", "x") == "Think."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", json.dumps({"one": PREDICTOR, "two": {**PREDICTOR, "signature": {"instructions": "Other."}}}), "holds 2 instructions"),
        ("a.json", "[1, 2]", "holds 0 instructions"),
        ("a.json", '{"a": ', "not JSON"),
        ("a.txt", "  \n", "is empty"),
        ("a.txt", None, "no such file"),
    ],
)
def test_what_is_no_instruction_is_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SettingError, match=message) as error:
        read_prompt(tmp_path / name, "eval.arms.x.file")
    assert "eval.arms.x.file" in str(error.value) and "\n" not in str(error.value)
