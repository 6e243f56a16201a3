"""The command as a user meets it: bad settings, a plan that asks nothing, a whole run, a broken-off one, everything filtered away."""

from __future__ import annotations

import errno
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from exchange.command import RunError
from exchange.settings import SettingError, load, parse_flags, parse_known
from student_clients.ledger import StudentStats
from teacher.run_directory import RunDirectory, asked_for, command_parser, unsaved_weights
from teacher.train import StopSignal
from weak_to_strong.agreement import Pool
from weak_to_strong.run import Run, carry_out
from weak_to_strong.two_stage import main
from weak_to_strong.two_stage_config import TwoStageConfig, resolve

SMALL = [
    "--task.name=lab_arithmetic", "--task.validation_size=20", "--weak.model=lab:arithmetic/student",
    "--strong.model=lab:arithmetic/student_b", "--questions=40", "--eval.n=12", "--fine_tune.watch=4", "--fine_tune.epochs=1",
    "--stage_two.samples=4", "--stage_two.keep=0.5",
    "--stage_one.compare=false", "--strong.max_tokens=24", "--weak.max_tokens=24",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _runs_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))


def weak_file(folder: Path, texts: list[str]) -> str:
    """Recorded weak answers to the first training questions."""
    path = folder / "weak.jsonl"
    path.write_text(
        "".join(
            json.dumps({"example_id": f"lab-train-{i}", "completion": text, "finish_reason": "stop"}) + "\n" for i, text in enumerate(texts)
        )
    )
    return str(path)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--stage_one.trained_on=both"], "stage_one.trained_on='both'"),
        (["--preference.algorithm=ppo"], "preference.algorithm='ppo'"),
        (["--stage_two.sampels=4"], "did you mean stage_two.samples?"),
        (["--weak_file=/none/here.jsonl"], "weak_file='/none/here.jsonl': no such file"),
        (["--task.name=hh_rlhf"], "cannot be extracted and compared; take --key.kind=judge"),
        (["--key.kind=judge"], "key.kind=judge and key.judge belong together"),
        (["--strong.model=lab:arithmetic/nobody"], "has no model 'nobody'"),
        (["--key.kind=judge", "--key.judge={base_url: 'https://api.example.com/v1', model: j}"], "no price is known for 'j'"),
        (["--run.dir=/proc/nowhere"], "cannot be written"),
        (["--resume"], "--resume: no unfinished run with these settings"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_2(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") <= 3, error


def test_a_plan_asks_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*SMALL, "--stage_one.rounds=2", "--dry-run"]) == 0
    text = capsys.readouterr().out
    plan = json.loads(text[text.index("\n{") :])
    assert plan["weak_calls_at_most"] == 40 + 12
    assert plan["strong_answers_at_most"] == 40 * (1 + 2) + 40 * 4
    assert plan["preference_pairs_at_most"] == 40
    assert not (tmp_path / "runs").exists()


def test_everything_filtered_away_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*SMALL, f"--weak_file={weak_file(tmp_path, ['#### 9999'] * 40)}"]) == 1
    assert "everything is filtered away, the sources agree on none of 40 questions" in capsys.readouterr().err
    assert main([*SMALL, f"--weak_file={weak_file(tmp_path, [''] * 40)}"]) == 1
    assert "weak: not one of 40 answers is whole" in capsys.readouterr().err
    assert len(list(tmp_path.glob("runs/*/phases/weak.json"))) == 1, "the first run's: a resumed one asks again where nothing came"


def test_what_comes_after_stage_one_may_change_until_pairs_are_made() -> None:
    run = RunDirectory.create(TwoStageConfig())
    (run.path / "phases").mkdir()

    def resumed(*flags: str) -> TwoStageConfig:
        args, rest = parse_known(command_parser("two_stage", "", TwoStageConfig), [f"--resume={run.path}", *flags])
        return asked_for(args, rest, TwoStageConfig, lambda config: config, TwoStageConfig.may_change)[0]

    changed = ["--stage_two.keep=0.3", "--stage_two.reject_weak=0.1", "--stage_two.pairs=2", "--preference.beta=0.2"]
    found = resumed(*changed)
    assert (found.stage_two.keep, found.stage_two.reject_weak, found.stage_two.pairs) == (0.3, 0.1, 2)
    assert found.preference is not None and found.preference.beta == 0.2
    assert resumed("--preference=null").preference is None
    with pytest.raises(SettingError, match="a resumed run keeps its own settings"):
        resumed("--stage_two.samples=9")
    (run.path / "phases" / "pairs.json").write_text("{}")
    for flag in [*changed, "--preference=null"]:
        with pytest.raises(SettingError, match="a resumed run keeps its own settings"):
            resumed(flag)
    assert resumed("--strong.batch_size=8").strong.batch_size == 8


