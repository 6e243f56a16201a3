"""`python -m weak_to_strong.misfit` as a user meets it: its JSON, its report, and every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weak_to_strong.misfit import main


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 5))
    truth = features @ rng.normal(size=5) + 1
    return {"features": features, "weak": truth + np.tanh(features[:, 0] * 2) + rng.normal(size=300) / 2, "truth": truth}


def saved(folder: Path, name: str = "teacher", **held: Any) -> str:
    np.savez(folder / f"{name}.npz", **held)
    return str(folder / f"{name}.npz")


def test_the_contract(arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--arrays", saved(tmp_path, **arrays), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    design = np.column_stack([arrays["features"], np.ones(300)])
    student = design @ np.linalg.lstsq(design, arrays["weak"], rcond=None)[0]
    misfit = float(((student - arrays["weak"]) ** 2).mean())
    gain = float(((arrays["weak"] - arrays["truth"]) ** 2).mean() - ((student - arrays["truth"]) ** 2).mean())
    assert found["n"] == 300
    assert found["misfit"]["value"] == pytest.approx(misfit, rel=1e-9) and found["gain"]["value"] == pytest.approx(gain, rel=1e-9)
    assert abs(found["slack"]["value"]) < 1e-10
    for name in ("misfit", "gain", "slack"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found["verdict"]["theorem"] == "gain = misfit"


def test_several_columns_are_summed(arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = {**arrays, "weak": np.stack([arrays["weak"]] * 2, 1), "truth": np.stack([arrays["truth"]] * 2, 1)}
    values = []
    for held in (arrays, twice):
        assert main(["--arrays", saved(tmp_path, **held), "--json"]) == 0
        values.append(json.loads(capsys.readouterr().out)["misfit"]["value"])
    assert values[1] == pytest.approx(2 * values[0])


def test_without_truth_it_is_misfit_and_not_a_gain(arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays.pop("truth")
    assert main(["--arrays", saved(tmp_path, **arrays), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gain"] is None and found["slack"] is None and found["note"] == "misfit (not a gain): there is no truth"
    assert main(["--arrays", saved(tmp_path, **arrays)]) == 0
    assert "this is misfit and not a gain" in capsys.readouterr().out


def test_a_violation_is_said(arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--arrays", saved(tmp_path, **arrays), "--head.kind=ridge", "--head.penalty=5000"]) == 0
    text = capsys.readouterr().out
    assert "INEQUALITY VIOLATED: gain < misfit" in text and "a penalised fit is no projection" in text


def test_several_teachers_are_ranked_and_written(arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    files = [saved(tmp_path, f"t{i}", **{**arrays, "weak": arrays["truth"] + i * rng.normal(size=300) + 0.3 * i}) for i in (1, 2, 3)]
    out = tmp_path / "out"
    assert main(["--arrays", *files, f"--out={out}"]) == 0
    assert "| t1 |" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert [row["name"] for row in summary["ranking"]] == ["t1", "t2", "t3"]
    assert {"weak_error", "misfit", "predicted", "student_error"} <= set(summary["ranking"][0])
    assert (out / "report.md").exists() and (out / "misfit.svg").read_text().startswith("<svg")


def test_given_outputs_of_a_student_need_no_features(arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = {"student": arrays["truth"], "weak": arrays["weak"], "truth": arrays["truth"]}
    assert main(["--arrays", saved(tmp_path, **held), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gain"]["value"] == pytest.approx(found["misfit"]["value"]) and found["verdict"]["theorem"] is None


def test_held_out_rows_carry_no_theorem(arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--arrays", saved(tmp_path, **arrays), "--json", "--held_out=0.3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 90 and found["verdict"]["theorem"] is None


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({"weak": np.zeros(299)}, (), "rows do not match: features has 300, weak has 299, truth has 300"),
        ({"truth": np.zeros((300, 2)) + np.arange(300)[:, None]}, (), "columns do not match"),
        ({"weak": np.ones(300)}, (), "one class only"),
        ({"truth": np.ones(300)}, (), "one class only"),
        ({"weak": np.full(300, np.nan)}, (), "300 of 300 values are NaN"),
        ({"weak": np.array(["yes"] * 300)}, (), "not numbers"),
        ({"features": np.ones((300, 5))}, (), "every column is constant"),
        ({"features": np.arange(300.0)[:, None] * np.array([[1.0, 2.0]])}, (), "ill-conditioned"),
        ({"features": np.zeros(300)}, (), "expected (N, D)"),
        ({"labels": np.zeros(300)}, (), "holds an array 'labels'"),
        ({}, ("--loss=forward_kl",), "a KL loss needs probabilities"),
        ({}, ("--head.kind=ball",), "the ball needs a radius"),
        ({}, ("--head.knid=ball",), "did you mean head.kind?"),
        ({}, ("--held_out=0.999",), "leaves"),
        ({}, ("--out=/proc/nowhere",), "cannot be written"),
    ],
)
def test_bad_input_is_one_line(
    arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], flags: tuple[str, ...], message: str
) -> None:
    assert main(["--arrays", saved(tmp_path, **{**arrays, **change}), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    for name, message in (("text.npz", "not an .npz file"), ("bare.npy", "not an .npz file"), ("none.npz", "No such file")):
        assert main(["--arrays", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "texts.jsonl").write_text('{"text": "a", "weak": 0}\n{"text": "b", "weak": 1}\n')
    assert main([f"--data={tmp_path / 'texts.jsonl'}", "--model=/none/such"]) == 2
    assert "model='/none/such': cannot be loaded" in capsys.readouterr().err
    assert main([]) == 2
    assert "--arrays" in capsys.readouterr().err


def test_texts_get_features_from_a_model_and_are_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"text": f"Tom has {a} apples and {b} pears.", "weak": float(a + rng.normal()), "truth": float(a)}
        for a, b in rng.integers(2, 40, (160, 2))
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    flags = [f"--data={file}", "--model=lab:arithmetic/teacher", "--head.kind=ridge", "--json", f"--out={out}"]
    assert main(flags) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["n"] == 160 and first["misfit"]["value"] > 0
    assert first["gain"]["value"] < 0 and first["verdict"]["violated"], "the tiny teacher's state at the full stop has forgotten the number"
    before = (out / "features.npz").stat().st_mtime_ns
    assert main(flags) == 0
    assert json.loads(capsys.readouterr().out) == first and (out / "features.npz").stat().st_mtime_ns == before
    file.write_text('{"text": "a", "weak": 1}\n{"text": "b"}\n')
    assert main(flags) == 2
    assert ":2: field 'weak' is missing" in capsys.readouterr().err


def test_misfit_is_followed_in_training(tmp_path: Path) -> None:
    """A model that is trained on the weak texts comes to repeat them: its misfit falls from the first step on."""
    from weak_to_strong.fine_tuning import FineTuneConfig, fine_tune
    from weak_to_strong.misfit_callback import misfit_callback, text_misfit
    from weak_to_strong.run import StrongConfig

    strong = StrongConfig(model="lab:arithmetic/student")
    rows = [
        {"prompt": [{"role": "user", "content": f"Tom has {n} apples."}], "completion": [{"role": "assistant", "content": f"#### {n}"}]}
        for n in range(2, 34)
    ]
    from teacher.policy import load_model

    _, tokenizer = load_model(strong.model)
    texts = [
        {
            "prompt": tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False),
            "completion": row["completion"][0]["content"],
        }
        for row in rows
    ]
    seen: list[tuple[int, float]] = []
    callback = misfit_callback(lambda model: text_misfit(model, tokenizer, texts), lambda step, value: seen.append((step, value)), every=2)
    config = FineTuneConfig(epochs=2, batch_size=8, learning_rate=1e-3).resolved(strong)
    fine_tune(strong.model, rows, config, strong, seed=0, out=tmp_path / "out", work=tmp_path / "work", callbacks=[callback])
    assert [step for step, _ in seen] == [0, 2, 4, 6, 8]
    assert seen[-1][1] < seen[0][1] / 2
    model, _ = load_model(str(tmp_path / "out"))
    assert text_misfit(model, tokenizer, texts) == pytest.approx(seen[-1][1], rel=1e-3)


def test_a_training_that_is_gone_on_with_is_measured_where_an_unbroken_one_is() -> None:
    from types import SimpleNamespace

    from weak_to_strong.misfit_callback import misfit_callback

    def measured(*steps: int) -> list[int]:
        seen: list[int] = []
        callback = misfit_callback(lambda model: 1.0, lambda step, value: seen.append(step), every=2)
        for name, step in zip(("on_train_begin", *(["on_step_end"] * (len(steps) - 2)), "on_train_end"), steps, strict=True):
            getattr(callback, name)(None, SimpleNamespace(global_step=step), None)
        return seen

    assert measured(0, 1, 2, 3, 4, 5, 5) == [0, 2, 4, 5]
    assert measured(3, 4, 5, 5) == [4, 5]
