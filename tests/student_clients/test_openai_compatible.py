"""The adapter against a real server that answers as scripted."""

import asyncio
import email.utils
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients import errors
from student_clients.openai_compatible import OpenAICompatibleStudent
from tests.student_clients.conftest import ScriptedServer, chat

ASK = (Message(role="system", content="Be brief."), Message(role="user", content="2+2?"))
GREEDY = SamplingParams(max_tokens=9)
KEY = "sk-very-secret"


def ask(student: OpenAICompatibleStudent, params: SamplingParams = GREEDY, **options: int) -> list[Completion]:
    """One `complete` on a loop of its own, with the student closed after it."""

    async def body() -> list[Completion]:
        try:
            return await student.complete(ASK, params, **options)
        finally:
            await student.aclose()

    return asyncio.run(body())


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


@pytest.fixture
def student(server: ScriptedServer, key: None) -> OpenAICompatibleStudent:
    return OpenAICompatibleStudent("m", base_url=server.url, api_key_env="TEST_KEY")


def test_an_answer_and_what_was_sent(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    server.replies = [chat("4")]
    (completion,) = ask(student)
    assert completion.latency_s > 0
    assert completion.model_copy(update={"latency_s": 0.0}) == Completion(
        text="4", finish_reason="stop", prompt_tokens=7, completion_tokens=3
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    assert server.bodies == [{"model": "m", "messages": messages, "temperature": 0.0, "max_tokens": 9}]
    assert server.keys == [f"Bearer {KEY}"]
    stats = student.ledger.stats
    assert (stats.calls, stats.prompt_tokens, stats.completion_tokens) == (1, 7, 3)


def test_seed_and_n_are_sent_and_several_choices_are_read(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    server.replies = [chat("a", "b")]
    completions = ask(student, SamplingParams(temperature=0.7, seed=5), n=2, sample_index=3)
    assert [completion.text for completion in completions] == ["a", "b"]
    assert [completion.prompt_tokens for completion in completions] == [7, 0]
    assert sum(completion.completion_tokens for completion in completions) == 6
    assert (server.bodies[0]["n"], server.bodies[0]["seed"]) == (2, 8)


def test_a_server_that_ignores_n_is_asked_again(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    server.replies = [chat("a"), chat("b"), chat("c")]
    assert [completion.text for completion in ask(student, n=3)] == ["a", "b", "c"]
    assert [body.get("n") for body in server.bodies] == [3, 2, None]
    assert student.ledger.stats.calls == 3


def test_the_other_name_for_max_tokens(server: ScriptedServer) -> None:
    ask(OpenAICompatibleStudent("m", base_url=server.url, max_tokens_field="max_completion_tokens"))
    assert server.bodies[0]["max_completion_tokens"] == 9
    assert "max_tokens" not in server.bodies[0]


def test_a_reasoning_model_that_ran_out_of_tokens_gave_an_empty_answer(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    body = chat("", finish_reason="length")
    body["choices"][0]["message"]["content"] = None
    body["usage"]["completion_tokens_details"] = {"reasoning_tokens": 3}
    server.replies = [body]
    (completion,) = ask(student)
    assert (completion.text, completion.finish_reason, completion.reasoning_tokens) == ("", "length", 3)


def fault(code: str) -> dict[str, Any]:
    return {"error": {"message": f"no good, {KEY}", "code": code}}


FAULTS = {
    "rate limit": ((429, fault("rate_limit"), {"Retry-After": "7"}), errors.StudentRateLimited),
    "no credit": ((429, fault("insufficient_quota"), {}), errors.StudentQuotaExhausted),
    "500": ((500, "oops", {}), errors.StudentServerError),
    "503": ((503, fault("busy"), {}), errors.StudentServerError),
    "408": ((408, fault("slow"), {}), errors.StudentTimeout),
    "401": ((401, fault("invalid_api_key"), {}), errors.StudentAuthError),
    "403": ((403, fault("denied"), {}), errors.StudentAuthError),
    "404": ((404, fault("model_not_found"), {}), errors.StudentUnknownModel),
    "context": ((400, fault("context_length_exceeded"), {}), errors.StudentBadRequest),
    "422": ((422, {"detail": f"unknown field {KEY}"}, {}), errors.StudentBadRequest),
    "filter refuses": ((400, fault("content_filter"), {}), errors.StudentContentFiltered),
    "filter withholds": (chat("", finish_reason="content_filter"), errors.StudentContentFiltered),
    "half JSON": ((200, '{"choices": [{"message": {"con', {}), errors.StudentBadResponse),
    "HTML": ((200, f"<html>{KEY}</html>", {"Content-Type": "text/html"}), errors.StudentBadResponse),
    "empty": ((200, "", {}), errors.StudentBadResponse),
    "no choices": (chat(), errors.StudentBadResponse),
    "error as 200": ((200, fault("upstream"), {}), errors.StudentBadResponse),
    "cut short": ((200, "short", {"Content-Length": "999"}), errors.StudentUnreachable),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_its_error(server: ScriptedServer, student: OpenAICompatibleStudent, name: str) -> None:
    reply, error = FAULTS[name]
    server.replies = [reply]
    with pytest.raises(errors.StudentError) as caught:
        ask(student)
    assert type(caught.value) is error
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert student.ledger.stats.calls == len(server.bodies) == 1


def test_retry_after_is_read_as_seconds_and_as_a_date(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    for text, low, high in (("7", 7.0, 7.0), (date, 90.0, 100.0), ("soon", None, None)):
        server.replies = [(429, fault("rate_limit"), {"Retry-After": text})]
        with pytest.raises(errors.StudentRateLimited) as caught:
            ask(student)
        wait_s = caught.value.retry_after_s
        if low is None or high is None:
            assert wait_s is None
        else:
            assert wait_s is not None
            assert low <= wait_s <= high


def test_a_server_that_hangs_times_out(server: ScriptedServer) -> None:
    server.replies = ["hang"]
    student = OpenAICompatibleStudent("m", base_url=server.url, timeout_s=0.2)
    with pytest.raises(errors.StudentTimeout, match=r"within 0\.2 s"):
        ask(student)
    assert student.ledger.stats.calls == len(server.bodies) == 1


def test_nobody_there_is_not_a_call(closed_port_url: str) -> None:
    student = OpenAICompatibleStudent("m", base_url=closed_port_url)
    with pytest.raises(errors.StudentNotConnected, match=closed_port_url):
        ask(student)
    with pytest.raises(errors.StudentUnreachable):
        asyncio.run(student.check())
    assert student.ledger.stats.calls == 0


def test_several_loops_one_after_the_other_and_none_left_open(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    """Closed by its loop's end, not by us; warnings of unclosed transports are errors in this test run."""
    for _ in range(2):
        assert asyncio.run(student.complete(ASK, GREEDY))[0].text == "ok"
    asyncio.run(student.aclose())


def test_a_loop_that_still_runs_elsewhere_is_closed_there(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert asyncio.run_coroutine_threadsafe(student.complete(ASK, GREEDY), loop).result()[0].text == "ok"
    asyncio.run(student.aclose())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_check_finds_the_model(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    asyncio.run(student.check())
    assert student.ledger.stats.calls == 0


def test_check_names_what_is_served(server: ScriptedServer, key: None) -> None:
    student = OpenAICompatibleStudent("n", base_url=server.url)
    with pytest.raises(errors.StudentUnknownModel, match="does not serve 'n'; it serves m"):
        asyncio.run(student.check())


@pytest.mark.parametrize("models", [None, {"data": []}, ["what"]])
def test_check_only_warns_where_the_server_keeps_no_list(
    server: ScriptedServer, student: OpenAICompatibleStudent, models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.models = models
    asyncio.run(student.check())
    assert "used unchecked" in caplog.text


def test_a_url_without_v1_is_pointed_out(server: ScriptedServer) -> None:
    bare = server.url.removesuffix("/v1")
    student = OpenAICompatibleStudent("m", base_url=bare)
    with pytest.raises(errors.StudentUnknownModel, match=f"has no /v1, try {server.url}"):
        asyncio.run(student.check())
    with pytest.raises(errors.StudentUnknownModel, match=f"has no /v1, try {server.url}"):
        ask(student)


def test_keys_come_from_the_environment_or_a_file(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable UNSET_KEY holds no API key"):
        OpenAICompatibleStudent("m", api_key_env="UNSET_KEY")
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    ask(OpenAICompatibleStudent("m", base_url=server.url, api_key_file=file))
    ask(OpenAICompatibleStudent("m", base_url=server.url, api_key_env="UNSET_KEY"))
    assert server.keys == [f"Bearer {KEY}", "Bearer none"]
    server.replies = [(401, {}, {})]
    with pytest.raises(errors.StudentAuthError, match="wants an API key; put it into the environment variable UNSET_KEY"):
        ask(OpenAICompatibleStudent("m", base_url=server.url, api_key_env="UNSET_KEY"))
