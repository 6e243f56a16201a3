"""The adapter against a real server that answers as scripted; `/v1/responses` has a file of its own."""

import asyncio
import email.utils
import logging
import threading
import time
import traceback
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
HEADERS = {"X-Tenant": "tenant-4711", "Proxy-Pass": "Basic c2VjcmV0LXBhc3M="}
SECRETS = (KEY, "tenant-4711", "c2VjcmV0LXBhc3M=")


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


@pytest.mark.parametrize(("texts", "kept"), [("a", "a"), ("ab", "ab"), ("abc", "ab")])
def test_one_request_gives_what_the_server_gives_and_at_most_n(
    server: ScriptedServer, student: OpenAICompatibleStudent, texts: str, kept: str
) -> None:
    server.replies = [chat(*texts)]
    completions = ask(student, n=2)
    assert [completion.text for completion in completions] == list(kept)
    assert sum(completion.completion_tokens for completion in completions) == 3 * len(texts)
    assert student.ledger.stats.calls == len(server.bodies) == 1


def test_usage_snapshot_and_fingerprint_are_kept(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    body = chat("a", "b") | {"model": "m-2026-01-01", "system_fingerprint": "fp_1"}
    body["usage"] |= {"prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens_details": {"reasoning_tokens": 3}}
    server.replies = [body]
    first, second = ask(student, n=2)
    assert (first.prompt_tokens, first.cached_prompt_tokens, first.reasoning_tokens) == (7, 5, 2)
    assert (second.prompt_tokens, second.cached_prompt_tokens, second.reasoning_tokens) == (0, 0, 1)
    assert {(completion.model, completion.fingerprint) for completion in (first, second)} == {("m-2026-01-01", "fp_1")}


def test_a_temperature_of_none_is_not_sent(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    ask(student, SamplingParams(temperature=None, split="test"))
    assert sorted(server.bodies[0]) == ["max_tokens", "messages", "model"]


def test_what_is_added_to_each_request(server: ScriptedServer, key: None) -> None:
    extra = {"top_p": 0.9, "chat_template_kwargs": {"enable_thinking": False}}
    student = OpenAICompatibleStudent(
        "m", base_url=server.url, api_key_env="TEST_KEY", reasoning_effort="low", extra_headers=HEADERS, extra_body=extra
    )
    ask(student)
    assert server.bodies[0]["reasoning_effort"] == "low"
    assert {name: server.bodies[0][name] for name in extra} == extra
    assert {name: server.headers[0][name.lower()] for name in HEADERS} == HEADERS
    assert server.keys == [f"Bearer {KEY}"]


def test_a_header_of_ones_own_takes_the_place_of_the_key(server: ScriptedServer, key: None) -> None:
    ask(OpenAICompatibleStudent("m", base_url=server.url, api_key_env="TEST_KEY", extra_headers={"authorization": "Api-Key other-secret"}))
    assert server.keys == ["Api-Key other-secret"]


@pytest.mark.parametrize("name", ["temperature", "n", "stream", "messages", "max_completion_tokens"])
def test_an_extra_field_does_not_overrule_a_setting(name: str) -> None:
    with pytest.raises(ValueError, match=f"extra_body sets {name}"):
        OpenAICompatibleStudent("m", base_url="http://x/v1", extra_body={name: 1})


def test_the_identity_tells_apart_what_answers_differently_and_holds_no_secret(key: None) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"base_url": "http://y/v1"},
        {"model": "n"},
        {"api": "responses"},
        {"reasoning_effort": "low"},
        {"extra_body": {"top_p": 0.5}},
        {"extra_body": {"top_p": 0.5, "min_p": 0.1}},
        {"max_tokens_field": "max_completion_tokens"},
        {"extra_headers": {**HEADERS, "X-Route": "another model"}},
    ]
    base: dict[str, Any] = {"model": "m", "base_url": "http://x/v1", "api_key_env": "TEST_KEY", "extra_headers": HEADERS}
    identities = [OpenAICompatibleStudent(**(base | changed)).identity for changed in settings]
    assert len(set(identities)) == len(settings)
    assert not any(secret in identity for secret in SECRETS for identity in identities)
    alike: list[dict[str, Any]] = [
        {"base_url": "http://x/v1/"},
        {"timeout_s": 1.0},
        {"extra_headers": {**HEADERS, "X-Api-Key": "another login"}},
        {"api_key_env": "UNSET_KEY"},
    ]
    assert {OpenAICompatibleStudent(**(base | changed)).identity for changed in alike} == {identities[0]}
    two_fields = {"min_p": 0.1, "top_p": 0.5}
    assert OpenAICompatibleStudent(**(base | {"extra_body": two_fields})).identity == identities[6]


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
    return {"error": {"message": f"no good, {' '.join(SECRETS)}", "code": code}}


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
    "422": ((422, {"detail": f"unknown field {SECRETS}"}, {}), errors.StudentBadRequest),
    "filter refuses": ((400, fault("content_filter"), {}), errors.StudentContentFiltered),
    "filter withholds": (chat("", finish_reason="content_filter"), errors.StudentContentFiltered),
    "half JSON": ((200, '{"choices": [{"message": {"con', {}), errors.StudentBadResponse),
    "HTML": ((200, f"<html>{SECRETS}</html>", {"Content-Type": "text/html"}), errors.StudentBadResponse),
    "empty": ((200, "", {}), errors.StudentBadResponse),
    "no choices": (chat(), errors.StudentBadResponse),
    "error as 200": ((200, fault("upstream"), {}), errors.StudentBadResponse),
    "cut short": ((200, "short", {"Content-Length": "999"}), errors.StudentUnreachable),
}


