"""An OpenAI client with an instruction in each user turn: in front of a scripted provider, beside a real service or a broken one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from exchange.compose import compose_query
from sdk import AsyncTeacher, Teacher, wrap
from server.app import create_app
from server.settings import ServerSettings
from tests.server.fakes import FakePolicy, FakeTeacher
from tests.server.running import running_app
from tests.student_clients.conftest import chat, response
from tests.student_clients.faulty_server import FaultyServer, faulty_server, hang, reply
from tests.student_clients.test_forwarding import delta, in_pieces, streamed

COMPOSED = compose_query("2+2?", "Think about 2+2?")
ASKED: Any = [{"role": "user", "content": "2+2?"}]
POLICY = FakePolicy(lambda example: "" if example.query == "quiet" else f"Think about {example.query}")


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with running_app(create_app(ServerSettings(cache_entries=0), FakeTeacher(POLICY))) as address:
        yield address


@pytest.fixture
def provider() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        server.script = [reply(200, chat("4"))]
        yield server


@pytest.fixture
def client(provider: FaultyServer, service: str) -> Iterator[openai.OpenAI]:
    POLICY.batches.clear()
    teacher = Teacher(service, deadline_s=10.0)
    with openai.OpenAI(base_url=provider.url, api_key="sk-the-apps", max_retries=0) as client:
        yield wrap(client, teacher)
    teacher.close()


def test_chat_goes_to_the_provider_with_an_instruction(client: openai.OpenAI, provider: FaultyServer) -> None:
    history: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    reply = client.chat.completions.with_raw_response.create(model="m", messages=[*history, *ASKED], temperature=0.1, user="user-7")
    assert reply.parse().choices[0].message.content == "4"
    sent = [*history, {"role": "user", "content": COMPOSED}]
    assert provider.bodies == [{"model": "m", "messages": sent, "temperature": 0.1, "user": "user-7"}]
    assert "authorization: bearer sk-the-apps" in provider.heads[0].lower()
    assert (reply.headers["wst-source"], "wst-degraded" in reply.headers) == ("teacher", False)
    assert reply.headers["wst-outcome-id"]
    asked = POLICY.batches[0][0]
    assert (asked.system, [turn.content for turn in asked.history]) == ("Be kind.", ["hi", "ho"])


def test_streams_parsed_replies_responses_and_copies(client: openai.OpenAI, provider: FaultyServer) -> None:
    class Number(BaseModel):
        n: int

    provider.script = [in_pieces(streamed(delta("4")), streamed("[DONE]"))]
    chunks = list(client.chat.completions.create(model="m", messages=ASKED, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["4"]
    provider.script = [reply(200, chat('{"n": 4}'))]
    assert client.chat.completions.parse(model="m", messages=ASKED, response_format=Number).choices[0].message.parsed == Number(n=4)
    provider.script = [reply(200, chat("4"))]
    client.with_options(timeout=5).chat.completions.create(model="m", messages=ASKED)
    provider.script = [reply(200, response("4", object="response", created_at=1.0))]
    assert client.responses.create(model="m", input="2+2?", instructions="Be kind.").output_text == "4"
    client.responses.create(model="m", input=[{"role": "user", "content": [{"type": "input_text", "text": "2+2?"}]}])
    turns = [body["messages"][-1]["content"] for body in provider.bodies[:3]]
    assert turns == [COMPOSED] * 3
    assert provider.bodies[3]["input"] == COMPOSED
    assert provider.bodies[4]["input"][0]["content"] == [{"type": "input_text", "text": COMPOSED}]
    assert POLICY.batches[3][0].system == "Be kind."


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "quiet"}],
        [{"role": "user", "content": COMPOSED}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}],
        [*ASKED, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "tool_call_id": "c", "content": "4"}],
        [{"role": "system", "content": "only me"}],
        [{"role": "user", "content": " "}],
        [],
    ],
)
def test_what_needs_no_instruction_goes_byte_for_byte(client: openai.OpenAI, provider: FaultyServer, messages: Any) -> None:
    client.chat.completions.create(model="m", messages=messages)
    with openai.OpenAI(base_url=provider.url, api_key="x") as plain:
        plain.chat.completions.create(model="m", messages=messages)
    assert provider.contents[0] == provider.contents[1]


def test_pictures_and_several_text_parts(client: openai.OpenAI, provider: FaultyServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    parts: Any = [{"type": "text", "text": "See here:"}, image, {"type": "text", "text": "2+2?"}, image]
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
    sent = provider.bodies[0]["messages"][0]["content"]
    advice = compose_query("", "Think about See here:\n2+2?")
    assert sent == [parts[0], image, {"type": "text", "text": f"{advice}2+2?"}, image]


def test_opting_out_and_options(client: openai.OpenAI, provider: FaultyServer) -> None:
    off = client.chat.completions.with_raw_response.create(model="m", messages=ASKED, extra_headers={"WST-Instruct": "off"})
    assert off.headers["wst-degraded"] == "opted_out"
    client.chat.completions.create(model="m", messages=ASKED, extra_body={"wst": {"instruct": False}})
    client.chat.completions.create(model="m", messages=ASKED, extra_body={"wst": {"task": "math"}}, extra_headers={"WST-Unit": "u"})
    assert [body["messages"] for body in provider.bodies[:2]] == [ASKED, ASKED]
    assert all("wst" not in body for body in provider.bodies)
    assert not any("wst-" in head.lower() for head in provider.heads)
    assert [example.task for batch in POLICY.batches for example in batch] == ["math"]


def test_other_requests_are_not_touched(client: openai.OpenAI, provider: FaultyServer) -> None:
    provider.script = [reply(200, {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]})]
    client.embeddings.create(model="m", input="2+2?", encoding_format="float")
    assert provider.bodies[0]["input"] == "2+2?"
    assert not POLICY.batches


def test_a_broken_service_costs_the_deadline_and_nothing_else(provider: FaultyServer, free_port: int) -> None:
    with faulty_server() as broken, openai.OpenAI(base_url=provider.url, api_key="x", max_retries=0) as client:
        broken.script = [hang, reply(200, "garbage"), reply(500, "")]
        wrap(client, broken.url.removesuffix("/v1"), deadline_s=0.2)
        for degraded in ("timeout", "garbage", "status_500", "left_alone"):
            got = client.chat.completions.with_raw_response.create(model="m", messages=ASKED)
            assert got.headers["wst-degraded"] == degraded
        wrap(client, f"http://127.0.0.1:{free_port}")
        assert client.chat.completions.create(model="m", messages=ASKED).choices[0].message.content == "4"
    assert all(body["messages"] == ASKED for body in provider.bodies)
    assert len(provider.contents) == 5


def test_the_providers_errors_and_retries_stay(client: openai.OpenAI, provider: FaultyServer) -> None:
    provider.script = [reply(400, {"error": {"message": "no"}})]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="m", messages=ASKED)
    provider.script = [reply(500, {}), reply(200, chat("4"))]
    assert client.with_options(max_retries=1).chat.completions.create(model="m", messages=ASKED).choices[0].message.content == "4"
    assert [body["messages"][0]["content"] for body in provider.bodies] == [COMPOSED] * 3, "instructed once each, not twice"


def test_the_async_client(provider: FaultyServer, service: str) -> None:
    async def ask() -> list[str | None]:
        teacher = AsyncTeacher(service, deadline_s=10.0)
        async with openai.AsyncOpenAI(base_url=provider.url, api_key="x") as client:
            wrap(wrap(client, "http://127.0.0.1:1"), teacher)  # the second takes the place of the first
            found = await asyncio.gather(*(client.chat.completions.create(model="m", messages=ASKED) for _ in range(8)))
        await teacher.aclose()
        return [one.choices[0].message.content for one in found]

    assert asyncio.run(ask()) == ["4"] * 8
    assert [body["messages"][0]["content"] for body in provider.bodies] == [COMPOSED] * 8


def test_what_cannot_be_wrapped() -> None:
    with pytest.raises(TypeError, match="not dict"):
        wrap({}, "http://127.0.0.1:1")
    with openai.OpenAI(api_key="x") as client, pytest.raises(TypeError, match="needs a Teacher, not AsyncTeacher"):
        wrap(client, AsyncTeacher("http://127.0.0.1:1"))
