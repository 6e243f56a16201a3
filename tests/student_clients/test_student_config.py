"""Settings that choose a student."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from exchange.settings import SettingError, load, parse_flags, setting_docs
from student_clients import REGISTRY, ScriptedStudent, StudentConfig, make_student, sampling
from student_clients.embedded import EmbeddedStudent
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.pacing import PacedStudent


def config(*flags: str) -> StudentConfig:
    return load(StudentConfig, {}, parse_flags(flags))


def test_the_default_is_the_embedded_lab_student() -> None:
    assert (config().kind, config().model) == ("embedded", "lab:arithmetic/student")
    assert sampling(config()) == SamplingParams(temperature=0.0, max_tokens=256, seed=None)


def test_a_url_means_a_server() -> None:
    chosen = config("--base_url=http://localhost:1/v1", "--model=m", "--pacing.concurrency=3")
    assert chosen.kind == "openai"
    student = make_student(chosen)
    assert isinstance(student.client, PacedStudent)
    assert isinstance(student.client.client, OpenAICompatibleStudent)
    assert student.client.config.concurrency == 3
    assert load(StudentConfig, chosen.model_dump()) == chosen


def test_a_folder_is_an_embedded_student(tiny_model: Path) -> None:
    student = make_student(config(f"--model={tiny_model}", "--batch_size=7"))
    assert isinstance(student.client, EmbeddedStudent)
    assert (student.name, student.client.batch_size) == (str(tiny_model), 7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--base_url=http://localhost:1/v1"], "an embedded model"),
        (["--base_url=localhost:1/v1", "--model=m"], "begins with http"),
        (["--base_url=http://localhost:1", "--kind=embedded"], "student.kind=openai"),
        (["--kind=opanai"], "'embedded' or 'openai'"),
        (["--pacing.concurency=3"], "did you mean pacing.concurrency"),
    ],
    ids=["lab model served", "no scheme", "embedded with url", "unknown kind", "unknown setting"],
)
def test_bad_settings_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        config(*flags)


@pytest.mark.parametrize("model", ["lab:arithmetic/nobody", "lab:nowhere/student"])
def test_an_unknown_lab_model_is_named(model: str) -> None:
    with pytest.raises(SettingError, match=f"student.model='{model}'"):
        make_student(config(f"--model={model}"))


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNSET_KEY", raising=False)
    with pytest.raises(SettingError, match=r"student\.api_key_env: .*UNSET_KEY"):
        make_student(config("--kind=openai", "--model=m", "--api_key_env=UNSET_KEY"))
    with pytest.raises(SettingError, match=r"student\.api_key_file: .*nothing"):
        make_student(config("--kind=openai", "--model=m", f"--api_key_file={tmp_path / 'nothing'}"))


def test_every_setting_is_explained_and_every_kind_registered() -> None:
    undocumented = [name for name, _, text in setting_docs(StudentConfig) if not text]
    assert undocumented == []
    assert set(REGISTRY) == {"embedded", "openai"}


def test_importing_leaves_the_heavy_packages_alone() -> None:
    code = "import sys, student_clients; print(sorted({'torch', 'transformers', 'openai', 'httpx2', 'fastapi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_scripted_student_answers_and_counts() -> None:
    def answer(messages: Sequence[Message]) -> str:
        return "so " + messages[-1].content

    student = ScriptedStudent(answer)
    got = asyncio.run(student.complete([Message(role="user", content="one two")], SamplingParams(), n=2))
    assert got == [Completion(text="so one two", finish_reason="stop", prompt_tokens=2, completion_tokens=3)] * 2
    assert (student.calls, student.ledger.stats.completion_tokens) == (1, 6)
