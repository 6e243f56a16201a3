"""Money: reserved before a call, settled after it, never above the limit, over processes and kills."""

import asyncio
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from exchange.settings import SettingError
from store import Store, open_store
from student_clients import StudentConfig, errors
from student_clients import budget as module
from student_clients.budget import ACCOUNT, NANO, BudgetConfig, BudgetedStudent, BudgetExhausted, Price, price_of
from student_clients.ledger import Ledger
from student_clients.pacing import PacedStudent, PacingConfig
from student_clients.rate_limits import RateLimits
from student_clients.token_bounds import prompt_tokens_at_most
from student_clients.usage import Usage
from tests.student_clients.test_rate_limits import Clock

DAY = datetime.date(2026, 11, 20)
ASK = (Message(role="user", content="2+2?"),)
PARAMS = SamplingParams(max_tokens=100)
PRICE = Price(input=1.0, output=10.0, as_of=DAY)
DEAREST = PRICE.nano(prompt_tokens_at_most(ASK), 100)


class Meter:
    """A student whose answers take given tokens after a moment, or fail."""

    name = identity = "meter"

    def __init__(self, outcome: Exception | tuple[int, int] = (10, 20), delay_s: float = 0.0) -> None:
        self.outcome = outcome
        self.delay_s = delay_s
        self.ledger = Ledger()
        self.calls = 0

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        self.calls += 1
        await asyncio.sleep(self.delay_s)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        prompt, answer = self.outcome
        return [Completion(text="4", prompt_tokens=prompt if i == 0 else 0, completion_tokens=answer) for i in range(n)]

    async def check(self) -> None: ...

    async def aclose(self) -> None: ...


def budgeted(meter: Meter, store: Store, limit_usd: float | None = 1.0) -> BudgetedStudent:
    return BudgetedStudent(meter, PRICE, lambda: store, limit_usd=limit_usd)


def totals(store: Store) -> dict[str, int]:
    return asyncio.run(store.totals(ACCOUNT))


def test_prices_are_exact_and_rounded_up() -> None:
    price = Price(input=0.15, output=0.6, cached_input=0.075, as_of=DAY)
    assert price.nano(1_000_000, 0) == 150_000_000
    assert price.nano(1000, 1000, 400) == 600 * 150 + 400 * 75 + 1000 * 600
    assert Price(input=0.0001, output=0, as_of=DAY).nano(1, 0) == 1


def test_a_call_costs_what_it_took() -> None:
    store, meter = open_store("memory:"), Meter((10, 20))
    (completion,) = asyncio.run(budgeted(meter, store).complete(ASK, PARAMS))
    assert completion.cost_usd == pytest.approx((10 + 200) / 1e6)
    assert meter.ledger.stats.cost_usd == pytest.approx((10 + 200) / 1e6)
    assert totals(store) == {"held": 0, "spent": (10 + 200) * 1000}


def test_a_call_without_usage_costs_the_most_it_can() -> None:
    store = open_store("memory:")
    completions = asyncio.run(budgeted(Meter((0, 0)), store).complete(ASK, PARAMS, n=2))
    most = PRICE.nano(prompt_tokens_at_most(ASK), 200)
    assert totals(store) == {"held": 0, "spent": most}
    assert sum(completion.cost_usd for completion in completions) == pytest.approx(most / NANO)


def test_what_the_client_adds_to_every_request_is_reserved_too() -> None:
    store, tools = open_store("memory:"), {"tools": ["x" * 5000]}
    student = BudgetedStudent(Meter((5000, 20)), PRICE, lambda: store, limit_usd=DEAREST / NANO, extra_body=tools)
    with pytest.raises(BudgetExhausted):
        asyncio.run(student.complete(ASK, PARAMS))
    assert totals(store) == {}


def test_a_failed_reply_with_usage_costs_what_it_says() -> None:
    store = open_store("memory:")
    for error in (errors.StudentServerError, errors.StudentContentFiltered):
        meter = Meter(error("x", usage=Usage(prompt_tokens=10, completion_tokens=20)))
        with pytest.raises(error):
            asyncio.run(budgeted(meter, store).complete(ASK, PARAMS))
        assert meter.ledger.stats.cost_usd == pytest.approx(210e-6)
    assert totals(store) == {"held": 0, "spent": 2 * 210_000}


