"""Micro-batches, the bounded queue, deadlines and contained failures, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from exchange.protocols import InstructionPolicy
from exchange.records import Instruction, PublicExample
from server.engine import Answer, TeacherEngine
from tests.server.fakes import FakePolicy, HangingPolicy

LONG_S = 30.0
"""A deadline that no test may reach."""


def example(query: str) -> PublicExample:
    return PublicExample(id=query, task="gsm8k", split="served", query=query)


def engine(
    policy: InstructionPolicy, *, batch_size: int = 32, window_s: float = 0.0, deadline_s: float = LONG_S, max_queued: int = 256
) -> TeacherEngine:
    return TeacherEngine(policy, batch_size=batch_size, window_s=window_s, deadline_s=deadline_s, max_queued=max_queued)


async def ask_all(engine: TeacherEngine, queries: Sequence[str]) -> list[Answer]:
    return list(await asyncio.gather(*(engine.ask(example(query)) for query in queries)))


def texts(answers: Sequence[Answer]) -> list[str | None]:
    return [answer.instruction.text if answer.instruction else answer.failure for answer in answers]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


async def rounds() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


class GatedPolicy(FakePolicy):
    """Announces each batch and then waits for `gate`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        self.gate = asyncio.Event()
        self.begun.set()
        await self.gate.wait()
        return await super().instruct(examples)


def test_concurrent_requests_share_one_batch_in_order() -> None:
    policy = FakePolicy(lambda e: e.query.upper())
    assert texts(run(ask_all(engine(policy), list("abcdef")))) == list("ABCDEF")
    assert [[e.query for e in batch] for batch in policy.batches] == [list("abcdef")]


def test_a_batch_holds_at_most_batch_size() -> None:
    policy = FakePolicy()
    run(ask_all(engine(policy, batch_size=4), list("abcdefghij")))
    assert [len(batch) for batch in policy.batches] == [4, 4, 2]


def test_requests_gather_behind_a_running_batch() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        teacher = engine(policy)
        first = asyncio.create_task(teacher.ask(example("a")))
        await policy.begun.wait()
        rest = asyncio.create_task(ask_all(teacher, ["b", "c", "d"]))
        policy.begun.clear()
        await rounds()  # let them queue
        policy.gate.set()
        await policy.begun.wait()
        assert first.done()
        policy.gate.set()
        assert len(await rest) == 3
        assert [[e.query for e in batch] for batch in policy.batches] == [["a"], ["b", "c", "d"]]
        assert (await rest)[0].queue_s > 0

    run(scenario())


@pytest.mark.parametrize(("window_s", "batches"), [(0.05, 1), (0.0, 2)])
def test_an_idle_teacher_waits_the_window_for_company(window_s: float, batches: int) -> None:
    async def scenario() -> None:
        policy = FakePolicy()
        teacher = engine(policy, window_s=window_s)
        first = asyncio.create_task(teacher.ask(example("a")))
        await rounds()
        await asyncio.gather(first, teacher.ask(example("b")))
        assert len(policy.batches) == batches

    run(scenario())


def test_a_full_queue_refuses_at_once() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        teacher = engine(policy, max_queued=2)
        first = asyncio.create_task(teacher.ask(example("a")))
        await policy.begun.wait()
        answers = asyncio.create_task(ask_all(teacher, ["b", "c", "d", "e"]))
        policy.begun.clear()
        await rounds()
        policy.gate.set()
        await policy.begun.wait()
        policy.gate.set()
        assert texts(await answers) == ["Think about b", "Think about c", "overloaded", "overloaded"]
        assert texts([await first]) == ["Think about a"]

    run(scenario())


def test_a_hanging_teacher_costs_the_deadline_and_no_more() -> None:
    async def scenario() -> None:
        policy = HangingPolicy()
        teacher = engine(policy, deadline_s=0.05, max_queued=3)
        for _ in range(3):
            async with asyncio.timeout(5):
                assert texts(await ask_all(teacher, ["a", "b", "c"])) == ["timeout"] * 3
        assert not teacher._waiting  # nobody who gave up keeps a place in the queue
        teacher.policy = FakePolicy()
        assert texts([await teacher.ask(example("d"))]) == ["Think about d"]
        assert policy.cancelled >= 1

    run(scenario())


def test_who_gave_up_is_not_asked_for() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        teacher = engine(policy)
        first = asyncio.create_task(teacher.ask(example("a")))
        await policy.begun.wait()
        gone, stays = asyncio.create_task(teacher.ask(example("gone"))), asyncio.create_task(teacher.ask(example("stays")))
        await rounds()
        gone.cancel()
        await asyncio.wait([gone])
        policy.begun.clear()
        policy.gate.set()
        await policy.begun.wait()
        policy.gate.set()
        await asyncio.gather(first, stays)
        assert [[e.query for e in batch] for batch in policy.batches] == [["a"], ["stays"]]

    run(scenario())


def test_one_poisonous_query_hurts_only_itself() -> None:
    def say(e: PublicExample) -> str:
        if e.query == "poison":
            raise ValueError("no room in the context")
        return e.query

    policy = FakePolicy(say)
    queries = ["a", "b", "c", "poison", "d", "e", "f", "g"]
    assert texts(run(ask_all(engine(policy), queries))) == ["a", "b", "c", "teacher_failed", "d", "e", "f", "g"]
    assert [len(batch) for batch in policy.batches] == [8, 4, 2, 2, 1, 1, 4]


def test_a_policy_that_cancels_itself_leaves_nobody_waiting_for_ever() -> None:
    async def scenario() -> None:
        class Cancels(FakePolicy):
            async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
                raise asyncio.CancelledError

        teacher = engine(Cancels(), deadline_s=0.05)
        assert texts([await teacher.ask(example("a"))]) == ["timeout"]
        teacher.policy = FakePolicy()
        assert texts([await teacher.ask(example("b"))]) == ["Think about b"]

    run(scenario())


def test_closing_stops_the_policy_and_may_come_twice() -> None:
    async def scenario() -> None:
        policy = HangingPolicy()
        teacher = engine(policy, deadline_s=0.1)
        await teacher.aclose()
        waiting = asyncio.create_task(teacher.ask(example("a")))
        await rounds()
        await teacher.aclose()
        await teacher.aclose()
        assert policy.cancelled == 1
        assert texts([await waiting]) == ["timeout"]

    run(scenario())


def test_one_engine_outlives_an_event_loop() -> None:
    teacher = engine(FakePolicy())
    for _ in range(2):
        assert texts(run(ask_all(teacher, ["a"]))) == ["Think about a"]


@pytest.mark.parametrize("n", [1, 50])
def test_the_callers_wait_is_told_apart_from_the_teachers(n: int) -> None:
    for answer in run(ask_all(engine(FakePolicy()), [str(i) for i in range(n)])):
        assert answer.queue_s >= 0
        assert answer.teacher_s >= 0
