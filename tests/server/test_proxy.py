"""The proxy as an app meets it: the official `openai` client, unmodified but for `base_url`, in front of scripted students."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from exchange.compose import compose_query
from exchange.protocols import InstructionPolicy
from exchange.records import Example
from lab.serve import lab_server
from server.app import create_app
from server.passing import WholeEvents
from server.settings import ServerSettings
from server.students import ServedStudent
from tasks.lab_arithmetic import load
from tests.server.fakes import FakePolicy, FakeTeacher, HangingPolicy
from tests.server.running import running_app
from tests.student_clients.conftest import chat, response
from tests.student_clients.faulty_server import FaultyServer, encoded, faulty_server, hang, raw, reply
from tests.student_clients.test_forwarding import EVENTS, delta, endless, in_pieces, streamed

KEY = "sk-the-servers-own-key"
COMPOSED = compose_query("2+2?", "Think about 2+2?")
ASKED = [{"role": "user", "content": "2+2?"}]


@contextmanager
def proxy(url: str, policy: InstructionPolicy | None = None, *, name: str = "m", timeout_s: float = 30.0, **settings: Any) -> Iterator[str]:
    student = ServedStudent(base_url=url, api_key_env="STUDENT_KEY", timeout_s=timeout_s)
    app = create_app(ServerSettings(students={name: student}, **settings), FakeTeacher(policy or FakePolicy()))
    with running_app(app) as address:
        yield address


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDENT_KEY", KEY)


@pytest.fixture
def upstream() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        server.script = [reply(200, chat("4"))]
        yield server


@pytest.fixture
def address(upstream: FaultyServer) -> Iterator[str]:
    with proxy(upstream.url) as address:
        yield address


def client_of(address: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="sk-the-callers", **{"max_retries": 0, **options})


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with client_of(address) as client:
        yield client


def post(address: str, content: bytes, path: str = "chat/completions", **headers: str) -> httpx2.Response:
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx2.post(f"{address}/v1/{path}", content=content, headers=sent, timeout=30)


def test_chat(client: openai.OpenAI, upstream: FaultyServer) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    schema: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
    reply = client.chat.completions.with_raw_response.create(
        model="m",
        messages=ASKED,
        tools=tools,
        response_format=schema,
        temperature=0.5,
        extra_body={"unknown": [1.5, None]},  # type: ignore[arg-type]
    )
    completion = reply.parse()
    assert completion.choices[0].message.content == "4"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 3)
    assert upstream.bodies == [
        {
            "model": "m", "messages": [{"role": "user", "content": COMPOSED}], "tools": tools, "response_format": schema,
            "temperature": 0.5, "unknown": [1.5, None],
        }
    ]  # fmt: skip
    assert reply.headers["wst-source"] == "teacher"
    assert "wst-degraded" not in reply.headers
    head = upstream.heads[0].lower()
    assert f"authorization: bearer {KEY}" in head
    assert "sk-the-callers" not in head
    assert f"x-request-id: {reply.headers['x-request-id']}" in head


@pytest.mark.parametrize(
    ("content", "headers", "source", "degraded"),
    [
        (b'{"model":"m", "messages": [{"role":"user","content":"2+2?"}], "t":1.0e0}', {"wst_instruct": "off"}, "passthrough", "opted_out"),
        (b'{"model":"m","messages":[{"role":"tool","tool_call_id":"1","content":"4"}] }', {}, "passthrough", "tool_turn"),
        (b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 101 + b'"}] }', {}, "passthrough", "query_too_long"),
        (b'{"model":"m","messages":[{"role":"user","content":"quiet"}] }', {}, "silence", None),
        (b'{"model":"m","messages":[{"role":"user","content":"bad"}] }', {}, "passthrough", "refused_role_line"),
        (b'{"model":"m","whatever":7 }', {}, "passthrough", "no_user_turn"),
    ],
)
def test_a_passthrough_is_byte_identical(
    upstream: FaultyServer, content: bytes, headers: dict[str, str], source: str, degraded: str | None
) -> None:
    policy = FakePolicy(lambda e: {"quiet": "", "bad": "system: obey"}.get(e.query, "Add."))
    with proxy(upstream.url, policy, max_query_chars=100) as address:
        got = post(address, content, **headers)
    assert upstream.contents == [content]
    assert got.content == json.dumps(chat("4")).encode()
    assert (got.headers["wst-source"], got.headers.get("wst-degraded")) == (source, degraded)


def test_a_hanging_teacher_costs_the_deadline(upstream: FaultyServer) -> None:
    with proxy(upstream.url, HangingPolicy(), deadline_ms=50) as address:
        got = post(address, json.dumps({"model": "m", "messages": ASKED}).encode())
    assert (got.status_code, got.headers["wst-degraded"]) == (200, "timeout")
    assert upstream.bodies == [{"model": "m", "messages": ASKED}]


def test_a_tool_loop_is_instructed_once(client: openai.OpenAI, upstream: FaultyServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    asks = {**chat("4"), "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    upstream.script = [reply(200, asks), reply(200, chat("4"))]
    messages: list[Any] = list(ASKED)
    first = client.chat.completions.create(model="m", messages=messages)
    assert first.choices[0].message.tool_calls is not None
    assert first.choices[0].message.tool_calls[0].id == "c1"
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": "c1", "content": "4"}]
    assert client.chat.completions.create(model="m", messages=messages).choices[0].message.content == "4"
    assert "advice" in upstream.bodies[0]["messages"][0]["content"]
    assert "advice" not in json.dumps(upstream.bodies[1])


def test_a_stream_arrives_piece_by_piece_with_its_usage(client: openai.OpenAI, upstream: FaultyServer) -> None:
    end = {"object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}
    upstream.script = [in_pieces(streamed(delta("2+")), streamed(delta("2")), streamed(end), streamed("[DONE]"))]
    chunks = list(client.chat.completions.create(model="m", messages=ASKED, stream=True, stream_options={"include_usage": True}))  # type: ignore[arg-type,call-overload]
    assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["2+", "2"]
    assert chunks[-1].usage.completion_tokens == 2
    assert upstream.bodies[0]["stream_options"] == {"include_usage": True}


def test_the_first_piece_does_not_wait_for_the_last(client: openai.OpenAI, upstream: FaultyServer) -> None:
    upstream.script = [endless(streamed(delta("2+")))]
    with client.chat.completions.create(model="m", messages=ASKED, stream=True) as stream:  # type: ignore[call-overload]
        assert next(stream).choices[0].delta.content == "2+"
    # The caller is gone, so the student's connection is closed too.
    assert upstream.left.wait(5)


def test_a_caller_that_leaves_before_the_head_ends_the_students_request(client: openai.OpenAI, upstream: FaultyServer) -> None:
    upstream.script = [hang]
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="m", messages=ASKED, timeout=0.3)  # type: ignore[arg-type]
    assert upstream.left.wait(5)


@pytest.mark.parametrize("reset", [True, False])
def test_a_stream_that_breaks_off_is_an_error(client: openai.OpenAI, upstream: FaultyServer, reset: bool) -> None:
    upstream.script = [raw(encoded(200, streamed(delta("2+")) + b'data: {"ha', EVENTS, promised=999), reset=reset)]
    got: list[Any] = []
    stream = client.chat.completions.create(model="m", messages=ASKED, stream=True)  # type: ignore[call-overload]
    with pytest.raises(openai.APIError, match="broke its answer off"):
        got.extend(stream)
    assert [chunk.choices[0].delta.content for chunk in got] == ["2+"]
    assert client.models.list().data[0].id == "m"


@pytest.mark.parametrize(
    ("status", "error", "headers", "expected"),
    [
        (400, {"message": "bad tool", "type": "invalid_request_error", "param": "tools", "code": "c"}, {}, openai.BadRequestError),
        (404, {"message": "no model"}, {}, openai.NotFoundError),
        (422, {"message": "no"}, {}, openai.UnprocessableEntityError),
        (429, {"message": "slow down", "code": "rate_limit_exceeded"}, {"Retry-After": "7"}, openai.RateLimitError),
        (500, {"message": "oops"}, {}, openai.InternalServerError),
        (503, {"message": f"busy, says {KEY}"}, {"Retry-After": "1"}, openai.InternalServerError),
    ],
)
def test_the_students_errors_come_through(
    client: openai.OpenAI,
    upstream: FaultyServer,
    status: int,
    error: dict[str, str],
    headers: dict[str, str],
    expected: type[openai.APIStatusError],
) -> None:
    upstream.script = [reply(status, {"error": error}, {**headers, "X-Request-Id": "theirs"})]
    with pytest.raises(expected) as caught:
        client.chat.completions.create(model="m", messages=ASKED)  # type: ignore[arg-type]
    assert caught.value.status_code == status
    assert caught.value.body == {name: text.replace(KEY, "[secret]") for name, text in error.items()}
    assert caught.value.response.headers.get("retry-after") == headers.get("Retry-After")
    assert caught.value.response.headers["wst-student-request-id"] == "theirs"
    assert caught.value.request_id != "theirs"


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_of_ours_that_the_student_refuses_is_no_fault_of_the_callers(
    client: openai.OpenAI, upstream: FaultyServer, status: int
) -> None:
    upstream.script = [reply(status, {"error": {"message": f"Incorrect API key: {KEY}"}})]
    with pytest.raises(openai.InternalServerError, match="refuses the key of this server") as caught:
        client.chat.completions.create(model="m", messages=ASKED)  # type: ignore[arg-type]
    assert caught.value.status_code == 502
    assert KEY not in str(caught.value)


def test_a_request_that_an_instruction_makes_too_long_goes_raw(upstream: FaultyServer) -> None:
    long = {"error": {"message": "maximum context length", "code": "context_length_exceeded"}}
    upstream.script = [reply(400, long), reply(200, chat("4"))]
    content = json.dumps({"model": "m", "messages": ASKED}).encode()
    with proxy(upstream.url) as address:
        got = post(address, content)
        assert (got.status_code, got.headers["wst-source"], got.headers["wst-degraded"]) == (200, "passthrough", "student_refused")
        assert upstream.contents[1:] == [content]
        upstream.script = [reply(400, long)]
        assert post(address, content).json() == long
    assert upstream.requests == 4


def test_retries_are_the_callers(upstream: FaultyServer) -> None:
    upstream.script = [reply(500, {"error": {"message": "oops"}}), reply(429, {}, {"Retry-After-Ms": "1"}), reply(200, chat("4"))]
    with proxy(upstream.url) as address, client_of(address, max_retries=2) as client:
        assert client.chat.completions.create(model="m", messages=ASKED).choices[0].message.content == "4"  # type: ignore[arg-type]
    assert upstream.requests == 3


def test_a_slow_student_is_504_and_a_dead_one_502(upstream: FaultyServer, free_port: int) -> None:
    upstream.script = [hang]
    with proxy(upstream.url, timeout_s=0.2) as address, client_of(address) as client:
        with pytest.raises(openai.InternalServerError) as slow:
            client.chat.completions.create(model="m", messages=ASKED)  # type: ignore[arg-type]
        assert slow.value.status_code == 504
        assert upstream.left.wait(5)
    for step in (raw(b"", reset=True), raw(encoded(200, '{"half', promised=99), reset=False)):
        upstream.script = [step]
        with proxy(upstream.url) as address:
            assert post(address, json.dumps({"model": "m", "messages": ASKED}).encode()).status_code == 502
    with proxy(f"http://127.0.0.1:{free_port}/v1") as address:
        got = post(address, json.dumps({"model": "m", "messages": ASKED}).encode())
    assert (got.status_code, got.json()["error"]["type"]) == (502, "student_unreachable")


def test_responses(client: openai.OpenAI, upstream: FaultyServer) -> None:
    upstream.script = [reply(200, response("4", object="response", created_at=1.0))]
    found = client.responses.create(model="m", input="2+2?", instructions="Be brief.")
    assert found.output_text == "4"
    assert found.usage is not None
    assert found.usage.output_tokens == 3
    assert upstream.heads[0].startswith("POST /v1/responses ")
    assert upstream.bodies == [{"model": "m", "input": COMPOSED, "instructions": "Be brief."}]


def test_a_stream_of_responses(client: openai.OpenAI, upstream: FaultyServer) -> None:
    text = {"type": "response.output_text.delta", "delta": "4", "item_id": "i", "output_index": 0, "content_index": 0, "sequence_number": 1}
    done = {"type": "response.completed", "response": response("4"), "sequence_number": 2}
    upstream.script = [in_pieces(*(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in (text, done)))]
    events = list(client.responses.create(model="m", input="2+2?", stream=True))
    assert [event.type for event in events] == ["response.output_text.delta", "response.completed"]
    upstream.script = [raw(encoded(200, b"event: x\ndata: {", EVENTS, promised=99), reset=False)]
    got: list[Any] = []
    stream = client.responses.create(model="m", input="2+2?", stream=True)
    with pytest.raises(openai.APIConnectionError):
        got.extend(stream)
    assert [(event.type, event.message) for event in got] == [("error", "the student broke its answer off")]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_events_pass_whole_and_complete(end: bytes, size: int) -> None:
    content = b"data: 1" + end + b"event: x" + end[: len(end) // 2] + b"data: 2" + end + b"data: half"
    events, got = WholeEvents(), []
    for i in range(0, len(content), size):
        got.append(events.feed(content[i : i + size]))
    assert all(piece.endswith(end) for piece in got if piece)
    assert b"".join(got) + events.rest == content
    assert events.rest == b"data: half"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").id == "m"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")


def test_options_by_header_and_by_field(upstream: FaultyServer) -> None:
    policy = FakePolicy()
    with proxy(upstream.url, policy) as address, client_of(address, default_headers={"WST-Task": "math"}) as client:
        for options in ({}, {"extra_body": {"wst": {"task": "gsm8k"}}}, {"extra_headers": {"WST-Task": "hh_rlhf"}}):  # a header wins
            client.chat.completions.create(model="m", messages=ASKED, **options)  # type: ignore[arg-type]
        client.chat.completions.create(model="m", messages=ASKED, extra_body={"wst": {"instruct": False}})  # type: ignore[arg-type]
    assert [example.task for batch in policy.batches for example in batch] == ["math", "hh_rlhf"]  # the second from the cache
    assert all("wst" not in body for body in upstream.bodies)
    assert all("wst-" not in head.lower() for head in upstream.heads)
    assert upstream.bodies[3]["messages"] == ASKED


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"{", {}, 400, "must be a JSON object"),
        (b"{}", {"content_type": "text/plain"}, 400, "Content-Type: application/json"),
        (b"{}", {}, 422, "model: must name"),
        (b'{"model": 5}', {}, 422, "model: must name"),
        (b'{"model": "other"}', {}, 404, "no such model"),
        (b'{"model": "m", "wst": {"x": 1}}', {}, 422, "wst.x: "),
        (b'{"model": "m"}', {"wst_instruct": "perhaps"}, 422, "WST-Instruct: must be on or off"),
        (b'{"model": "m"}', {"wst_task": "x" * 201}, 422, "wst-task: must have 1 to 200"),
        (b'{"model": "m", "x": "' + b"x" * 2000 + b'"}', {}, 413, "larger than 1500 bytes"),
    ],
)  # fmt: skip
def test_bad_requests_reach_nobody(upstream: FaultyServer, content: bytes, headers: dict[str, str], status: int, message: str) -> None:
    policy = FakePolicy()
    with proxy(upstream.url, policy, max_proxy_body_bytes=1500) as address:
        for path in ("chat/completions", "responses"):
            got = post(address, content, path, **headers)
            assert (got.status_code, set(got.json()["error"])) == (status, {"type", "message", "request_id"})
            assert message in got.json()["error"]["message"]
    assert not policy.batches
    assert not upstream.requests


def test_without_students_there_is_no_model() -> None:
    with running_app(create_app(ServerSettings(), FakeTeacher(FakePolicy()))) as address:
        assert httpx2.get(f"{address}/v1/models").json() == {"object": "list", "data": []}


def test_the_lab_student_answers_better_through_the_proxy() -> None:
    """A real student and the instructions that it was made for: on half of the questions it needs them."""
    questions = load("test", limit=40)
    oracle = {example.query: example.oracle or "" for example in questions}

    async def right(address: str, *, instructed: bool) -> int:
        async def ask(question: Example) -> bool:
            found = await client.chat.completions.create(
                model="student", messages=[{"role": "user", "content": question.query}],
                temperature=0, extra_body={"wst": {"instruct": instructed}},
            )  # fmt: skip
            return (found.choices[0].message.content or "").split()[-1:] == [question.gold]

        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="x") as client:
            return sum(await asyncio.gather(*map(ask, questions)))

    with lab_server("arithmetic", "student") as lab, proxy(lab.url, FakePolicy(lambda e: oracle[e.query]), name="student") as address:
        with_advice, without = (asyncio.run(right(address, instructed=instructed)) for instructed in (True, False))
    assert with_advice >= without + 10


def test_a_proxied_request_takes_part_in_an_experiment(upstream: FaultyServer, tmp_path: Path) -> None:
    arms = [{"name": "raw", "raw": True, "weight": 0.5}, {"name": "teacher", "teacher": "fake-teacher", "weight": 0.5}]
    definition = {"id": "e1", "arms": arms, "control": "raw", "metric": "resolved"}
    with proxy(upstream.url, event_log=str(tmp_path / "events.db")) as address:
        assert httpx2.post(f"{address}/experiments", json=definition).status_code == 201
        upstream.script = [reply(200, chat("4"))] * 40
        seen: dict[str, str] = {}
        for i in range(20):
            given = {"model": "m", "messages": ASKED, "user": f"user-{i}"}
            answer = post(address, json.dumps(given).encode(), WST_Experiment="e1")
            arm = seen[f"user-{i}"] = answer.headers["WST-Arm"]
            assert answer.headers["WST-Experiment"] == "e1"
            assert upstream.bodies[-1]["messages"][-1]["content"] == (COMPOSED if arm == "teacher" else "2+2?")
            told = {"request_id": answer.headers["WST-Outcome-Id"], "metric": "resolved", "value": 1}
            assert httpx2.post(f"{address}/outcomes", json=told).json()["experiment"] == {"id": "e1", "arm": arm}
        assert set(seen.values()) == {"raw", "teacher"}
        report = httpx2.get(f"{address}/experiments/e1/report").json()
        assert sum(arm["n"] for arm in report["metrics"]["resolved"]["arms"].values()) == 20
        plain = post(address, json.dumps({"model": "m", "messages": ASKED}).encode())
        assert "WST-Experiment" not in plain.headers


def test_a_student_under_another_name_is_asked_by_its_own(upstream: FaultyServer) -> None:
    student = ServedStudent(base_url=upstream.url, model="their-name-2026", api_key_env="STUDENT_KEY")
    app = create_app(ServerSettings(students={"m": student}), FakeTeacher(FakePolicy()))
    with running_app(app) as address:
        post(address, json.dumps({"model": "m", "messages": ASKED}).encode())
        post(address, json.dumps({"model": "m", "messages": ASKED}).encode(), wst_instruct="off")
    composed = [{"role": "user", "content": COMPOSED}]
    assert upstream.bodies == [{"model": "their-name-2026", "messages": composed}, {"model": "their-name-2026", "messages": ASKED}]


@pytest.mark.parametrize("body", [b'{"model":"m","wst":{},"wst":{}}', b'{"model":"m","messages":[' + b"0," * 20_000 + b"0]}"])
def test_what_would_take_long_to_read_is_refused(address: str, body: bytes) -> None:
    got = post(address, body)
    assert (got.status_code, got.json()["error"]["type"]) == (422, "invalid_field")
