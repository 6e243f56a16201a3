"""What a run leaves behind, and what a resume may read of it."""

import json

import pytest

from exchange.settings import SettingError, load, only, setting_names
from teacher.config import TrainConfig, resolve
from teacher.run_directory import MAY_CHANGE, RunDirectory, find_unfinished, mark_complete


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path))
    return tmp_path


CONFIG = resolve(TrainConfig())


def test_a_run_is_named_by_time_task_algorithm_and_seed(runs):
    run = RunDirectory.create(CONFIG)
    stamp, time, *rest = run.path.name.split("-")
    assert len(stamp) == 8 and len(time) == 6 and "-".join(rest[:3]) == "lab_arithmetic-grpo-s0"
    assert TrainConfig.model_validate(run.config()) == CONFIG
    assert RunDirectory.create(CONFIG).path != run.path


def test_only_whole_checkpoints_count(runs):
    run = RunDirectory.create(CONFIG)
    assert run.last_checkpoint() is None
    for step in (5, 10, 15):
        (run.checkpoints / f"checkpoint-{step}").mkdir()
        (run.checkpoints / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"x")
    mark_complete(run.checkpoints / "checkpoint-5")
    mark_complete(run.checkpoints / "checkpoint-10")
    assert run.last_checkpoint()[0] == 10
    mark_complete(run.checkpoints / "checkpoint-15")
    assert run.last_checkpoint()[0] == 15


def test_what_a_killed_process_left_is_dropped(runs):
    run = RunDirectory.create(CONFIG)
    run.append("metrics.jsonl", *({"step": step} for step in range(1, 13)))
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 13, "rew')
    for name in ("checkpoint-10", "best-10", "best-12", "checkpoint-12"):
        (run.checkpoints / name).mkdir()
    for name in ("checkpoint-10", "best-10", "best-12"):
        mark_complete(run.checkpoints / name)
    run.drop_after(10)
    assert [line["step"] for line in run.lines("metrics.jsonl")] == list(range(1, 11))
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["best-10", "checkpoint-10"]


def test_resume_finds_the_newest_unfinished_run_with_the_same_settings(runs):
    first, second = RunDirectory.create(CONFIG), RunDirectory.create(CONFIG)
    other = RunDirectory.create(CONFIG.model_copy(update={"seed": 7}))
    # An evaluation that was broken off: newer, without a lock, and no run to go on with.
    evaluated = CONFIG.model_copy(update={"run": CONFIG.run.model_copy(update={"dir": str(runs / "2999-evaluated")})})
    RunDirectory.create(evaluated, resumable=False)
    newest = max(first.path, second.path)
    assert find_unfinished(CONFIG).path == newest
    (newest / "summary.json").write_text(json.dumps({}))
    assert find_unfinished(CONFIG).path == min(first.path, second.path)
    (other.path / "summary.json").write_text("{}")
    with pytest.raises(SettingError, match="no unfinished run with these settings"):
        find_unfinished(CONFIG.model_copy(update={"seed": 7}))


def test_a_run_killed_as_soon_as_it_has_a_config_is_found(runs, monkeypatch):
    class Killed(BaseException):
        pass

    written = RunDirectory.write_config

    def then_killed(self, config):
        written(self, config)
        raise Killed

    monkeypatch.setattr(RunDirectory, "write_config", then_killed)
    with pytest.raises(Killed):
        RunDirectory.create(CONFIG)
    assert find_unfinished(CONFIG).path.parent == runs


def test_a_run_directory_in_use_or_unwritable_is_refused(runs, tmp_path):
    config = CONFIG.model_copy(update={"run": CONFIG.run.model_copy(update={"dir": str(tmp_path / "mine")})})
    RunDirectory.create(config)
    with pytest.raises(SettingError, match="holds a run already"):
        RunDirectory.create(config)
    (tmp_path / "file").write_text("")
    blocked = CONFIG.model_copy(update={"run": CONFIG.run.model_copy(update={"dir": str(tmp_path / "file" / "run")})})
    with pytest.raises(SettingError, match="cannot be written"):
        RunDirectory.create(blocked)


def test_a_judge_that_is_reached_in_another_way_is_the_same_run_and_another_judge_is_not(runs):
    """An API that throttles in the middle of a run must not cost the run."""

    def judged(**client):
        second = {"preference": {"model": "rm", "base_url": "http://127.0.0.1:1/v1", "timeout_s": client.pop("served_s", 60.0)}}
        judge = {"client": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "model": "j", **client}}
        return resolve(TrainConfig.model_validate({"reward": {"kind": "judge", "judge": judge, "second": second}}))

    run = RunDirectory.create(judged())
    run.lock().close()
    slower = judged(pacing={"concurrency": 2}, timeout_s=9.0, cache={"enabled": False}, served_s=7.0)
    assert find_unfinished(slower).path == run.path
    for other in (judged(model="k"), judged(max_tokens=7)):
        with pytest.raises(SettingError, match="no unfinished run"):
            find_unfinished(other)
    held = load(TrainConfig, run.config(), only([("reward.judge.client.pacing.concurrency", 3)], MAY_CHANGE, reason="no"))
    assert held.reward.judge.client.pacing.concurrency == 3
    assert set(MAY_CHANGE) <= set(setting_names(TrainConfig)), "a name that is no setting would change nothing"
