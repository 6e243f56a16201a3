"""An online A/B test end to end, small: a real server that is killed, a real Redis, the lab's teacher and student, simulated users."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.online_ab import headline, measure


@pytest.mark.slow
@pytest.mark.redis
def test_an_online_test_finds_what_is_true_and_loses_nothing() -> None:
    run = asyncio.run(measure(users=300, kills=2))
    found = headline(run)
    # 300 users find a difference of twelve points only sometimes; the interval holds it at every size.
    advice = run["advice"]
    assert advice["low"] <= advice["truth"]["difference"] <= advice["high"], run
    assert advice["verdict"] in ("better", "undecided"), run
    assert found["same_finds_nothing"], run
    assert found["harmful_arm_stopped"], run
    assert found["slow_arm_stopped"], run
    assert found["acknowledged"] > 1000, run
    assert (found["lost"], found["doubled"], found["replica_differs"]) == (0, 0, 0), run