def chained(error: BaseException) -> list[BaseException]:
    """An exception and all that it drags along, shown in its traceback or not."""
    found: list[BaseException] = [error]
    for each in found:
        found += [other for other in (each.__cause__, each.__context__) if other is not None and other not in found]
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_its_error_and_none_tells_a_secret(
    server: ScriptedServer, key: None, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    reply, error = FAULTS[name]
    server.replies = [reply]
    student = OpenAICompatibleStudent("m", base_url=server.url, api_key_env="TEST_KEY", extra_headers=HEADERS)
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.StudentError) as caught:
        ask(student)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert student.ledger.stats.calls == len(server.bodies) == 1
    assert chained(caught.value) == [caught.value]
    assert all(server.headers[0][header.lower()] == value for header, value in HEADERS.items())
    shown = [
        *(text for each in chained(caught.value) for text in (str(each), repr(each), "".join(traceback.format_exception(each)))),
        caplog.text,
        repr(student),
        repr(vars(student)),
    ]
    assert caplog.text != ""
    assert [secret for secret in SECRETS if any(secret in text for text in shown)] == []


def test_a_secret_is_struck_out_however_a_server_spells_it(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", 'sk-"quoted"/+\\')
    headers = {"X-Flag": "1", "X-Long": "1-and-more", "X-Auth": "Token hush-hush-hush"}
    student = OpenAICompatibleStudent("m", base_url=server.url, api_key_env="TEST_KEY", extra_headers=headers)
    for said in (
        'a sk-"quoted"/+\\ b',
        {"unknown": 'sk-"quoted"/+\\'},
        "?key=sk-%22quoted%22%2F%2B%5C",
        "1-and-more 1",
        "hush-hush-hush",
    ):
        server.replies = [(400, {"error": {"message": said}}, {})]
        with pytest.raises(errors.StudentBadRequest) as caught:
            ask(student)
        told = str(caught.value).partition("(400: ")[2]
        assert "[secret]" in told
        assert not any(part in told for part in ("quoted", "more", "hush", "1"))


@pytest.mark.parametrize(
    ("reply", "remedy"),
    [
        (
            (400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
            "set student.max_tokens_field=max_completion_tokens",
        ),
        (
            (400, "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."),
            "set student.temperature=null",
        ),
        ((400, "Unsupported parameter: 'reasoning_effort' is not supported with this model."), "set student.reasoning_effort=null"),
        ((404, "This model is only supported in v1/responses and not in v1/chat/completions."), "set student.api=responses"),
        (
            (
                404,
                "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use v1/completions?",
            ),
            "set student.api=responses, or take another model",
        ),
        (
            (
                400,
                "This model's maximum context length is 64 tokens. However, you requested 90 tokens (40 in the messages).",
            ),
            "shorten the prompt or lower student.max_tokens",
        ),
        (
            (
                400,
                "'max_tokens' or 'max_completion_tokens' is too large: 50. This model's maximum context length is 64 tokens and your "
                "request has 40 input tokens (50 > 64 - 40).",
            ),
            "shorten the prompt or lower student.max_tokens",
        ),
        ((400, "max_tokens is too large: 100000. This model supports at most 16384 completion tokens"), "change student.max_tokens"),
    ],
    ids=["max_tokens", "temperature", "effort", "responses only", "no chat model", "context", "context of vLLM", "max_tokens too large"],
)
def test_an_error_names_the_setting_that_mends_it(
    server: ScriptedServer, student: OpenAICompatibleStudent, reply: tuple[int, str], remedy: str
) -> None:
    """The texts are the servers' own: OpenAI's, and vLLM's of which older versions send no object `error`; Gemini sends a list."""
    status, said = reply
    shapes: list[Any] = [{"error": {"message": said, "code": None}}, {"object": "error", "message": said, "code": status}]
    for body in (*shapes, shapes[:1]):
        server.replies = [(status, body, {})]
        with pytest.raises(errors.StudentBadRequest) as caught:
            ask(student)
        assert remedy in str(caught.value).partition(f"({status}")[0]
        assert str(caught.value).endswith(f"({status}: {said})")


def test_a_server_that_minds_the_newer_name_of_max_tokens(server: ScriptedServer) -> None:
    server.replies = [(400, {"error": {"message": "Unrecognized request argument supplied: max_completion_tokens"}}, {})]
    with pytest.raises(errors.StudentBadRequest, match=r"set student\.max_tokens_field=max_tokens"):
        ask(OpenAICompatibleStudent("m", base_url=server.url, max_tokens_field="max_completion_tokens"))


def test_a_code_is_enough_and_a_request_quoted_back_blames_nothing(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    server.replies = [(400, {"error": {"message": "no", "code": "context_length_exceeded"}}, {})]
    with pytest.raises(errors.StudentBadRequest, match="shorten the prompt"):
        ask(student)
    quoted = f"the last message must be the user's, which it is not in {{'messages': {['...'] * 20}, 'temperature': 0.0}}"
    server.replies = [(400, {"error": {"message": quoted}}, {})]
    with pytest.raises(errors.StudentBadRequest) as caught:
        ask(student)
    assert "student.temperature" not in str(caught.value)


def test_a_redirect_is_told_and_not_followed(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    server.replies = [(307, {}, {"Location": f"{server.url}/responses"})]
    with pytest.raises(errors.StudentUnknownModel, match=f"points elsewhere.*{server.url}/responses"):
        ask(student)
    assert server.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize("value", ["two\nlines", "", "nicht-äscii", " padded"])
def test_what_cannot_be_sent_is_refused_without_being_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="extra_headers: the value of X-A cannot be sent") as caught:
        OpenAICompatibleStudent("m", base_url="http://x/v1", extra_headers={"X-A": value})
    assert not value or value not in str(caught.value)
    with pytest.raises(ValueError, match="'X A' is no header's name"):
        OpenAICompatibleStudent("m", base_url="http://x/v1", extra_headers={"X A": "b"})
    if value:
        monkeypatch.setenv("TEST_KEY", value)
        with pytest.raises(ValueError, match="TEST_KEY holds no usable API key"):
            OpenAICompatibleStudent("m", base_url="http://x/v1", api_key_env="TEST_KEY")


@pytest.mark.parametrize("url", ["http://user:pass@x/v1", "http://x/v1?key=secret"])
def test_a_url_with_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url holds credentials or a query"):
        OpenAICompatibleStudent("m", base_url=url)


def test_retry_after_is_read_as_seconds_and_as_a_date(server: ScriptedServer, student: OpenAICompatibleStudent) -> None:
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    replies: list[tuple[dict[str, str], float | None, float | None]] = [
        ({"Retry-After": "7"}, 7.0, 7.0),
        ({"Retry-After": date}, 90.0, 100.0),
        ({"Retry-After": "9", "Retry-After-Ms": "250"}, 0.25, 0.25),
        ({"Retry-After": "soon"}, None, None),
        ({}, None, None),
    ]
    for headers, low, high in replies:
        server.replies = [(429, fault("rate_limit"), headers)]
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
