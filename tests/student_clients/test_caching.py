"""The answer cache on a real store: what is equal is asked once, what is not is asked, and trouble costs calls and no answers."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from exchange.settings import SettingError
from store import open_store
from student_clients.caching import CachedStudent, sample_key
from student_clients.errors import StudentTimeout
from student_clients.ledger import CountingStudent, Ledger
from student_clients.scripted import ScriptedStudent
from tests.redis_server import redis_server

__all__ = ["redis_server"]
GREEDY = SamplingParams()


def ask_of(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


class SlowStudent:
    """Answers `N: text` after a moment, N counting its calls; fails while `failing`."""

    name = identity = "slow"

    def __init__(self, delay_s: float = 0.05) -> None:
        self.delay_s = delay_s
        self.ledger = Ledger()
        self.asked: list[tuple[str, int, int]] = []
        self.failing = False

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        self.asked.append((messages[-1].content, sample_index, n))
        number = len(self.asked)
        await asyncio.sleep(self.delay_s)
        if self.failing:
            raise StudentTimeout("slow")
        return [Completion(text=f"{number}: {messages[-1].content}/{sample_index + i}", cost_usd=0.5) for i in range(n)]

    async def check(self) -> None: ...

    async def aclose(self) -> None: ...


def cached(student: SlowStudent | ScriptedStudent, url: str = "memory:") -> CountingStudent:
    return CountingStudent(CachedStudent(student, open_store(url)))


def test_the_second_time_costs_nothing(tmp_path: Path) -> None:
    async def twice() -> tuple[Completion, Completion]:
        (first,) = await cached(slow, str(tmp_path / "c.sqlite3")).complete(ask_of("a"), GREEDY)
        student = cached(slow, str(tmp_path / "c.sqlite3"))  # another store on the same file
        (second,) = await student.complete(ask_of("a"), GREEDY)
        assert student.stats.cache_hits == 1
        return first, second

    slow = SlowStudent()
    first, second = asyncio.run(twice())
    assert second == first.model_copy(update={"cached": True, "cost_usd": 0.0})
    assert len(slow.asked) == 1


def test_the_key_holds_everything_that_an_answer_depends_on() -> None:
    messages = (Message(role="system", content="s"), Message(role="user", content="q"))
    base = ("id", messages, SamplingParams(seed=1, split="train"), 0)
    others = [
        ("other", *base[1:]),
        ("id", ask_of("q"), *base[2:]),
        ("id", (Message(role="user", content="s"), Message(role="user", content="q")), *base[2:]),
        *(
            ("id", messages, base[2].model_copy(update=change), 0)
            for change in ({"seed": 2}, {"split": "test"}, {"temperature": 0.5}, {"temperature": None}, {"max_tokens": 7})
        ),
        ("id", messages, base[2], 1),
    ]
    keys = {sample_key(*base), *(sample_key(*other) for other in others)}
    assert len(keys) == 1 + len(others)


def test_samples_are_kept_one_by_one_and_only_the_missing_are_asked_for() -> None:
    async def body() -> list[Completion]:
        student = cached(slow)
        await student.complete(ask_of("a"), GREEDY, sample_index=1, n=1)
        return await student.complete(ask_of("a"), GREEDY, n=4)

    slow = SlowStudent()
    completions = asyncio.run(body())
    assert [completion.text for completion in completions] == ["2: a/0", "1: a/1", "3: a/2", "3: a/3"]
    assert slow.asked == [("a", 1, 1), ("a", 0, 1), ("a", 2, 2)]


def test_equal_requests_in_flight_cost_one_call_over_threads_too() -> None:
    slow = SlowStudent(delay_s=0.3)
    student = cached(slow)

    async def many() -> None:
        answers = await asyncio.gather(*(student.complete(ask_of("a"), GREEDY) for _ in range(20)))
        assert {answer[0].text for answer in answers} == {"1: a/0"}

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slow.asked) == 1
    assert student.stats.cache_hits == 59


def test_a_follower_of_a_cancelled_request_asks_for_itself() -> None:
    slow = SlowStudent(delay_s=0.2)
    student = cached(slow)

    async def body() -> list[Completion]:
        leader = asyncio.create_task(student.complete(ask_of("a"), GREEDY))
        await asyncio.sleep(0.02)
        follower = asyncio.create_task(student.complete(ask_of("a"), GREEDY))
        await asyncio.sleep(0.02)
        leader.cancel()
        return await follower

    assert asyncio.run(body())[0].text == "2: a/0"


def test_cancelling_all_asks_nobody_again() -> None:
    slow = SlowStudent(delay_s=0.2)
    student = cached(slow)

    async def body() -> list[object]:
        tasks = [asyncio.create_task(student.complete(ask_of("a"), GREEDY)) for _ in range(5)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(body())] == [asyncio.CancelledError] * 5
    assert len(slow.asked) == 1


def test_cancelling_a_follower_leaves_the_request_alone() -> None:
    slow = SlowStudent(delay_s=0.2)
    student = cached(slow)

    async def body() -> list[Completion]:
        leader = asyncio.create_task(student.complete(ask_of("a"), GREEDY))
        await asyncio.sleep(0.02)
        follower = asyncio.create_task(student.complete(ask_of("a"), GREEDY))
        await asyncio.sleep(0.02)
        follower.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower
        return await leader

    assert asyncio.run(body())[0].text == "1: a/0"


def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    slow = SlowStudent()
    student = cached(slow)

    async def body() -> list[list[Completion] | BaseException]:
        slow.failing = True
        failed = await asyncio.gather(*(student.complete(ask_of("a"), GREEDY) for _ in range(3)), return_exceptions=True)
        slow.failing = False
        assert (await student.complete(ask_of("a"), GREEDY))[0].text == "2: a/0"
        return failed

    assert [type(outcome) for outcome in asyncio.run(body())] == [StudentTimeout] * 3


@pytest.mark.parametrize("entry", [b"", b"nonsense", b"00000000{}", b'5a2ab0bb{"text": "torn', b"\xff" * 50])
def test_a_damaged_entry_is_a_reported_miss(entry: bytes, caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowStudent()
    store = open_store("memory:")
    student = CachedStudent(slow, store)

    async def body() -> list[Completion]:
        for sample in range(2):
            await store.put(sample_key("slow", ask_of("a"), GREEDY, sample), entry)
        await student.complete(ask_of("a"), GREEDY)
        await student.complete(ask_of("a"), GREEDY, sample_index=1)
        return await student.complete(ask_of("a"), GREEDY)

    assert asyncio.run(body())[0].cached
    assert len(slow.asked) == 2
    assert caplog.text.count("cannot be read; they are asked for anew") == 1


def test_a_cache_that_fails_later_costs_calls_and_no_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.sqlite3"
    slow = SlowStudent()
    student = cached(slow, str(path))

    async def body() -> None:
        await student.complete(ask_of("a"), GREEDY)
        for file in tmp_path.iterdir():
            file.write_bytes(b"not a database any more" * 400)
        assert [len(await student.complete(ask_of(text), GREEDY)) for text in "abc"] == [1, 1, 1]

    asyncio.run(body())
    assert len(slow.asked) >= 3


@pytest.mark.parametrize("trouble", ["directory", "garbage"])
def test_a_cache_that_cannot_be_used_is_found_out_at_the_start(tmp_path: Path, trouble: str) -> None:
    path = tmp_path / "c.sqlite3"
    if trouble == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(SettingError, match=r"answer cache: .*WST_CACHE_DIR.*student\.cache\.enabled=false"):
        asyncio.run(cached(SlowStudent(), str(path)).check())


KILLED = """
import asyncio, sys
from exchange.protocols import SamplingParams
from exchange.records import Message
from store import open_store
from student_clients.caching import CachedStudent
from student_clients.scripted import ScriptedStudent

