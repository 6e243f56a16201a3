"""Models that are asked through `/v1/responses`, against a real server that answers as scripted."""

import asyncio
import json
from typing import Any

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients import errors
from student_clients.openai_compatible import OpenAICompatibleStudent
from tests.student_clients.conftest import ScriptedServer, chat, response

ASK = (Message(role="system", content="Be brief."), Message(role="user", content="2+2?"))
KEY = "sk-very-secret"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def ask(student: OpenAICompatibleStudent, params: SamplingParams | None = None, **options: int) -> list[Completion]:
    async def body() -> list[Completion]:
        try:
            return await student.complete(ASK, params or SamplingParams(), **options)
        finally:
            await student.aclose()

    return asyncio.run(body())


def responses_student(server: ScriptedServer, **settings: Any) -> OpenAICompatibleStudent:
    return OpenAICompatibleStudent("m", base_url=server.url, api_key_env="TEST_KEY", api="responses", **settings)


def test_a_response_and_what_was_sent(server: ScriptedServer, key: None) -> None:
    server.replies = [response("2+2", " is 4")]
    student = responses_student(server, reasoning_effort="low", extra_body={"service_tier": "flex"})
    (completion,) = ask(student, SamplingParams(max_tokens=20, seed=1), n=2)
    assert completion.model_copy(update={"latency_s": 0.0}) == Completion(
        text="2+2 is 4", finish_reason="stop", prompt_tokens=7, completion_tokens=3, reasoning_tokens=1, cached_prompt_tokens=2,
        model="m-2026",
    )  # fmt: skip
    assert server.paths == ["/v1/responses"]
    assert server.bodies == [
        {
            "model": "m",
            "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}],
            "max_output_tokens": 20,
            "temperature": 0.0,
            "reasoning": {"effort": "low"},
            "store": False,
            "service_tier": "flex",
        }
    ]
    stats = student.ledger.stats
    assert (stats.calls, stats.prompt_tokens, stats.completion_tokens) == (1, 7, 3)


def test_a_reply_of_the_sdks_own_types_is_read(server: ScriptedServer, key: None) -> None:
    """Our schema follows OpenAI's: what the SDK would parse as a response is read alike."""
    from openai.types.responses import Response

    body = response("4") | {"created_at": 1.0, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    body["usage"]["input_tokens_details"]["cache_write_tokens"] = 0
    parsed = Response.model_validate(body)
    server.replies = [json.loads(parsed.model_dump_json())]
    assert ask(responses_student(server))[0].text == parsed.output_text == "4"


def incomplete(reason: str | None, *texts: str) -> dict[str, Any]:
    return response(*texts, status="incomplete", incomplete_details={"reason": reason})


def test_a_response_that_ran_out_of_tokens(server: ScriptedServer, key: None) -> None:
    for texts, text in ((["2+2 i"], "2+2 i"), ([], "")):
        server.replies = [incomplete("max_output_tokens", *texts)]
        (completion,) = ask(responses_student(server))
        assert (completion.text, completion.finish_reason) == (text, "length")


def test_a_refusal_is_an_answer_and_commentary_is_none(server: ScriptedServer, key: None) -> None:
    body = response("Let me see.")
    body["output"][1]["phase"] = "commentary"
    refusal = {"type": "message", "phase": "final_answer", "content": [{"type": "refusal", "refusal": "I would rather not."}]}
    server.replies = [body | {"output": [*body["output"], refusal]}]
    assert ask(responses_student(server))[0].text == "I would rather not."


def failed(code: str) -> dict[str, Any]:
    return response(status="failed", error={"code": code, "message": f"sorry, {KEY}"}) | {"usage": None}


FAILED_RESPONSES = {
    "failed": (failed("server_error"), errors.StudentServerError),
    "rate limit": (failed("rate_limit_exceeded"), errors.StudentRateLimited),
    "policy": (failed("bio_policy"), errors.StudentContentFiltered),
    "filter": (incomplete("content_filter", "2+2"), errors.StudentContentFiltered),
    "steered": (incomplete("steered", "2+2"), errors.StudentBadResponse),
    "in progress": (response(status="in_progress"), errors.StudentBadResponse),
    "only reasoning": (response(), errors.StudentBadResponse),
    "odd message": (response("4") | {"output": [{"type": "message", "content": 4}]}, errors.StudentBadResponse),
    "a chat completion": (chat("4"), errors.StudentBadResponse),
    "no such path": ((404, {"detail": "Not Found"}, {}), errors.StudentUnknownModel),
}


@pytest.mark.parametrize("name", FAILED_RESPONSES)
def test_a_response_without_an_answer_has_its_error(server: ScriptedServer, key: None, name: str) -> None:
    reply, error = FAILED_RESPONSES[name]
    server.replies = [reply]
    student = responses_student(server)
    with pytest.raises(errors.StudentError) as caught:
        ask(student)
    assert type(caught.value) is error
    assert KEY not in str(caught.value)
    assert ("student.api=chat" in str(caught.value)) == (name == "no such path")
