"""Sliding windows on a clock of the test's own, and the paced student under them."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.protocols import SamplingParams
from exchange.records import Message
from student_clients.pacing import PacedStudent, PacingConfig
from student_clients.rate_limits import RateLimits, Ticket, hours_under_limits
from student_clients.scripted import ScriptedStudent

ASK = (Message(role="user", content="2+2?"),)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s
        await asyncio.sleep(0)


def test_a_full_window_says_when_there_is_room_again_and_which_setting_it_is() -> None:
    clock = Clock()
    limits = RateLimits(requests_per_minute=2, requests_per_day=3, clock=clock)
    assert isinstance(limits.take(1), Ticket)
    clock.now_s = 10.0
    assert isinstance(limits.take(1), Ticket)
    assert limits.take(1) == (50.0, "requests_per_minute")
    clock.now_s = 60.0
    assert isinstance(limits.take(1), Ticket)
    assert limits.take(1) == (86_400.0 - 60.0, "requests_per_day")


def test_tokens_weigh_what_they_took_once_that_is_known() -> None:
    clock = Clock()
    limits = RateLimits(tokens_per_minute=100, clock=clock)
    ticket = limits.take(80)
    assert isinstance(ticket, Ticket)
    assert limits.take(50) == (60.0, "tokens_per_minute")
    limits.settle(ticket, 30)
    assert isinstance(limits.take(50), Ticket)


def test_a_request_larger_than_the_limit_passes_alone() -> None:
    clock = Clock()
    limits = RateLimits(tokens_per_minute=100, clock=clock)
    assert isinstance(limits.take(500), Ticket)
    assert limits.take(500) == (60.0, "tokens_per_minute")


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 60)), max_size=60))
def test_no_minute_ever_holds_more_than_the_limit(requests: list[tuple[float, int]]) -> None:
    clock = Clock()
    limits = RateLimits(tokens_per_minute=100, clock=clock)
    sent: list[tuple[float, int]] = []
    for pause_s, tokens in requests:
        clock.now_s += pause_s
        while not isinstance(found := limits.take(tokens), Ticket):
            clock.now_s += found[0]
        sent.append((clock.now_s, tokens))
    for at_s, _ in sent:
        # A hair less than 60 s: what stands exactly 60 s apart is not in one window.
        assert sum(tokens for other_s, tokens in sent if at_s <= other_s < at_s + 60 - 1e-6) <= 100


def test_the_paced_student_waits_for_the_window() -> None:
    clock = Clock()
    limits = RateLimits(requests_per_minute=10, clock=clock)
    student = PacedStudent(ScriptedStudent(lambda _: "4"), PacingConfig(), sleep=clock.sleep, rng=random.Random(0), limits=limits)

    async def ask() -> None:
        await asyncio.gather(*(student.complete(ASK, SamplingParams()) for _ in range(25)))

    asyncio.run(ask())
    assert clock.now_s >= 120.0
    assert student.ledger.stats.calls == 25


@pytest.mark.parametrize(("calls", "tokens", "hours"), [(38_400, 0, 24 * 3.84), (0, 6_000_000, 1.0), (60, 0, 24 * 60 / 10_000)])
def test_the_time_that_a_run_takes_under_its_limits(calls: int, tokens: int, hours: float) -> None:
    limits = PacingConfig(requests_per_day=10_000, tokens_per_minute=100_000, requests_per_minute=100_000).rate_limits()
    assert hours_under_limits(calls, tokens, limits) == pytest.approx(hours)