async def body():
    student = CachedStudent(ScriptedStudent(lambda messages: messages[-1].content.upper()), open_store(sys.argv[1]))
    i = 0
    while True:
        await student.complete((Message(role="user", content=f"q{i}"),), SamplingParams())
        print(i, flush=True)
        i += 1

asyncio.run(body())
"""


SHARED = """
import asyncio, sys
from exchange.protocols import SamplingParams
from exchange.records import Message
from store import open_store
from student_clients.caching import CachedStudent
from student_clients.scripted import ScriptedStudent

async def body():
    scripted = ScriptedStudent(lambda messages: messages[-1].content.upper())
    student = CachedStudent(scripted, open_store(sys.argv[1]))
    asked = [(Message(role="user", content=f"q{i}"),) for i in range(100)]
    answers = await asyncio.gather(*(student.complete(messages, SamplingParams()) for messages in asked))
    assert [answer[0].text for answer in answers] == [f"Q{i}" for i in range(100)]
    await student.aclose()
    print(scripted.calls)

asyncio.run(body())
"""


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_two_processes_share_a_cache(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = str(tmp_path / "c.sqlite3") if kind == "sqlite" else request.getfixturevalue("redis_server").url
    command = [sys.executable, "-c", SHARED, url]
    together = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    calls = [int(process.communicate()[0]) for process in together]
    assert 100 <= sum(calls) <= 200
    assert int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) == 0


def test_kill_9_loses_no_settled_answer(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite3"
    settled = 0
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            settled = int(line) + 1
            if settled == 200:
                os.kill(process.pid, signal.SIGKILL)
    slow = SlowStudent(delay_s=0.0)
    student = cached(slow, str(path))

    async def body() -> list[str | None]:
        return [(await student.complete(ask_of(f"q{i}"), GREEDY))[0].text for i in range(settled)]

    # The key holds the student's identity, which the slow one borrows here.
    slow.identity = "scripted"  # type: ignore[misc]
    assert asyncio.run(body()) == [f"Q{i}" for i in range(settled)]
    assert slow.asked == []