def test_once_the_budget_is_spent_nobody_waits_for_the_rate_limit() -> None:
    clock = Clock()
    limits = RateLimits(requests_per_day=3, clock=clock)
    meter = Meter((0, 100))
    student = PacedStudent(budgeted(meter, open_store("memory:"), 2.5 * DEAREST / NANO), PacingConfig(), sleep=clock.sleep, limits=limits)

    async def body() -> list[object]:
        return await asyncio.gather(*(student.complete(ASK, PARAMS) for _ in range(50)), return_exceptions=True)

    outcomes = asyncio.run(body())
    assert sum(isinstance(outcome, BudgetExhausted) for outcome in outcomes) == 50 - meter.calls
    assert clock.now_s < 86_400


@pytest.mark.parametrize(
    "bad",
    [
        {"usd": float("inf")},
        {"usd": 1e9},
        {"usd": 1, "unlimited": True},
        {"prices": {"m": {"input": float("inf"), "output": 1, "as_of": DAY}}},
    ],
)
def test_impossible_budgets_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        BudgetConfig.model_validate(bad)


@pytest.mark.parametrize(
    ("error", "held"),
    [
        (errors.StudentRateLimited("x"), 0),
        (errors.StudentServerError("x"), 0),
        (errors.StudentNotConnected("x"), 0),
        (errors.StudentAuthError("x"), 0),
        (errors.StudentTimeout("x"), DEAREST),  # these may have been billed
        (errors.StudentUnreachable("x"), DEAREST),
        (errors.StudentBadResponse("x"), DEAREST),
        (errors.StudentContentFiltered("x"), DEAREST),
    ],
)
def test_what_may_have_been_billed_stays_held(error: errors.StudentError, held: int) -> None:
    store = open_store("memory:")
    with pytest.raises(type(error)):
        asyncio.run(budgeted(Meter(error), store).complete(ASK, PARAMS))
    assert (totals(store).get("spent", 0), totals(store)["held"]) == (0, held)


def test_64_calls_in_flight_never_pass_the_limit_and_use_it_up() -> None:
    store, meter = open_store("memory:"), Meter((10, 20), delay_s=0.002)
    cost = (10 + 200) * 1000
    limit = 100 * cost + DEAREST
    student = budgeted(meter, store, limit / NANO)

    async def user() -> int:
        paid = 0
        while True:
            try:
                await student.complete(ASK, PARAMS)
            except BudgetExhausted:
                return paid
            paid += 1

    async def body() -> list[int]:
        return await asyncio.gather(*(user() for _ in range(64)))

    paid = sum(asyncio.run(body()))
    assert totals(store) == {"held": 0, "spent": paid * cost}
    # Not one more would fit with certainty, so not a dollar is left lying because others once held it.
    assert paid * cost <= limit < paid * cost + cost + DEAREST


def test_the_message_says_how_to_go_on() -> None:
    with pytest.raises(BudgetExhausted, match=r"budget.usd=1e-06: 0.0000 dollars are spent.*give more with --budget.usd"):
        asyncio.run(budgeted(Meter(), open_store("memory:"), 1e-6).complete(ASK, PARAMS))


def test_warnings_at_half_and_four_fifths(caplog: pytest.LogCaptureFixture) -> None:
    store = open_store("memory:")
    student = budgeted(Meter((0, 100)), store, 20 * DEAREST / NANO)
    for _ in range(20):
        asyncio.run(student.complete(ASK, PARAMS))
    # A call costs 1/21.6 of the limit: the first look after a half is at 11 calls, after four fifths at 18.
    assert [record.getMessage()[:2] for record in caplog.records] == ["51", "83"]


def test_what_another_process_holds_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.001)
    monkeypatch.setattr(module, "POLL_OTHERS_S", 0.01)
    store = open_store("memory:")
    here, there = (BudgetedStudent(Meter((1, 5), 0.01), PRICE, lambda: store, limit_usd=4.5 * DEAREST / NANO, others_s=60) for _ in "ab")

    async def body() -> None:
        async with asyncio.TaskGroup() as tasks:
            for student in (here, there):  # the first four hold all that there is
                for _ in range(20):
                    tasks.create_task(student.complete(ASK, PARAMS))

    asyncio.run(body())
    assert totals(store) == {"held": 0, "spent": 40 * (1 + 50) * 1000}


