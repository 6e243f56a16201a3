"""Requests that pass by: bytes, headers, usage, errors and early ends, against servers that do as scripted."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest

from student_clients import errors
from student_clients.forwarding import ForwardedReply, passed_headers
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.usage import Usage, UsageReader
from tests.student_clients.conftest import chat, response
from tests.student_clients.faulty_server import FaultyServer, Step, drip, encoded, faulty_server, hang, raw, reply

KEY = "sk-very-secret"
BODY = {"model": "other", "messages": [{"role": "user", "content": "2+2? – \ud800"}], "x": [1.5, None], "logit_bias": {}}
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture
def student(faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> OpenAICompatibleStudent:
    return made(faulty, monkeypatch)


def made(server: FaultyServer, monkeypatch: pytest.MonkeyPatch, timeout_s: float = 30.0) -> OpenAICompatibleStudent:
    monkeypatch.setenv("TEST_KEY", KEY)
    headers = {"X-Tenant": "tenant-4711"}
    return OpenAICompatibleStudent("m", base_url=server.url, api_key_env="TEST_KEY", timeout_s=timeout_s, extra_headers=headers)


def run(student: OpenAICompatibleStudent, body: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        try:
            return await body()
        finally:
            await student.aclose()

    return asyncio.run(main())


def forwarded(student: OpenAICompatibleStudent, body: Mapping[str, Any] = BODY, **options: Any) -> tuple[ForwardedReply, list[bytes]]:
    """A reply read to its end, and its pieces."""

    async def read() -> tuple[ForwardedReply, list[bytes]]:
        async with student.forward(body, **options) as passing:
            return passing, [piece async for piece in passing.chunks()]

    result: tuple[ForwardedReply, list[bytes]] = run(student, read)
    return result


def streamed(*events: Any, end: str = "\n\n") -> bytes:
    return b"".join(f"data: {event if isinstance(event, str) else json.dumps(event)}{end}".encode() for event in events)


def delta(text: str, **fields: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}], **fields}


def in_pieces(*pieces: bytes) -> Step:
    """A chunked stream whose pieces wait for each other, so that they reach the client one by one."""

    async def step(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = {**EVENTS, "Transfer-Encoding": "chunked"}
        writer.write(b"HTTP/1.1 200 OK\r\n" + "".join(f"{name}: {value}\r\n" for name, value in head.items()).encode() + b"\r\n")
        for piece in pieces:
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    return step


def expect(student: OpenAICompatibleStudent, *, calls: int, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
    stats = student.ledger.stats
    assert (stats.calls, stats.prompt_tokens, stats.completion_tokens) == (calls, prompt_tokens, completion_tokens)


def test_a_body_goes_and_comes_as_it_stands(faulty: FaultyServer, student: OpenAICompatibleStudent) -> None:
    content = json.dumps(chat("4") | {"unknown": "kept"}, indent=3).encode()
    faulty.script = [reply(200, content, {"Set-Cookie": "account=1", "X-RateLimit-Remaining": "3", "Server": "s"})]
    theirs = {"authorization": "Bearer theirs", "Cookie": "a=b", "X-Tenant": "theirs", "OpenAI-Beta": "v2", "Host": "theirs", "TE": "gzip"}
    passing, pieces = forwarded(student, headers=theirs)
    assert faulty.bodies == [BODY]
    assert b"".join(pieces) == content
    assert (passing.status, passing.headers) == (200, {"content-type": "application/json", "x-ratelimit-remaining": "3"})
    assert passing.usage is not None
    assert (passing.usage.prompt_tokens, passing.usage.completion_tokens) == (7, 3)
    expect(student, calls=1, prompt_tokens=7, completion_tokens=3)
    first, *lines = faulty.heads[0].splitlines()
    sent = [tuple(line.split(": ", 1)) for line in lines if line]
    values = {name.lower(): value for name, value in sent}
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert len(values) == len(sent)
    assert (values["authorization"], values["x-tenant"], values["openai-beta"]) == (f"Bearer {KEY}", "tenant-4711", "v2")
    assert values["host"] in faulty.url
    assert values["accept-encoding"] == "identity"
    assert not {"cookie", "te"} & values.keys()
    assert KEY not in repr(vars(passing))


def test_given_content_goes_byte_for_byte(faulty: FaultyServer, student: OpenAICompatibleStudent) -> None:
    faulty.script = [reply(200, chat("4"))]
    content = '{ "model":"m",\t"x": 1.50e1, "x": "\\u00e4ä" }'.encode()
    forwarded(student, {"model": "m"}, content=content)
    assert faulty.contents == [content]


def test_a_refusal_keeps_what_the_server_said_without_our_secrets(faulty: FaultyServer, student: OpenAICompatibleStudent) -> None:
    said = json.dumps({"error": {"message": f"key {KEY} may not", "code": "c"}}).encode() + b"\xff"
    faulty.script = [reply(429, said, {"Retry-After": "7", "Set-Cookie": "a=b", "X-Request-Id": "theirs"})]
    with pytest.raises(errors.StudentRateLimited) as caught:
        forwarded(student)
    kept = caught.value.reply
    assert kept is not None
    assert (kept.status, kept.content) == (429, said.replace(KEY.encode(), b"[secret]"))
    assert kept.headers == {"content-type": "application/json", "retry-after": "7", "x-request-id": "theirs"}


def test_another_path(faulty: FaultyServer, student: OpenAICompatibleStudent) -> None:
    faulty.script = [reply(200, response("4"))]
    passing, _ = forwarded(student, path="responses")
    assert faulty.heads[0].startswith("POST /v1/responses ")
    assert passing.usage is not None
    assert (passing.usage.prompt_tokens, passing.usage.cached_prompt_tokens, passing.usage.reasoning_tokens) == (7, 2, 1)


def test_a_stream_passes_piece_by_piece_and_its_last_usage_counts(faulty: FaultyServer, student: OpenAICompatibleStudent) -> None:
    pieces = [
        streamed(delta("2+", usage=None)),
        streamed(delta("2", usage={"prompt_tokens": 7, "completion_tokens": 1})),
        streamed({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}),
        streamed("[DONE]"),
    ]
    faulty.script = [in_pieces(*pieces)]
    passing, got = forwarded(student, {"stream": True})
    assert got == pieces
    assert passing.headers == {"content-type": EVENTS["Content-Type"], "cache-control": "no-cache"}
    expect(student, calls=1, prompt_tokens=7, completion_tokens=2)


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\n"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_usage_is_found_wherever_a_stream_is_cut(end: str, size: int) -> None:
    content = streamed(delta('say "usage"'), {"type": "response.completed", "response": response("4")}, "[DONE]", end=end)
    reader = UsageReader(events=True)
    for i in range(0, len(content), size):
        reader.feed(content[i : i + size])
    found = reader.end()
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens, found.cached_prompt_tokens) == (7, 3, 2)


@pytest.mark.parametrize("content", [b"", b'{"usage": 4', b'{"usage": "much"}', b'["usage"]', b'{"usage": null}', b"<html>"])
def test_a_body_without_usage_passes_all_the_same(faulty: FaultyServer, student: OpenAICompatibleStudent, content: bytes) -> None:
    faulty.script = [reply(200, content)]
    passing, pieces = forwarded(student)
    assert (b"".join(pieces), passing.usage) == (content, None)
    expect(student, calls=1)


def test_a_body_too_large_is_not_held() -> None:
    reader = UsageReader(events=False)
    for piece in (b'{"text": "', b"a" * 17_000_000, b'", "usage": {"prompt_tokens": 7}}'):
        reader.feed(piece)
    assert reader.end() is None


BEFORE_THE_FIRST_BYTE: dict[str, tuple[Step, type[errors.StudentError]]] = {
    "429": (reply(429, {"error": {"message": f"no {KEY}"}}, {"Retry-After": "7"}), errors.StudentRateLimited),
    "500": (reply(500, "oops"), errors.StudentServerError),
    "401": (reply(401, {"error": {"message": f"Incorrect API key: {KEY}"}}), errors.StudentAuthError),
    "400": (reply(400, {"error": {"message": "'temperature' is not supported"}}), errors.StudentBadRequest),
    "404": (reply(404, ""), errors.StudentUnknownModel),
    "moved": (reply(307, "", {"Location": "http://127.0.0.1:9/v1"}), errors.StudentUnknownModel),
    "reset": (raw(b"", reset=True), errors.StudentUnreachable),
    "a 500 cut short": (raw(encoded(500, "oo", promised=99), reset=True), errors.StudentUnreachable),
    "hangs": (hang, errors.StudentTimeout),
    "a slow head": (drip(encoded(200, chat("4")), at_once=9, every_s=0.1), errors.StudentTimeout),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", BEFORE_THE_FIRST_BYTE)
def test_what_fails_before_the_first_byte_has_its_error(
    faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch, name: str, stream: bool
) -> None:
    step, error = BEFORE_THE_FIRST_BYTE[name]
    faulty.script = [step]
    student = made(faulty, monkeypatch, 0.25 if error is errors.StudentTimeout else 30.0)
    with pytest.raises(errors.StudentError) as caught:
        forwarded(student, {"stream": stream})
    assert type(caught.value) is error
    assert caught.value.retry_after_s == (7.0 if name == "429" else None)
    assert KEY not in str(caught.value)
    assert caught.value.__context__ is None
    # The request is the caller's own, so that our settings are not to blame.
    assert "student.temperature" not in str(caught.value)
    assert faulty.requests == 1
    expect(student, calls=1)


def test_nobody_there_is_not_a_call(closed_port_url: str) -> None:
    student = OpenAICompatibleStudent("m", base_url=closed_port_url)
    with pytest.raises(errors.StudentNotConnected):
        forwarded(student)
    expect(student, calls=0)


@pytest.mark.parametrize("reset", [True, False])
def test_a_stream_that_breaks_off_has_its_error_after_what_came(
    faulty: FaultyServer, student: OpenAICompatibleStudent, reset: bool
) -> None:
    first = streamed(delta("2+2", usage={"prompt_tokens": 7, "completion_tokens": 1}))
    faulty.script = [raw(encoded(200, first, EVENTS, promised=999), reset=reset)]
    got: list[bytes] = []

    async def read() -> None:
        async with student.forward({"stream": True}) as passing:
            async for piece in passing.chunks():
                got.append(piece)

    with pytest.raises(errors.StudentUnreachable) as caught:
        run(student, read)
    assert got == [first]
    assert caught.value.__context__ is None
    expect(student, calls=1)


def test_a_slow_stream_is_no_fault_a_slow_body_and_a_silent_stream_are(faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = encoded(200, streamed("[DONE]"), EVENTS)
    whole_s, every_s = 0.5, 0.1
    faulty.script = [drip(slow, at_once=len(slow) - 8, every_s=every_s)]
    _, pieces = forwarded(made(faulty, monkeypatch, whole_s), {"stream": True})
    assert b"".join(pieces) == streamed("[DONE]")
    for stream, step in (
        (False, drip(slow, at_once=len(slow) - 12, every_s=every_s)),
        (True, drip(slow, at_once=len(slow) - 1, every_s=9)),
    ):
        faulty.left.clear()
        faulty.script = [step]
        with pytest.raises(errors.StudentTimeout):
            forwarded(made(faulty, monkeypatch, whole_s), {"stream": stream})
        assert faulty.left.wait(5)


def endless(*pieces: bytes) -> Step:
    """A stream that says something and then nothing, until the client leaves."""

    async def step(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encoded(200, b"".join(pieces), EVENTS, promised=9999))
        await hang(reader, writer)

    return step


@pytest.mark.parametrize("read_first", [True, False])
def test_leaving_early_closes_the_upstream_connection(faulty: FaultyServer, student: OpenAICompatibleStudent, read_first: bool) -> None:
    faulty.script = [endless(streamed(delta("2+2")))]

    async def read() -> None:
        async with student.forward({"stream": True}) as passing:
            pieces = passing.chunks()
            if read_first:
                assert await anext(aiter(pieces)) == streamed(delta("2+2"))
        # Closed by the context, not by the collection of what is still held here.
        assert await asyncio.to_thread(faulty.left.wait, 5)
        assert pieces is not None

    run(student, read)
    expect(student, calls=1)


@pytest.mark.parametrize("read_first", [True, False], ids=["between pieces", "before the head"])
def test_a_cancelled_task_closes_the_upstream_connection(faulty: FaultyServer, student: OpenAICompatibleStudent, read_first: bool) -> None:
    faulty.script = [endless(streamed(delta("2+2"))) if read_first else hang]

    async def main() -> None:
        reached = threading.Event() if read_first else faulty.asked

        async def read() -> None:
            async with student.forward({"stream": True}) as passing:
                async for _ in passing.chunks():
                    reached.set()

        task = asyncio.create_task(read())
        assert await asyncio.to_thread(reached.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(faulty.left.wait, 5)

    run(student, main)
    expect(student, calls=1)


def test_entered_in_one_task_read_in_another_left_in_a_third(faulty: FaultyServer, student: OpenAICompatibleStudent) -> None:
    """As a web framework does that sends the head from the handler and the body from a task of its own."""
    faulty.script = [in_pieces(streamed("[DONE]"))]

    async def main() -> bytes:
        context = student.forward({"stream": True})
        passing = await asyncio.create_task(context.__aenter__())

        async def read(pieces: AsyncIterator[bytes]) -> bytes:
            return b"".join([piece async for piece in pieces])

        content = await asyncio.create_task(read(passing.chunks()))
        await asyncio.create_task(context.__aexit__(None, None, None))
        return content

    assert run(student, main) == streamed("[DONE]")


def test_a_connection_is_used_again(faulty: FaultyServer, student: OpenAICompatibleStudent) -> None:
    ports: set[int] = set()

    async def step(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        await reply(200, chat("4"))(reader, writer)

    faulty.script = [step]

    async def main() -> None:
        for _ in range(3):
            async with student.forward({}) as passing:
                assert [piece async for piece in passing.chunks()] != []

    run(student, main)
    assert (faulty.requests, len(ports)) == (3, 1)


def test_a_compressed_body_is_given_uncompressed(faulty: FaultyServer, student: OpenAICompatibleStudent) -> None:
    import gzip

    content = json.dumps(chat("4")).encode()
    faulty.script = [reply(200, gzip.compress(content), {"Content-Encoding": "gzip"})]
    passing, pieces = forwarded(student)
    assert b"".join(pieces) == content
    assert passing.headers == {"content-type": "application/json"}
    assert passing.usage is not None


def test_counts_that_a_server_leaves_out_are_zero() -> None:
    assert Usage.model_validate({"prompt_tokens": None, "prompt_tokens_details": {"cached_tokens": 5}}).cached_prompt_tokens == 0
    assert Usage.model_validate({"output_tokens_details": {"reasoning_tokens": None}}).reasoning_tokens == 0


def test_a_header_value_that_is_not_ascii_is_left_out() -> None:
    assert passed_headers({"X-Request-Id": "7", "X-Place": "東京"}) == {"x-request-id": "7"}
