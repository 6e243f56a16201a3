"""Settings that choose a student."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from exchange.settings import SettingError, load, parse_flags, setting_docs
from student_clients import REGISTRY, ScriptedStudent, StudentConfig, make_student, sampling
from student_clients.caching import CachedStudent
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
    cached = make_student(chosen).client
    assert isinstance(cached, CachedStudent)
    assert isinstance(cached.client, PacedStudent)
    assert isinstance(cached.client.client, OpenAICompatibleStudent)
    assert cached.client.config.concurrency == 3
    assert load(StudentConfig, chosen.model_dump()) == chosen


def test_a_folder_is_an_embedded_student(tiny_model: Path) -> None:
    student = make_student(config(f"--model={tiny_model}", "--batch_size=7", "--cache.enabled=false"))
    assert isinstance(student.client, EmbeddedStudent)
    assert (student.name, student.client.batch_size) == (str(tiny_model), 7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--base_url=http://localhost:1/v1"], "an embedded model"),
        (["--base_url=localhost:1/v1", "--model=m"], "begins with http"),
        (["--base_url=http://localhost:1", "--kind=embedded"], "student.kind=openai"),
        (["--kind=opanai"], "'embedded', 'openai', 'vllm' or 'replay'"),
        (["--pacing.concurency=3"], "did you mean pacing.concurrency"),
        (["--api_key_env=sk-proj-1234"], "not the key itself"),
        (["--base_url=https://user:hunter2@h/v1", "--model=m"], "a login or a query"),
        (["--cache.url=redis://:hunter2@h:1/0"], "write env:NAME"),
        (["--kind=vllm", "--model=m", "--vllm.launch", "--vllm.args=[--api-key, hunter2]"], "VLLM_API_KEY"),
        (["--kind=vllm", "--model=m"], "exactly one of student.base_url, student.vllm.base_urls and student.vllm.launch"),
        (["--kind=vllm", "--model=m", "--vllm.base_urls=[localhost:1/v1]"], "begins with http"),
        (["--kind=replay"], "student.replay=FILE go together"),
        (["--extra_headers={X-Api-Key: sk-1234}"], r"write X-Api-Key: env:NAME"),
    ],
    ids=[
        "lab model served",
        "no scheme",
        "embedded with url",
        "unknown kind",
        "unknown setting",
        "key for its name",
        "login in the url",
        "password in the cache",
        "key of the child",
        "vllm nowhere",
        "vllm no scheme",
        "replay of nothing",
        "secret header",
    ],
)
def test_bad_settings_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        config(*flags)
    assert not re.search("hunter2|sk-proj|sk-1234", str(caught.value))


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


def test_a_secret_header_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config(
        "--kind=openai", "--base_url=http://localhost:1/v1", "--model=m", "--extra_headers={X-Key: env:GATEWAY_KEY, X-App: wst}"
    )
    monkeypatch.delenv("GATEWAY_KEY", raising=False)
    with pytest.raises(SettingError, match=r"student\.extra_headers\.X-Key='env:GATEWAY_KEY': .* is not set"):
        make_student(chosen)
    monkeypatch.setenv("GATEWAY_KEY", "sk-very-secret")
    assert "sk-very-secret" not in repr(make_student(chosen)) + chosen.model_dump_json()


def test_a_bad_header_value_is_not_shown() -> None:
    with pytest.raises(SettingError) as caught:
        config("--extra_headers={X-Api-Key: sk-1234}")
    assert "sk-1234" not in str(caught.value)


def test_reasoning_models_get_no_temperature_and_the_newer_limit() -> None:
    chosen = config("--kind=openai", "--base_url=http://localhost:1/v1", "--model=m", "--reasoning_effort=low", "--cache.enabled=false")
    assert sampling(chosen).temperature is None
    paced = make_student(chosen).client
    assert isinstance(paced, PacedStudent)
    assert isinstance(paced.client, OpenAICompatibleStudent)
    assert paced.client.max_tokens_field == "max_completion_tokens"


def test_a_recording_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"student\.record="):
        make_student(config(f"--record={tmp_path}"))


def test_every_setting_is_explained_and_every_kind_registered() -> None:
    undocumented = [name for name, _, text in setting_docs(StudentConfig) if not text]
    assert undocumented == []
    assert set(REGISTRY) == {"embedded", "openai", "vllm", "replay"}


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
