"""Retries and the limit on concurrency; waits are recorded, not waited."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients import errors
from student_clients.ledger import CountingStudent
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.pacing import PacedStudent, PacingConfig
from student_clients.scripted import ScriptedStudent
from tests.student_clients.conftest import ScriptedServer, chat

ASK = (Message(role="user", content="2+2?"),)
PARAMS = SamplingParams()


def paced(steps: Sequence[Exception | str], waits: list[float], **settings: float) -> PacedStudent:
    """A paced student that goes through a script of errors and answers and notes its waits in `waits`."""
    script = list(steps)

    def answer(messages: Sequence[Message]) -> str:
        step = script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    return PacedStudent(ScriptedStudent(answer), PacingConfig.model_validate(settings), sleep=sleep, rng=random.Random(0))


def test_retryable_errors_are_retried_with_growing_jittered_waits() -> None:
    waits: list[float] = []
    student = paced([*[errors.StudentServerError("x")] * 3, "4"], waits, backoff_s=1.0)
    assert asyncio.run(student.complete(ASK, PARAMS))[0].text == "4"
    assert [low <= wait <= 2 * low for wait, low in zip(waits, (0.5, 1.0, 2.0), strict=True)] == [True] * 3
    assert len(set(waits)) == 3
    assert student.ledger.stats.calls == 4


def test_waits_never_pass_the_limit() -> None:
    waits: list[float] = []
    student = paced([*[errors.StudentTimeout("x")] * 9, "4"], waits, backoff_s=1.0, max_wait_s=3.0, max_attempts=10)
    asyncio.run(student.complete(ASK, PARAMS))
    assert max(waits) <= 3.0


def test_retry_after_is_honoured() -> None:
    waits: list[float] = []
    student = paced([errors.StudentRateLimited("x", retry_after_s=20.0), "4"], waits, backoff_s=1.0)
    asyncio.run(student.complete(ASK, PARAMS))
    assert 20.5 <= waits[0] <= 21.0


def test_a_server_that_asks_for_too_long_is_given_up_on() -> None:
    waits: list[float] = []
    with pytest.raises(errors.StudentRateLimited):
        asyncio.run(paced([errors.StudentRateLimited("x", retry_after_s=61.0)], waits).complete(ASK, PARAMS))
    assert waits == []


def test_errors_that_waiting_does_not_mend_are_raised_at_once() -> None:
    waits: list[float] = []
    with pytest.raises(errors.StudentAuthError):
        asyncio.run(paced([errors.StudentAuthError("x")], waits).complete(ASK, PARAMS))
    assert waits == []


def test_the_ledger_counts_calls_as_the_server_does_and_failures_once(server: ScriptedServer) -> None:
    server.replies = [(500, {}, {}), chat("4"), (500, {}, {})]
    pacing = PacingConfig(max_attempts=3, backoff_s=0)
    student = CountingStudent(PacedStudent(OpenAICompatibleStudent("m", base_url=server.url), pacing))

    async def body() -> None:
        assert (await student.complete(ASK, PARAMS))[0].text == "4"
        with pytest.raises(errors.StudentServerError):
            await student.complete(ASK, PARAMS)
        await student.aclose()

    asyncio.run(body())
    assert student.stats.calls == len(server.bodies) == 5
    assert student.stats.as_dict() == {
        "calls": 5, "cache_hits": 0, "failures": 1, "prompt_tokens": 7, "completion_tokens": 3, "cost_usd": 0.0,
    }  # fmt: skip


class Crowded(ScriptedStudent):
    """Takes a few turns of the loop for an answer and notes how many wait for one at most."""

    at_once = 0
    most_at_once = 0

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(3):
            await asyncio.sleep(0)
        self.at_once -= 1
        return await super().complete(messages, params, n=n, sample_index=sample_index)


def test_no_more_than_the_limit_at_once_on_every_loop() -> None:
    crowded = Crowded(lambda messages: "4")
    student = PacedStudent(crowded, PacingConfig(concurrency=2))

    async def body() -> int:
        return len(await asyncio.gather(*(student.complete(ASK, PARAMS) for _ in range(10))))

    assert [asyncio.run(body()), asyncio.run(body())] == [10, 10]
    assert crowded.most_at_once == 2


def test_a_server_that_ignores_n_is_asked_again(server: ScriptedServer) -> None:
    server.replies = [chat("a"), chat("b"), (500, {}, {}), chat("c")]
    student = PacedStudent(OpenAICompatibleStudent("m", base_url=server.url), PacingConfig(backoff_s=0.0))

    async def ask() -> list[Completion]:
        try:
            return await student.complete(ASK, PARAMS, n=3)
        finally:
            await student.aclose()

    # What was answered before the failure is kept, not asked for (and paid for) again.
    assert [completion.text for completion in asyncio.run(ask())] == ["a", "b", "c"]
    assert [body.get("n") for body in server.bodies] == [3, 2, None, None]
    assert student.ledger.stats.calls == 4
