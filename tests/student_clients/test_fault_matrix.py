"""Every fault that a server can have, in front of the retries: what is repeated, what is raised, and that the count stays exact."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients import errors
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.pacing import PacedStudent, PacingConfig
from tests.student_clients.conftest import chat
from tests.student_clients.faulty_server import FaultyServer, Step, drip, encoded, faulty_server, hang, raw, reply

TIMEOUT_S = 0.3
"""For the faults that are slow. The others never wait for it, so that a busy machine does not decide."""
NEVER_S = 30.0
ATTEMPTS = 2
PROMPT_TOKENS, ANSWER_TOKENS = 7, 3
ANSWER = "4"
GOOD = encoded(200, chat(ANSWER))
HTML = "<html><body>Bad Gateway</body></html>"
NO_CREDIT = {"error": {"message": "no credit", "type": "insufficient_quota", "code": "insufficient_quota"}}
TOO_LONG = {"object": "error", "message": "This model's maximum context length is 64 tokens", "type": "BadRequestError", "code": 400}


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


def without(body: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != field}


def choice(content: str | None, finish_reason: str, **fields: str) -> dict[str, Any]:
    body = chat("", finish_reason=finish_reason)
    body["choices"][0]["message"] |= {"content": content, **fields}
    return body


@dataclass(frozen=True)
class Fault:
    step: Step
    error: type[errors.StudentError]
    billed: bool = False
    """The reply is whole and says what it took, though it holds no answer."""


PASSING = {
    "429": Fault(reply(429, {"error": {"message": "slow down"}}), errors.StudentRateLimited),
    "429 with Retry-After": Fault(reply(429, "", {"Retry-After": "0.1"}), errors.StudentRateLimited),
    "500": Fault(reply(500, {"error": {"message": "oops"}}), errors.StudentServerError),
    "502 with a page": Fault(reply(502, HTML, {"Content-Type": "text/html"}), errors.StudentServerError),
    "503 with Retry-After": Fault(reply(503, "", {"Retry-After": "0.1"}), errors.StudentServerError),
    "closed without a word": Fault(raw(b"", reset=False), errors.StudentUnreachable),
    "reset without a word": Fault(raw(b"", reset=True), errors.StudentUnreachable),
    "reset in the head": Fault(raw(GOOD[:20], reset=True), errors.StudentUnreachable),
    "reset in the body": Fault(raw(GOOD[:-20], reset=True), errors.StudentUnreachable),
    "closed in the body": Fault(raw(GOOD[:-20], reset=False), errors.StudentUnreachable),
    "reset in the body of a 500": Fault(raw(encoded(500, "oo", promised=99), reset=True), errors.StudentUnreachable),
    "not HTTP": Fault(raw(b"SSH-2.0-OpenSSH_9.9\r\n", reset=False), errors.StudentUnreachable),
    "hangs": Fault(hang, errors.StudentTimeout),
    "a slow head": Fault(drip(GOOD, at_once=9, every_s=TIMEOUT_S / 3), errors.StudentTimeout),
    "a slow body": Fault(drip(GOOD, at_once=len(GOOD) - 30, every_s=TIMEOUT_S / 3), errors.StudentTimeout),
    "half JSON": Fault(reply(200, GOOD.split(b"\r\n\r\n")[1][:60]), errors.StudentBadResponse),
    "a page as 200": Fault(reply(200, HTML, {"Content-Type": "text/html"}), errors.StudentBadResponse),
    "nothing as 200": Fault(reply(200, ""), errors.StudentBadResponse),
    "an error as 200": Fault(reply(200, {"error": {"message": "upstream failed"}}), errors.StudentBadResponse),
    "no choices": Fault(reply(200, chat()), errors.StudentBadResponse),
    "no text": Fault(reply(200, choice(None, "stop")), errors.StudentBadResponse, billed=True),
    "an error as finish reason": Fault(reply(200, choice("", "error")), errors.StudentBadResponse, billed=True),
    "given up midway": Fault(reply(200, choice("the ans", "abort")), errors.StudentUnreachable, billed=True),
}
LASTING = {
    "401": Fault(reply(401, ""), errors.StudentAuthError),
    "403": Fault(reply(403, ""), errors.StudentAuthError),
    "no credit": Fault(reply(429, NO_CREDIT), errors.StudentQuotaExhausted),
    "402": Fault(reply(402, {"error": {"message": "Insufficient Balance"}}), errors.StudentQuotaExhausted),
    "404": Fault(reply(404, ""), errors.StudentUnknownModel),
    "moved": Fault(reply(307, "", {"Location": "http://127.0.0.1:9/v1/chat/completions"}), errors.StudentUnknownModel),
    "422": Fault(reply(422, {"detail": [{"msg": "no"}]}), errors.StudentBadRequest),
    "too long": Fault(reply(400, TOO_LONG), errors.StudentBadRequest),
    "filter refuses": Fault(reply(400, {"error": {"message": "no", "code": "content_filter"}}), errors.StudentContentFiltered),
    "filter withholds": Fault(reply(200, choice("", "content_filter")), errors.StudentContentFiltered, billed=True),
}
FAULTS = PASSING | LASTING
SLOW = ("hangs", "a slow head", "a slow body")


def paced(server: FaultyServer, fault: str = "", attempts: int = ATTEMPTS) -> PacedStudent:
    timeout_s = TIMEOUT_S if fault in SLOW else NEVER_S
    adapter = OpenAICompatibleStudent("m", base_url=server.url, api_key_env="UNSET_KEY", timeout_s=timeout_s)
    return PacedStudent(adapter, PacingConfig(max_attempts=attempts, backoff_s=0))


def ask(student: PacedStudent) -> Completion:
    async def body() -> Completion:
        try:
            (completion,) = await student.complete([Message(role="user", content="2+2?")], SamplingParams())
            return completion
        finally:
            await student.aclose()

    return asyncio.run(body())


def expect(student: PacedStudent, server: FaultyServer, *, calls: int, billed: int) -> None:
    """The ledger holds what the server counted, and the tokens of `billed` replies."""
    stats = student.ledger.stats
    assert stats.calls == server.requests == calls
    assert (stats.prompt_tokens, stats.completion_tokens) == (billed * PROMPT_TOKENS, billed * ANSWER_TOKENS)


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_outlived(faulty: FaultyServer, name: str) -> None:
    faulty.script = [PASSING[name].step, reply(200, chat(ANSWER))]
    student = paced(faulty, name)
    completion = ask(student)
    assert (completion.text, completion.finish_reason) == (ANSWER, "stop")
    assert (completion.prompt_tokens, completion.completion_tokens) == (PROMPT_TOKENS, ANSWER_TOKENS)
    expect(student, faulty, calls=2, billed=1 + PASSING[name].billed)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_has_its_error(faulty: FaultyServer, name: str) -> None:
    fault = FAULTS[name]
    faulty.script = [fault.step]
    student = paced(faulty, name)
    with pytest.raises(errors.StudentError) as caught:
        ask(student)
    assert type(caught.value) is fault.error
    calls = ATTEMPTS if name in PASSING else 1
    expect(student, faulty, calls=calls, billed=calls * fault.billed)


def test_the_wait_that_a_server_asks_for_is_waited(faulty: FaultyServer) -> None:
    faulty.script = [PASSING["429 with Retry-After"].step, reply(200, chat(ANSWER))]
    started = time.perf_counter()
    ask(paced(faulty))
    assert time.perf_counter() - started >= 0.1


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_server_is_left_in_time(faulty: FaultyServer, name: str) -> None:
    faulty.script = [FAULTS[name].step]
    student = OpenAICompatibleStudent("m", base_url=faulty.url, timeout_s=TIMEOUT_S)

    async def body() -> float:
        started = time.perf_counter()
        with pytest.raises(errors.StudentTimeout):
            await student.complete([Message(role="user", content="2+2?")], SamplingParams())
        took_s = time.perf_counter() - started
        assert await asyncio.to_thread(faulty.left.wait, 5), "the connection is still open"
        await student.aclose()
        return took_s

    # Each of the bytes comes well within the limit, the last one long after it.
    assert TIMEOUT_S <= asyncio.run(body()) < 5 * TIMEOUT_S


ANSWERS = {
    "stopped by its length": (chat("2+2 is", finish_reason="length"), "2+2 is", "length", True),
    "empty, and said so": (chat(""), "", "stop", True),
    "reasoned until its length": (choice(None, "length"), "", "length", True),
    "reasoned and stopped": (choice(None, "stop", reasoning="hm"), "", "stop", True),
    "reasoned and stopped, as DeepSeek spells it": (choice(None, "stop", reasoning_content="hm"), "", "stop", True),
    "without usage": (without(chat(ANSWER), "usage"), ANSWER, "stop", False),
    "usage without counts": (chat(ANSWER) | {"usage": None}, ANSWER, "stop", False),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_looks_like_a_fault_and_is_an_answer(faulty: FaultyServer, name: str) -> None:
    body, text, finish_reason, billed = ANSWERS[name]
    faulty.script = [reply(200, body)]
    student = paced(faulty)
    completion = ask(student)
    assert (completion.text, completion.finish_reason) == (text, finish_reason)
    expect(student, faulty, calls=1, billed=int(billed))


def test_among_faults_of_all_kinds_each_question_gets_its_own_answer_or_an_error(faulty: FaultyServer) -> None:
    """60 questions at a time, two thirds of the requests fail, each in a way of its own; the server counts what it answered."""
    quick = [fault for name, fault in FAULTS.items() if name not in SLOW]
    rng = random.Random(0)
    given: list[str] = []
    billed = 0

    async def step(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal billed
        if rng.random() < 2 / 3:
            fault = rng.choice(quick)
            billed += fault.billed
            await fault.step(reader, writer)
            return
        # Nothing was awaited since this request was read, so it is the last one.
        question = faulty.bodies[-1]["messages"][0]["content"]
        given.append(question)
        await reply(200, chat(f"answer to {question}"))(reader, writer)

    faulty.script = [step]
    student = paced(faulty, attempts=4)

    async def ask_all() -> list[list[Completion] | BaseException]:
        questions = [[Message(role="user", content=str(i))] for i in range(60)]
        try:
            return await asyncio.gather(*(student.complete(q, SamplingParams()) for q in questions), return_exceptions=True)
        finally:
            await student.aclose()

    outcomes = asyncio.run(ask_all())
    answered = {i: outcome[0].text for i, outcome in enumerate(outcomes) if isinstance(outcome, list)}
    assert all(isinstance(outcome, (list, errors.StudentError)) for outcome in outcomes)
    assert answered == {i: f"answer to {i}" for i in answered}
    assert sorted(given) == sorted(str(i) for i in answered)
    assert 20 < len(answered) < 60
    expect(student, faulty, calls=student.ledger.stats.calls, billed=len(given) + billed)
