"""The model card that every run leaves, and what is asked of the Hub; the Hub itself is replaced at `HfApi`."""

import json
from types import SimpleNamespace
from typing import ClassVar

import huggingface_hub
import pytest
import yaml

from teacher.folder import load_teacher
from teacher.run_directory import RunDirectory
from teacher.train import main
from tests.teacher.test_train_lab import TINY

FLAGS = [*TINY, "--max_steps=1", "--run.push_to_hub=me/teacher"]


class FakeApi:
    calls: ClassVar[list] = []
    trouble: ClassVar[dict] = {}

    def __getattr__(self, name):
        def call(*args, **kwargs):
            if name in self.trouble:
                raise OSError(self.trouble[name])
            FakeApi.calls.append((name, args, kwargs))
            return SimpleNamespace(repo_id="me/teacher", __str__=lambda self: "address")

        return call


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    FakeApi.calls, FakeApi.trouble = [], {}
    return tmp_path / "runs"


def test_the_teacher_is_pushed_with_a_card_that_says_what_was_measured(hub, capsys):
    assert main([*FLAGS, "--run.sample_every=1"]) == 0
    (run,) = map(RunDirectory, hub.iterdir())
    assert [name for name, _, _ in FakeApi.calls] == ["whoami", "create_repo", "upload_folder"]
    _, (_, args, made), (_, _, sent) = FakeApi.calls
    assert args == ("me/teacher",) and made == {"private": True, "exist_ok": True}
    manifest = load_teacher(run.teacher).manifest
    assert sent == {
        "repo_id": "me/teacher", "folder_path": run.teacher, "commit_message": f"{manifest['id']} ({manifest['sha256'][:12]})",
    }  # fmt: skip
    _, head, body = (run.teacher / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["tags"] == ["prompt-teacher", "grpo"] and "base_model" not in yaml.safe_load(head)
    arms = json.loads((run.path / "summary.json").read_text())["eval"]["arms"]
    assert all(f"| {name} | {arm['mean']:.1%} |" in body for name, arm in arms.items()) and manifest["sha256"] in body
    assert capsys.readouterr().err.count("instructed by") == 3


def test_without_a_login_nothing_starts(hub, capsys):
    FakeApi.trouble = {"whoami": "no token\nfound"}
    assert main(FLAGS) == 2
    assert "run.push_to_hub='me/teacher': the Hub does not know you (no token); set HF_TOKEN" in capsys.readouterr().err
    assert not hub.exists()


def test_a_push_that_fails_leaves_a_finished_run(hub, capsys):
    FakeApi.trouble = {"upload_folder": "no space on the Hub"}
    assert main(FLAGS) == 1
    (run,) = map(RunDirectory, hub.iterdir())
    assert run.finished
    assert f"push by hand: hf upload me/teacher {run.teacher}" in capsys.readouterr().err.replace("\n", "")