def test_what_nobody_gives_back_is_waited_for_no_longer_than_a_request_takes() -> None:
    store = open_store("memory:")
    asyncio.run(store.add(ACCOUNT, {"held": 4 * DEAREST}))
    student = BudgetedStudent(Meter(), PRICE, lambda: store, limit_usd=4.5 * DEAREST / NANO, others_s=0.2)
    began = time.monotonic()
    with pytest.raises(BudgetExhausted, match=r"0\.0000 dollars are spent"):
        asyncio.run(student.complete(ASK, PARAMS))
    assert time.monotonic() - began >= 0.2


PROCESS = """
import asyncio, json, sys
from store import open_store
from student_clients.budget import BudgetExhausted
from tests.student_clients.test_budget import ASK, PARAMS, Meter, budgeted

async def body():
    student = budgeted(Meter((10, 20), delay_s=0.02), open_store(sys.argv[1]), float(sys.argv[2]))
    async def user():
        paid = 0
        while True:
            try:
                await student.complete(ASK, PARAMS)
            except BudgetExhausted:
                return paid
            paid += 1
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(sum(await asyncio.gather(*(user() for _ in range(64))))))

asyncio.run(body())
"""


def test_two_processes_share_one_limit(tmp_path: Path) -> None:
    cost = (10 + 200) * 1000
    limit = 1000 * cost + DEAREST
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "account.sqlite3"), repr(limit / NANO)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    paid = [json.loads(process.communicate()[0]) for process in processes]
    held = totals(open_store(str(tmp_path / "account.sqlite3")))
    assert held == {"held": 0, "spent": sum(paid) * cost}
    assert held["spent"] <= limit
    assert min(paid) > 0


def student(**settings: object) -> StudentConfig:
    return StudentConfig.model_validate({"kind": "openai", "model": "m", **settings})


def budget(**settings: object) -> BudgetConfig:
    return BudgetConfig.model_validate(settings)


KNOWN = {"prices": {"m": {"input": 1, "output": 10, "as_of": "2026-11-20"}}}


def test_a_price_and_a_limit_start_a_run() -> None:
    assert price_of(student(), budget(usd=5, **KNOWN)) == PRICE
    assert price_of(student(), budget(unlimited=True, **KNOWN)) == PRICE


@pytest.mark.parametrize(
    "config",
    [
        StudentConfig(),
        student(base_url="http://localhost:1/v1"),
        student(base_url="http://10.1.2.3/v1"),
        student(kind="vllm", vllm={"base_urls": ["http://gpu-1:8000/v1", "http://gpu-2.internal/v1"]}),
    ],
    ids=["embedded", "localhost", "private", "vllm"],
)
def test_what_runs_on_ones_own_machines_is_free(config: StudentConfig) -> None:
    assert price_of(config, budget()) is None


def test_what_could_cost_money_does_not_start_unpriced() -> None:
    with pytest.raises(SettingError, match="no price is known for 'm'"):
        price_of(student(), budget(usd=5))
    with pytest.raises(SettingError, match="no price is known for 'm'"):
        price_of(student(base_url="https://api.example.com/v1"), budget())
    with pytest.raises(SettingError, match="no price is known for 'm'"):
        price_of(student(kind="vllm", vllm={"base_urls": ["http://gpu-1/v1", "https://vllm.example.com/v1"]}), budget())
    # A gateway at home may bill as well: whoever sets a limit wants it kept.
    with pytest.raises(SettingError, match="no price is known for 'm'"):
        price_of(student(base_url="http://localhost:4000/v1"), budget(usd=5))
    with pytest.raises(SettingError, match=r"budget\.usd: m costs money"):
        price_of(student(), budget(**KNOWN))
    assert price_of(student(), budget(unlimited=True)) is None
    assert price_of(student(kind="vllm", vllm={"launch": True}), budget(usd=5)) is None  # a child of our own sends no bill
