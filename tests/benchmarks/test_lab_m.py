"""lab-m's script: what it may import, its sizes, and what its report makes of kept answers."""

import json
import sys

import pytest
import torch

from benchmarks import lab_m, lab_m_report
from lab.prose_models import new_model
from tests.source_tree import imports_of

FILES = (
    "benchmarks/lab_m.py",
    *(f"lab/prose_{part}.py" for part in ("world", "texts", "corpus", "models", "teacher")),
    "lab/shapes.py",
    "lab/tokenizer.py",
)
ALONE = {"torch", "transformers", "tokenizers", "lab", *sys.stdlib_module_names}


def test_it_needs_torch_and_transformers_alone():
    found = {(file, one.module) for file in FILES for one in imports_of(file) if one.top not in ALONE}
    assert found == {("benchmarks/lab_m.py", "benchmarks.lab_m_report.report")}, "the report alone needs the project's environment"
    of_lab = {one.module for file in FILES for one in imports_of(file) if one.top == "lab"}
    assert all(name.startswith(("lab.prose_", "lab.shapes", "lab.tokenizer")) for name in of_lab)


@pytest.mark.parametrize(("size", "student", "teacher"), [("full", (20e6, 30e6), (1e6, 3e6)), ("small", (0.5e6, 1e6), (0.1e6, 0.3e6))])
def test_models_are_of_the_size_that_they_should_be(size, student, teacher):
    class Tokenizer:
        eos_token_id = pad_token_id = 0

        def __len__(self):
            return lab_m.SIZES[size].vocabulary

    for shape, (least, most) in ((lab_m.SIZES[size].student, student), (lab_m.SIZES[size].teacher, teacher)):
        bare = lab_m.Shape(shape.hidden, shape.layers, shape.mlp, 0, 1e-3, 1, 1, 1)
        with torch.device("meta"):
            assert least < sum(p.numel() for p in new_model(bare, Tokenizer()).parameters()) <= most


def kept(folder, arm, seed, questions, golds, answers, instructions):
    ids = [str(i) for i in range(len(golds))]
    queries = ["3 cups and 4 more?"] * len(golds)
    data = {"ids": ids, "queries": queries, "families": ["total"] * len(golds), "golds": golds, "answers": answers}
    (folder / f"{arm}-{seed}-{questions}.json").write_text(json.dumps({**data, "instructions": instructions}))


def test_rows_say_what_was_right_and_a_mean_over_seeds_is_by_question(tmp_path):
    golds = ["7"] * 4
    kept(tmp_path, "raw", None, "templates", golds, ["#### 7", "#### 8", "none", "#### 9"], [""] * 4)
    kept(tmp_path, "trained", 0, "templates", golds, ["#### 7", "#### 7", "#### 7", "#### 9"], ["Add.", "The answer is 7.", "Add.", ""])
    kept(tmp_path, "trained", 1, "templates", golds, ["#### 1", "#### 7", "#### 7", "#### 9"], ["Add."] * 4)
    grader = lab_m_report.Grader()
    found = {seed: lab_m_report.graded(tmp_path / f"trained-{seed}-templates.json", grader) for seed in (0, 1)}
    raw = lab_m_report.graded(tmp_path / "raw-None-templates.json", grader)
    assert raw["scores"] == [1.0, 0.0, 0.0, 0.0] and raw["silence"] == 1.0
    assert found[0]["scores"] == [1.0, 1.0, 1.0, 0.0] and (found[0]["leaks"], found[0]["silence"], found[0]["distinct"]) == (0.25, 0.25, 3)
    rows = [lab_m_report.row("raw", None, "templates", raw, raw["scores"])]
    rows += [lab_m_report.row("trained", seed, "templates", found[seed], raw["scores"]) for seed in (0, 1)]
    assert [row["right"][0] for row in rows] == [0.25, 0.75, 0.5]
    assert rows[2]["gain"][0] == 0.25 and rows[2]["harm"] == 0.25 and rows[1]["harm"] == 0.0
    mean = lab_m_report.over_seeds(rows, "trained", "templates")
    assert mean["seeds"] == 2 and mean["right"][0] == 0.625 and mean["gain"][0] == 0.375
    assert lab_m_report.over_seeds(rows, "trained", "gsm8k") is None
    about = {"size": "small", "parameters": {"student": 1000, "teacher": 10}, "device": "a CPU", "cpu_s": 120.0, "best_static": "Add."}
    text = lab_m_report.table(rows, about)
    assert "| trained | warm start and GRPO, mean of 2 seeds | 62.5 (" in text and "trained by seed: 75.0, 50.0" in text
    assert {arm for arm, _, _ in lab_m.cells()} == set(lab_m_report.ABOUT) and len(set(lab_m.cells())) == len(lab_m.cells())


def test_no_data_is_a_wrong_setting(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WST_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["lab_m", "--size", "tiny", "--folder", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        lab_m.main()
    assert ended.value.code == 2 and "WST_DATA_DIR" in capsys.readouterr().err and not (tmp_path / "out").exists()
