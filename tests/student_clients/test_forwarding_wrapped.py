"""A proxied request goes through all wrappers: repeated before its first byte, booked after its last, never cached."""

import asyncio
from typing import Any

import pytest

from exchange.records import Message
from store import Store, open_store
from student_clients import errors
from student_clients.budget import ACCOUNT, BudgetedStudent, BudgetExhausted, Price
from student_clients.caching import CachedStudent
from student_clients.ledger import CountingStudent
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.pacing import PacedStudent, PacingConfig
from student_clients.scripted import ScriptedStudent
from student_clients.token_bounds import answer_tokens_at_most, body_bytes
from tests.student_clients.conftest import ScriptedServer, chat

BODY = {"model": "m", "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 50, "tools": [{"type": "function"}]}
PRICE = Price.model_validate({"input": 1, "output": 10, "as_of": "2026-11-20"})


def wrapped(server: ScriptedServer, store: Store, limit_usd: float = 1.0) -> CountingStudent:
    adapter = OpenAICompatibleStudent("m", base_url=server.url)
    budgeted = BudgetedStudent(adapter, PRICE, lambda: store, limit_usd=limit_usd)
    return CountingStudent(CachedStudent(PacedStudent(budgeted, PacingConfig(backoff_s=0.0)), open_store("memory:")))


def forward(student: CountingStudent, times: int = 1, *, leave_early: bool = False) -> list[bytes]:
    async def body() -> list[bytes]:
        replies = []
        for _ in range(times):
            async with student.forward(BODY) as reply:
                if not leave_early:
                    replies.append(b"".join([piece async for piece in reply.chunks()]))
        await student.aclose()
        return replies

    return asyncio.run(body())


def totals(store: Store) -> dict[str, int]:
    return asyncio.run(store.totals(ACCOUNT))


def test_a_forwarded_request_is_repeated_booked_and_not_cached(server: ScriptedServer) -> None:
    store = open_store("memory:")
    server.replies = [(500, {}, {}), (429, {}, {}), chat("4")]
    student = wrapped(server, store)
    assert [b'"content":"4"' in reply for reply in forward(student, times=2)] == [True, True]
    assert server.bodies == [BODY] * 4
    # 7 prompt and 3 answer tokens, twice; what failed cost nothing.
    assert totals(store) == {"held": 0, "spent": 2 * (7 * 1000 + 3 * 10_000)}
    assert student.stats.calls == 4
    assert student.stats.cost_usd == pytest.approx(74e-6)


def test_a_refusal_comes_through_as_it_is_and_costs_nothing(server: ScriptedServer) -> None:
    store = open_store("memory:")
    server.replies = [(401, {"error": {"message": "no"}}, {})]
    student = wrapped(server, store)
    with pytest.raises(errors.StudentAuthError):
        forward(student)
    assert (totals(store), student.stats.failures) == ({"held": 0, "spent": 0}, 1)


def test_a_reply_that_is_left_before_its_end_stays_held(server: ScriptedServer) -> None:
    store = open_store("memory:")
    forward(wrapped(server, store), leave_early=True)
    assert totals(store) == {"held": PRICE.nano(body_bytes(BODY), 50)}


def test_a_model_of_another_price_is_not_forwarded(server: ScriptedServer) -> None:
    async def body() -> None:
        async with wrapped(server, open_store("memory:")).forward({**BODY, "model": "dearer"}):
            pass

    with pytest.raises(errors.StudentBadRequest, match="the price of 'm' is known and that of 'dearer' is not"):
        asyncio.run(body())
    assert server.bodies == []


def test_a_reply_without_usage_costs_the_most_it_can(server: ScriptedServer) -> None:
    store = open_store("memory:")
    server.replies = [{key: value for key, value in chat("4").items() if key != "usage"}]
    forward(wrapped(server, store))
    assert totals(store) == {"held": 0, "spent": PRICE.nano(body_bytes(BODY), 50)}


def test_the_budget_stops_a_forwarded_request_before_it_is_sent(server: ScriptedServer) -> None:
    with pytest.raises(BudgetExhausted):
        forward(wrapped(server, open_store("memory:"), limit_usd=1e-6))
    assert server.bodies == []


def test_a_student_without_a_server_says_so() -> None:
    with pytest.raises(errors.StudentBadRequest, match="no server to forward to"):
        forward(CountingStudent(ScriptedStudent(lambda messages: messages[-1].content)))


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 32_768),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 1, "n": 3.0}, 18),
        ({"max_output_tokens": 7, "n": None}, 7),
        ({"max_tokens": "x"}, 32_768),
    ],
)
def test_what_a_body_allows_its_answers(body: dict[str, Any], tokens: int) -> None:
    assert answer_tokens_at_most(body) == tokens


def test_bytes_bound_the_prompt() -> None:
    assert body_bytes(BODY) > sum(len(Message.model_validate(message).content.encode()) for message in BODY["messages"])  # type: ignore[attr-defined]