def test_a_judge_of_pairs_is_closed_before_they_are_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weak_to_strong import two_stage_run

    flags = [*SMALL, "--key.kind=judge", f"--key.judge={{replay: '{tmp_path / 'judge.jsonl'}'}}"]
    (tmp_path / "judge.jsonl").write_text('{"messages": [{"role": "user", "content": "?"}], "completion": {"text": "[[SAME]]"}}\n')
    config = resolve(load(TwoStageConfig, {}, parse_flags(flags)))
    opened = []

    async def pairs(*args: Any, **_: Any) -> Any:
        opened.append(set(run._clients))
        return [{"id": stage.examples[0].id, "weak_side": "chosen", "chosen": [{"content": "a"}], "rejected": [{"content": "b"}]}], {}

    def learnt(*_: Any, **__: Any) -> dict[str, Any]:
        opened.append(set(run._clients))
        return {}

    monkeypatch.setattr(two_stage_run, "preference_pairs", pairs)
    monkeypatch.setattr(two_stage_run, "prefer", learnt)
    with ExitStack() as stack:
        run = Run(config, RunDirectory.create(config), stack)
        stage = two_stage_run.TwoStage(run)
        stage.weak = Pool({})
        (run.path / "samples.jsonl").write_text("")
        (run.path / "phases" / "samples.json").write_text('{"answers": 1, "whole": 1, "cost": {}}')
        stage._stage_two(tmp_path)
    assert opened == [{"judge"}, set()]


def test_a_client_that_cannot_be_closed_leaves_no_other_open() -> None:
    config, closed = TwoStageConfig(), []

    class Client:
        stats = StudentStats()

        def __init__(self, name: str) -> None:
            self.name = name

        async def aclose(self) -> None:
            closed.append(self.name)
            if self.name == "b":
                raise RuntimeError("b hangs")

    with ExitStack() as stack:
        run = Run(config, RunDirectory.create(config), stack)
        run._clients = {name: Client(name) for name in "abc"}  # type: ignore[misc]
        with pytest.raises(RuntimeError, match="b hangs"):
            run.release()
        assert sorted(closed) == ["a", "b", "c"] and not run._clients


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
        RuntimeError(
            "[enforce fail at inline_container.cc:861] . PytorchStreamWriter failed writing file data/7: file write failed\nframe 0"
        ),
    ],
)
def test_a_disk_that_takes_no_more_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def work(run: Run[Any]) -> dict[str, Any]:
        raise error

    with pytest.raises(RunError, match=r"mend that and go on with --resume=") as found, StopSignal() as stop:
        carry_out(TwoStageConfig(), None, work, stop)
    assert "\n" not in str(found.value) and str(error.args[-1])[:20] in str(found.value)
    assert unsaved_weights(RuntimeError("shapes differ")) is None


def test_a_whole_run_and_one_that_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_model_at_a_time: set[str]) -> None:
    """Killed before its preferences are learnt, a run goes on to the same models, and no phase is done twice."""
    from weak_to_strong import two_stage_run

    kept = two_stage_run.prefer

    def killed(*_: Any, **__: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(two_stage_run, "prefer", killed)
    assert main(SMALL) == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert not (path / "summary.json").exists()
    before = {file.name: os.stat(file).st_mtime_ns for file in (path / "phases").iterdir()}
    assert {"weak.json", "icl.json", "round_1.json", "round_1_hybrid.json", "samples.json", "pairs.json"} == set(before)
    monkeypatch.setattr(two_stage_run, "prefer", kept)
    assert main(["--resume", *SMALL]) == 0
    assert {name: os.stat(path / "phases" / name).st_mtime_ns for name in before} == before

    summary = json.loads((path / "summary.json").read_text())
    assert summary["algorithm"] == "two_stage" and summary["rounds"][0]["kept"] > 0
    assert set(summary["gains"]) >= {"stage_one", "stage_two"}
    assert set(summary["eval"]["arms"]) == {"raw", "weak", "stage_one", "stage_two", "trained", "full_weak", "icl"}
    right = {name: arm["mean"] for name, arm in summary["eval"]["arms"].items()}
    assert summary["gains"]["stage_one"]["difference"] == pytest.approx(right["stage_one"] - right["full_weak"])
    assert summary["gains"]["stage_two"]["difference"] == pytest.approx(right["stage_two"] - right["stage_one"])
    assert right["trained"] == right["stage_two"]
    phases = {file.stem: json.loads(file.read_text())["cost"] for file in (path / "phases").iterdir()}
    took = sum(cost["trained_tokens"] for name, cost in phases.items() if name != "full_weak")
    assert summary["cost"]["training"]["trained_tokens"] == took > 0, "the arms beside it are not the student's cost"
    misfit = json.loads((path / "phases" / "round_1_hybrid.json").read_text())["misfit"]
    assert misfit[0][0] == 0 and misfit[-1][1] != misfit[0][1]
    rows = [json.loads(line) for line in (path / "pairs.jsonl").read_text().splitlines()]
    weak = {row["example_id"]: row["text"] for row in map(json.loads, (path / "weak.jsonl").read_text().splitlines())}
    assert rows and all(row[row["weak_side"]][0]["content"] == weak[row["id"]] for row in rows)
    assert one_model_at_a_time >= {"raw", "weak", "sampled", "stage_one", "stage_two"}
    assert "Rounds of Stage I" in (path / "report.html").read_text()
