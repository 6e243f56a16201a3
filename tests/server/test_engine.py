"""Micro-batches, the bounded queue, deadlines and contained failures, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from exchange.protocols import InstructionPolicy
from exchange.records import Instruction, PublicExample
from server.breaker import Breaker
from server.engine import Answer, TeacherEngine
from tests.server.fakes import FakePolicy, HangingPolicy, fail

LONG_S = 30.0
"""A deadline that no test may reach."""


def example(query: str) -> PublicExample:
    return PublicExample(id=query, task="gsm8k", split="served", query=query)


def engine(policy: InstructionPolicy, **options: Any) -> TeacherEngine:
    return TeacherEngine(policy, **{"batch_size": 32, "window_s": 0.0, "deadline_s": LONG_S, "max_queued": 256, **options})


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
    assert [len(batch) for batch in policy.batches] == [8, 4, 4, 2, 2, 1, 1]


@pytest.mark.parametrize("poison", [(3, 20), (0, 31), (15, 16), (0, 8, 16, 24), (30, 31), tuple(range(8, 16))])
def test_several_poisonous_queries_hurt_only_themselves_and_are_no_dead_teacher(poison: tuple[int, ...]) -> None:
    async def scenario() -> None:
        def say(e: PublicExample) -> str:
            if int(e.query) in poison:
                raise ValueError("no room in the context")
            return e.query

        policy = FakePolicy(say)
        teacher = engine(policy)
        wanted = ["teacher_failed" if i in poison else str(i) for i in range(32)]
        for _ in range(6):
            assert texts(await ask_all(teacher, [str(i) for i in range(32)])) == wanted
            assert (teacher.breaker.open, teacher.breaker._failures) == (False, 0)

    run(scenario())


def test_a_teacher_that_dies_within_a_batch_is_not_asked_for_every_query_of_it() -> None:
    async def scenario() -> None:
        class Dies(FakePolicy):
            async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
                self.batches.append(list(examples))
                if len(self.batches) != 2:
                    raise RuntimeError
                return [Instruction(text=e.query, source="teacher") for e in examples]

        policy = Dies()
        teacher = engine(policy)
        queries = [str(i) for i in range(32)]
        assert texts(await ask_all(teacher, queries)) == queries[:16] + ["teacher_failed"] * 16
        assert [len(batch) for batch in policy.batches] == [32, 16, 16, 8, 8, 4, 4, 4, 4, 2]  # eight in a row after the one that went well
        assert not teacher.breaker.open
        for _ in range(2):
            answers = texts(await ask_all(teacher, queries))
        assert (answers, teacher.breaker.open, len(policy.batches)) == (["teacher_down"] * 32, True, 15)

    run(scenario())


def test_a_policy_that_cancels_itself_leaves_nobody_waiting_for_ever() -> None:
    async def scenario() -> None:
        class Cancels(FakePolicy):
            async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
                raise asyncio.CancelledError

        teacher = engine(Cancels(), deadline_s=LONG_S)
        assert texts([await teacher.ask(example("a"))]) == ["teacher_failed"]
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


def test_equal_requests_share_one_place_until_the_last_of_them_leaves() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        teacher = engine(policy)
        twins = [asyncio.create_task(teacher.ask(example("a"), key="a")) for _ in range(3)]
        await policy.begun.wait()
        late = asyncio.create_task(teacher.ask(example("a"), key="a"))
        await rounds()
        twins[0].cancel()  # the leader's going away harms nobody
        await rounds()
        policy.gate.set()
        assert texts([*await asyncio.gather(*twins[1:]), await late]) == ["Think about a"] * 3
        assert [len(batch) for batch in policy.batches] == [1]
        policy.begun.clear()
        alone = [asyncio.create_task(teacher.ask(example("a"), key="a")) for _ in range(2)]
        await policy.begun.wait()
        for task in alone:
            task.cancel()
        await asyncio.wait(alone)
        await rounds()
        assert not teacher._by_key
        assert not teacher._running  # the batch that nobody waited for was given up

    run(scenario())


def test_a_batch_that_everybody_left_is_cancelled() -> None:
    async def scenario() -> None:
        policy = HangingPolicy()
        teacher = engine(policy, max_queued=1000)
        gone = [asyncio.create_task(teacher.ask(example(str(i)))) for i in range(100)]
        await rounds()
        for task in gone:
            task.cancel()
        await asyncio.wait([*gone, *teacher._running], timeout=5)
        assert (policy.cancelled, teacher.queued, len(teacher._running)) == (1, 0, 0)

    run(scenario())


def test_who_comes_late_begins_in_another_lane() -> None:
    async def scenario() -> None:
        policy = HangingPolicy()
        teacher = engine(policy, lanes=2, late_join_s=0.01, batch_size=2, deadline_s=0.5)
        first = asyncio.create_task(teacher.ask(example("a")))
        await rounds()
        teacher.policy = FakePolicy()
        late = await asyncio.wait_for(teacher.ask(example("b")), 0.4)
        assert texts([late, await first]) == ["Think about b", "timeout"]

    run(scenario())


def test_a_teacher_behind_http_is_asked_by_as_many_as_it_bears() -> None:
    async def scenario() -> None:
        policy = FakePolicy()
        assert len(texts(await ask_all(engine(policy, batch_size=1, lanes=4), [str(i) for i in range(10)]))) == 10
        assert [len(batch) for batch in policy.batches] == [1] * 10

    run(scenario())


def test_a_callers_own_deadline_is_kept_and_never_longer_than_ours() -> None:
    async def scenario() -> None:
        teacher = engine(HangingPolicy(), deadline_s=1.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert texts([await teacher.ask(example("a"), deadline_s=0.01)]) == ["timeout"]
        assert loop.time() - began < 0.5
        assert texts([await teacher.ask(example("a"), deadline_s=60)]) == ["timeout"]
        assert loop.time() - began < 5

    run(scenario())


def test_who_cannot_be_answered_in_time_is_refused_at_once() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        teacher = engine(policy, batch_size=1)
        teacher.batch_s = 10.0
        first = asyncio.create_task(teacher.ask(example("a")))  # an idle teacher is always tried
        await policy.begun.wait()
        assert texts([await teacher.ask(example("b"), deadline_s=9)]) == ["overloaded"]
        second = asyncio.create_task(teacher.ask(example("c"), deadline_s=15))
        await rounds()
        assert texts([await teacher.ask(example("d"), deadline_s=15)]) == ["overloaded"]
        for task in (first, second):
            task.cancel()
        await asyncio.wait([first, second])

    run(scenario())


def test_a_dead_teacher_is_left_alone_and_tried_again() -> None:
    async def scenario() -> None:
        clock = [0.0]
        broken, sound = FakePolicy(fail(RuntimeError())), FakePolicy()
        teacher = engine(broken, breaker=Breaker(most_failures=3, wait_s=1.0, clock=lambda: clock[0]))
        assert [texts([await teacher.ask(example("a"))]) for _ in range(5)] == [["teacher_failed"]] * 3 + [["teacher_down"]] * 2
        assert len(broken.batches) == 3
        clock[0] = 1.0
        assert texts(await ask_all(teacher, ["b", "c"])) == ["teacher_failed", "teacher_down"]  # one try
        clock[0] = 2.9
        assert texts([await teacher.ask(example("d"))]) == ["teacher_down"]  # twice as long
        clock[0], teacher.policy = 3.0, sound
        assert texts(await ask_all(teacher, ["e", "f"])) == ["Think about e", "teacher_down"]
        assert texts(await ask_all(teacher, ["g", "h"])) == ["Think about g", "Think about h"]

    run(scenario())


def test_a_batch_that_fails_row_by_row_is_one_outage() -> None:
    async def scenario() -> None:
        clock = [0.0]
        broken = FakePolicy(fail(RuntimeError()))
        teacher = engine(broken, batch_size=10, breaker=Breaker(most_failures=3, wait_s=1.0, clock=lambda: clock[0]))
        assert texts(await ask_all(teacher, list("abcdefghij"))) == ["teacher_failed"] * 10
        clock[0], teacher.policy = 1.0, FakePolicy()
        assert texts([await teacher.ask(example("k"))]) == ["Think about k"], "tried again after the first wait, not after its doubles"

    run(scenario())


def test_a_teacher_that_fails_whole_batches_is_left_alone_after_five_calls() -> None:
    async def scenario() -> None:
        broken = FakePolicy(fail(RuntimeError()))
        teacher = engine(broken)
        for _ in range(3):
            answers = texts(await ask_all(teacher, list("abcdefghij")))
        assert answers == ["teacher_down"] * 10
        assert [len(batch) for batch in broken.batches] == [10, 5, 5, 1, 1]

    run(scenario())


def test_a_hanging_teacher_is_left_alone_though_nobody_waits_to_its_end() -> None:
    async def scenario() -> None:
        policy = HangingPolicy()
        teacher = engine(policy, deadline_s=0.04, breaker=Breaker(most_failures=2))
        assert [texts([await teacher.ask(example("a"))]) for _ in range(3)] == [["timeout"], ["timeout"], ["teacher_down"]]
        impatient = engine(policy, breaker=Breaker(most_failures=2))  # whose callers' own haste says nothing of the teacher
        assert [texts([await impatient.ask(example("a"), deadline_s=0.005)]) for _ in range(3)] == [["timeout"]] * 3

    run(scenario())


def test_a_hanging_teacher_is_left_alone_though_all_callers_are_in_more_of_a_hurry_than_the_engine() -> None:
    async def scenario() -> None:
        hung = engine(HangingPolicy(), deadline_s=0.16, breaker=Breaker(most_failures=2))
        for batch_s in (0.0, 0.01):  # never answered, or quickly before it hung
            hung.breaker.succeeded()
            hung.batch_s = batch_s
            answers = [texts([await hung.ask(example("a"), deadline_s=0.04)]) for _ in range(3)]
            assert answers == [["timeout"], ["timeout"], ["teacher_down"]]

    run(scenario())


def test_a_callers_haste_says_nothing_of_the_teacher() -> None:
    async def scenario() -> None:
        policy = HangingPolicy()
        teacher = engine(policy, breaker=Breaker(most_failures=1))
        teacher.batch_s = 10.0  # nobody could be answered in that little time
        assert texts([await teacher.ask(example("a"), deadline_s=0.005)]) == ["timeout"]
        await rounds()
        assert (policy.cancelled, teacher.breaker.open) == (1, False)
        teacher.batch_s = 0.001
        patient = asyncio.create_task(teacher.ask(example("b")))  # in the batch is one who has time, and leaves before it is over
        assert texts([await teacher.ask(example("a"), deadline_s=0.005)]) == ["timeout"]
        patient.cancel()
        await asyncio.wait([patient, *teacher._running])
        assert (policy.cancelled, teacher.breaker.open) == (2, False)

    run(scenario())


def test_who_is_refused_does_not_spend_the_one_try_of_a_breaker() -> None:
    async def scenario() -> None:
        clock = [0.0]
        policy = GatedPolicy()
        breaker = Breaker(most_failures=1, wait_s=1.0, clock=lambda: clock[0])
        teacher = engine(policy, batch_size=1, breaker=breaker)
        running = asyncio.create_task(teacher.ask(example("a")))
        await policy.begun.wait()
        breaker.failed()  # of another lane
        clock[0], teacher.batch_s = 1.0, 10.0
        assert texts([await teacher.ask(example("b"), deadline_s=9)]) == ["overloaded"]
        assert breaker.allows(), "the try is still to be had"
        running.cancel()
        await asyncio.wait([running, *teacher._running])

    run(scenario())


def test_who_would_be_answered_too_late_is_not_written_for() -> None:
    async def scenario() -> None:
        policy = GatedPolicy()
        teacher = engine(policy, batch_size=1)
        first = asyncio.create_task(teacher.ask(example("a")))
        await policy.begun.wait()
        late, last = asyncio.create_task(teacher.ask(example("b"), deadline_s=5)), asyncio.create_task(teacher.ask(example("c")))
        await rounds()
        teacher.batch_s = 10.0  # it has become slow since they came
        policy.begun.clear()
        policy.gate.set()
        assert texts([await late]) == ["overloaded"]
        await policy.begun.wait()
        policy.gate.set()
        assert texts([await first, await last]) == ["Think about a", "Think about c"]
        assert [[e.query for e in batch] for batch in policy.batches] == [["a"], ["c"]]

    run(scenario())


def test_a_teacher_that_writes_at_once_waits_for_no_company() -> None:
    async def scenario() -> None:
        teacher = engine(FakePolicy(), window_s=LONG_S)
        teacher.batch_s = 0.001
        assert texts([await asyncio.wait_for(teacher.ask(example("a")), 5)]) == ["Think about a"]

    run(scenario())
