"""The command as a user meets it: bad settings, a plan that asks nothing, a run that is broken off and gone on with, recorded chains."""

import json
import os
import subprocess
import sys

import pytest

from exchange.settings import SettingError, load
from tasks import TASKS, TaskConfig
from tests.requirements import ROOT
from weak_to_strong.w2sr import main
from weak_to_strong.w2sr_config import W2SRConfig, resolve

SMALL = [
    "--task.name=lab_arithmetic", "--task.train_size=40", "--task.validation_size=20", "--traces.questions=40", "--weak.max_tokens=24",
    "--weak.model=lab:arithmetic/student", "--strong.model=lab:arithmetic/teacher", "--strong.max_tokens=8", "--eval.n=12",
    "--fine_tune.watch=4", "--fine_tune.epochs=1", "--weak.cache.enabled=false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _runs_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--variant=best"], "variant='best'"),
        (["--varient=all"], "varient='all': no such setting; did you mean variant?"),
        (["--task.name=hh_rlhf"], "task.name='hh_rlhf': W2SR grades chains by a right answer"),
        (["--traces.samples=4"], "traces.samples=4: a greedy reasoner writes one chain; set weak.temperature"),
        (["--traces.file=/none/here.jsonl"], "traces.file='/none/here.jsonl': no such file"),
        (["--ceiling", "--task.train_size=4"], "ceiling: 4 training questions are fewer than the 16 of one step's batch"),
        (["--ceiling", "--ceiling.trl={beta_typo: 1}"], "trl.beta_typo: TRL's GRPOConfig has no such field"),
        (["--strong.model=lab:arithmetic/nobody"], "lab world 'arithmetic' has no model 'nobody'"),
        (["--weak.base_url=https://api.example.com/v1", "--weak.model=m"], "budget.prices: no price is known for 'm'"),
        (["--resume"], "--resume: no unfinished run with these settings"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_2(flags, said, capsys, tmp_path):
    assert main([*SMALL, *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") <= 3
    assert not (tmp_path / "runs").exists(), "found out before anything is written"


def test_a_plan_asks_nothing(capsys, tmp_path):
    assert main([*SMALL, "--ceiling", "--dry-run"]) == 0
    text = capsys.readouterr().out
    plan = json.loads(text[text.index("\n{") :])
    assert plan["weak_calls_at_most"] == 40 + 12 and plan["fine_tuning_steps_at_most"] == 3
    assert plan["ceiling_samples_at_most"] == 300 * 192
    assert not (tmp_path / "runs").exists()


def test_a_flag_alone_asks_for_the_ceiling():
    assert load(W2SRConfig, {}, [("ceiling", True)]).ceiling is not None
    assert load(W2SRConfig, {}, [("ceiling", False)]).ceiling is None
    for flags in ([("ceiling", True), ("ceiling.every", 5)], [("ceiling.every", 5), ("ceiling", True)]):
        found = load(W2SRConfig, {}, flags).ceiling
        assert found is not None and found.every == 5
    assert W2SRConfig(variant="negative").algorithm == "w2sr-n"


def test_a_setting_of_a_section_leaves_the_sections_defaults_alone():
    config = load(W2SRConfig, {}, [("task.train_size", 100), ("weak.temperature", 1.0)])
    assert (config.task.name, config.task.train_size) == ("lab_reasoning", 100)
    assert (config.weak.model, config.weak.max_tokens, config.weak.temperature) == ("lab:reasoning/weak", 64, 1.0)
    served = load(W2SRConfig, {}, [("weak.base_url", "http://localhost:1/v1"), ("weak.model", "m")]).weak
    assert (served.kind, served.model) == ("openai", "m")


def test_a_run_that_cannot_be_written_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SMALL, f"--run.dir={tmp_path / 'file' / 'run'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def command(*flags):
    return [sys.executable, "-m", "weak_to_strong.w2sr", *SMALL, *flags]


def test_a_run_is_broken_off_and_gone_on_with_and_its_chains_serve_another(tmp_path, capsys):
    runs = tmp_path / "runs"
    # Killed by its own hand where fine-tuning would begin: what stands then is the phase of the chains.
    code = "import os, signal, weak_to_strong.w2sr_run as r; r.fine_tune = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += f"from weak_to_strong.w2sr import main; main({command()[3:]!r})"
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    (run,) = runs.iterdir()
    held = (run / "traces.jsonl").read_bytes()
    written = (run / "phases" / "traces.json").stat().st_mtime_ns
    assert main([*SMALL, "--resume"]) == 0
    assert (run / "traces.jsonl").read_bytes() == held and (run / "phases" / "traces.json").stat().st_mtime_ns == written
    summary = json.loads((run / "summary.json").read_text())
    assert summary["algorithm"] == "w2sr" and set(summary["eval"]["arms"]) == {
        "raw", "static:cot", "static:cot_format", "weak", "trained"
    }  # fmt: skip
    assert summary["traces"]["chains"] == 40 and summary["cost"]["traces"]["calls"] == 40 and summary["rgr"] is None
    assert 0 < summary["traces"]["right"] < 1
    misfit = summary["fine_tune"]["misfit"]
    assert misfit[0][0] == 0 and misfit[-1][0] == summary["fine_tune"]["steps"] and misfit[-1][1] < misfit[0][1]
    assert (run / "report.html").exists() and "Chains" in (run / "report.md").read_text()
    assert main([f"--resume={run}"]) == 2
    assert "this run is finished" in capsys.readouterr().err
    other = tmp_path / "negative"
    flags = [*SMALL, f"--traces.file={run / 'traces.jsonl'}", "--variant=negative", "--match-size", f"--run.dir={other}"]
    assert main(flags) == 0
    found = json.loads((other / "summary.json").read_text())
    sizes = found["fine_tune"]["variants"]
    assert sizes["positive"] + sizes["negative"] == sizes["all"] == summary["traces"]["kept"]
    assert found["fine_tune"]["rows"] == min(sizes.values()) and found["fine_tune"]["taken_right"] == 0
    assert found["cost"]["traces"]["calls"] == 0


def test_chains_of_a_recording(tmp_path, one_model_at_a_time):
    """Worked solutions that somebody else wrote, replayed as the weak reasoner; one question is not in the file."""
    load_questions = TASKS["knights_knaves"].load
    lines = [
        {"messages": [{"role": "user", "content": q.query}], "completion": {"text": f"So:\nAnswer: {q.gold}", "finish_reason": "stop"}}
        for q in load_questions(TaskConfig(name="knights_knaves"), "train", 40)[:-1]
    ]
    file = tmp_path / "recorded.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = tmp_path / "replayed"
    flags = [flag for flag in SMALL if not flag.startswith(("--weak", "--task.name"))]
    assert main([*flags, "--task.name=knights_knaves", f"--weak.replay={file}", f"--run.dir={run}"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["traces"]["right"] == 1.0 and summary["traces"]["dropped"]["failed"] == 1 and summary["traces"]["kept"] == 39
    assert one_model_at_a_time == {"raw", "weak", "trained"}
    assert "weak" not in summary["eval"]["arms"]  # the recording answers none of the test questions


def test_what_nothing_can_be_learnt_from_ends_the_run(tmp_path, capsys):
    assert main([*SMALL, "--weak.max_tokens=2"]) == 1
    assert "all 40 chains were filtered away (truncated 40)" in capsys.readouterr().err
    file = tmp_path / "of_other_questions.jsonl"
    line = {"messages": [{"role": "user", "content": "?"}], "completion": {"text": "#### 1", "finish_reason": "stop"}}
    file.write_text(json.dumps(line) + "\n")
    run = tmp_path / "failed"
    assert main([*(flag for flag in SMALL if not flag.startswith("--weak")), f"--weak.replay={file}", f"--run.dir={run}"]) == 1
    assert "not one of 40 chains came, every call failed; mend that and go on with --resume=" in capsys.readouterr().err
    assert not (run / "phases" / "traces.json").exists()


def test_settings_are_resolved_before_anything_starts():
    config = resolve(load(W2SRConfig, {}, [("strong.lora", {"r": 4})]))
    assert config.fine_tune.learning_rate == 3e-4 and config.fine_tune.batch_size == 16
    with pytest.raises(SettingError):
        resolve(load(W2SRConfig, {}, [("task.name", "hh_rlhf")]))
