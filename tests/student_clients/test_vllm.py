"""One student over several servers that look like vLLM, and a server as its child."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients import errors, vllm_process
from student_clients.ledger import CountingStudent
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.pacing import PacedStudent, PacingConfig
from student_clients.vllm import VLLMStudent
from student_clients.vllm_process import VLLMProcess
from tests.requirements import ROOT

PARAMS = SamplingParams(max_tokens=9)
FAKE = [sys.executable, str(Path(__file__).parent / "fake_vllm.py"), "serve"]
NEVER_S = 1000.0
"""A backoff that no test outlives."""


class Replica:
    """A server whose behaviour a test sets; it answers with its own name, when `gate` is open."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}/v1"
        self.status = 200
        self.statuses: list[int] = []
        """Of the next answers; `status` when they are used up."""
        self.finish_reason = "stop"
        self.breaks_off = False
        self.health: int | None = 200
        self.version: object = {"version": "0.32.0"}
        self.models = ["m"]
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0
        self.health_asked = 0

    def app(self) -> Starlette:
        async def completions(request: Request) -> Response:
            self.asked += 1
            n = (await request.json()).get("n", 1)
            while not self.gate.is_set():  # noqa: ASYNC110 (opened from another thread)
                await asyncio.sleep(0.005)
            if self.breaks_off:
                return Response("short", headers={"Content-Length": "999"})
            choices = [{"message": {"content": self.name}, "finish_reason": self.finish_reason}] * n
            return JSONResponse({"choices": choices}, self.statuses.pop(0) if self.statuses else self.status)

        async def health(request: Request) -> Response:
            self.health_asked += 1
            return Response(status_code=self.health or 500)

        async def version(request: Request) -> Response:
            return JSONResponse(self.version, 404 if self.version is None else 200)

        async def models(request: Request) -> Response:
            return JSONResponse({"data": [{"id": name} for name in self.models]})

        routes = [Route("/v1/chat/completions", completions, methods=["POST"]), Route("/v1/models", models)]
        return Starlette(routes=[*routes, Route("/health", health), Route("/version", version)])


@contextmanager
def serving(name: str) -> Iterator[Replica]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        replica = Replica(name, listener.getsockname()[1])
        running = uvicorn.Server(uvicorn.Config(replica.app(), log_level="critical", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield replica
        finally:
            replica.gate.set()
            running.should_exit = True
            thread.join()


@pytest.fixture
def pair() -> Iterator[tuple[Replica, Replica]]:
    with serving("a") as a, serving("b") as b:
        yield a, b


def client(url: str) -> OpenAICompatibleStudent:
    return OpenAICompatibleStudent("m", base_url=url)


def student_of(*servers: Replica | str, backoff_s: float = NEVER_S) -> VLLMStudent:
    urls = [server if isinstance(server, str) else server.url for server in servers]
    return VLLMStudent("m", client, base_urls=urls, backoff_s=backoff_s)


def prompt(*contents: object) -> tuple[Message, ...]:
    return tuple(Message(role="user", content=str(content)) for content in contents)


async def ask(student: VLLMStudent | PacedStudent | CountingStudent, *contents: object) -> str:
    """Who answered."""
    return str((await student.complete(prompt(*contents), PARAMS))[0].text)


def ask_each(student: VLLMStudent, count: int) -> list[str]:
    """Ask different questions one after the other; an error's name stands for the answer that was not given."""

    async def body() -> list[str]:
        answers = []
        for i in range(count):
            try:
                answers.append(await ask(student, i))
            except errors.StudentError as error:
                answers.append(type(error).__name__)
        return answers

    return asyncio.run(body())


async def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


# --- which server ---------------------------------------------------------------------------------------------------------------------


def test_servers_that_are_equally_slow_get_equally_much() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(name)) for name in "abc"]
        student = student_of(*servers)

        async def body() -> list[str]:
            for server in servers:
                server.gate.clear()
            tasks = [asyncio.ensure_future(ask(student, i)) for i in range(12)]
            await until(lambda: sum(server.asked for server in servers) == 12)
            for server in servers:
                server.gate.set()
            return await asyncio.gather(*tasks)

        assert Counter(asyncio.run(body())) == {"a": 4, "b": 4, "c": 4}


def test_a_slow_server_gets_less(pair: tuple[Replica, Replica]) -> None:
    """Of 4 requests at a time the slow server holds 2 and is given no more; the other answers the rest."""
    slow, quick = pair
    student = student_of(slow, quick)
    slow.gate.clear()

    async def body() -> None:
        left = iter(range(40))

        async def worker() -> None:
            for i in left:
                await ask(student, i)

        workers = [asyncio.ensure_future(worker()) for _ in range(4)]
        await until(lambda: slow.asked + quick.asked == 40)
        assert slow.asked <= 2
        slow.gate.set()
        await asyncio.gather(*workers)

    asyncio.run(body())


def test_a_request_for_several_completions_weighs_as_many(pair: tuple[Replica, Replica]) -> None:
    student = student_of(*pair)

    async def body() -> list[Completion]:
        for server in pair:
            server.gate.clear()
        four = asyncio.ensure_future(student.complete(prompt("4"), PARAMS, n=4))
        await until(lambda: sum(server.asked for server in pair) == 1)
        singles = [asyncio.ensure_future(ask(student, i)) for i in range(4)]
        await until(lambda: sum(server.asked for server in pair) == 5)
        for server in pair:
            server.gate.set()
        assert len(set(await asyncio.gather(*singles))) == 1
        return await four

    assert len(asyncio.run(body())) == 4
    assert sorted(server.asked for server in pair) == [1, 4]
    assert student.ledger.stats.calls == 5


def test_a_conversation_stays_where_it_began() -> None:
    """Its prefix decides, not its last message; a server that leaves moves nobody else's conversations."""

    async def hosts(student: VLLMStudent) -> list[str]:
        found = []
        for conversation in range(16):
            turns = {await ask(student, f"talk {conversation}", "and so on", turn) for turn in range(2)}
            assert len(turns) == 1
            found += turns
        return found

    with serving("a") as a, serving("b") as b:
        with serving("c") as c:
            student = student_of(a, b, c)
            before = asyncio.run(hosts(student))
            assert len({*before}) > 1
            assert asyncio.run(hosts(student_of(c, a, b))) == before
        after = asyncio.run(hosts(student))
    assert [new for old, new in zip(before, after, strict=True) if old != "c"] == [old for old in before if old != "c"]
    assert "c" not in after


def test_one_message_alone_is_its_own_prefix(pair: tuple[Replica, Replica]) -> None:
    student = student_of(*pair)

    async def body() -> list[str]:
        return [await ask(student, i) for i in range(24) for _ in range(2)]

    answers = asyncio.run(body())
    assert answers[0::2] == answers[1::2]
    assert {*answers} == {"a", "b"}


def test_cancelled_requests_weigh_no_more(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    student = student_of(a, b)

    async def body() -> list[str]:
        for server in pair:
            server.gate.clear()
        tasks = [asyncio.ensure_future(student.complete(prompt(i), PARAMS, n=1 + 9 * (i % 2))) for i in range(6)]
        await until(lambda: a.asked + b.asked == 6)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        before = a.asked, b.asked
        tasks_after = [asyncio.ensure_future(ask(student, i)) for i in range(8)]
        await until(lambda: a.asked + b.asked == sum(before) + 8)
        for server in pair:
            server.gate.set()
        return await asyncio.gather(*tasks_after)

    assert Counter(asyncio.run(body())) == {"a": 4, "b": 4}


def test_several_threads_with_loops_of_their_own(pair: tuple[Replica, Replica]) -> None:
    student = student_of(*pair)
    answers: list[str] = []

    async def body() -> None:
        answers.extend(await asyncio.gather(*(ask(student, i) for i in range(25))))

    threads = [threading.Thread(target=asyncio.run, args=(body(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == student.ledger.stats.calls == 100
    assert {*answers} == {"a", "b"}
    # Had an outstanding request been lost or counted twice, ties would not be ties any more.
    assert Counter(ask_each(student, 16)) == Counter(ask_each(student_of(*pair), 16))


# --- servers that fail ----------------------------------------------------------------------------------------------------------------


def test_a_request_that_reaches_nobody_goes_on_at_once_and_is_not_a_call(pair: tuple[Replica, Replica], closed_port_url: str) -> None:
    a, _ = pair
    student = student_of(closed_port_url, a)
    assert ask_each(student, 20) == ["a"] * 20
    assert student.ledger.stats.calls == a.asked == 20


def test_no_server_left_names_them_all_and_one_that_comes_back_is_found(closed_port_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    student = student_of(closed_port_url, other)
    for _ in range(2):
        with pytest.raises(errors.StudentUnreachable) as caught:
            asyncio.run(ask(student, "x"))
        assert closed_port_url in str(caught.value) and other in str(caught.value)
    assert student.ledger.stats.calls == 0
    with fake(other):
        asyncio.run(ask(student, "x"))
    assert student.ledger.stats.calls == 1


def test_a_connection_that_breaks_off_is_the_retrys_and_lands_elsewhere(pair: tuple[Replica, Replica]) -> None:
    broken, whole = pair
    broken.breaks_off = True
    student = student_of(broken, whole)
    assert Counter(ask_each(student, 24)) == {"StudentUnreachable": 1, "b": 23}
    assert student.ledger.stats.calls == 24


def test_half_a_text_of_a_server_that_gives_up_is_no_answer(pair: tuple[Replica, Replica]) -> None:
    leaving, staying = pair
    leaving.finish_reason = "abort"
    assert Counter(ask_each(student_of(leaving, staying), 24)) == {"StudentUnreachable": 1, "b": 23}


def test_a_server_that_fails_three_in_a_row_is_left_out(pair: tuple[Replica, Replica]) -> None:
    broken, whole = pair
    broken.status = 500
    assert Counter(ask_each(student_of(broken, whole), 32)) == {"StudentServerError": 3, "b": 29}
    assert broken.health_asked == 0


def test_an_answer_in_between_forgives(pair: tuple[Replica, Replica], caplog: pytest.LogCaptureFixture) -> None:
    shaky, _ = pair
    shaky.statuses = [500, 500, 200, 500, 400, 500, 500, 200]
    ask_each(student_of(*pair), 64)
    assert shaky.statuses == []
    assert "left out" not in caplog.text


def test_a_server_left_out_is_taken_back_when_it_is_healthy(pair: tuple[Replica, Replica], caplog: pytest.LogCaptureFixture) -> None:
    """With no wait the next request asks for its health; it returns on trial, so that one more fault sends it away."""
    sick, well = pair
    sick.status, sick.health = 500, 503
    student = student_of(sick, well, backoff_s=0.0)
    assert Counter(ask_each(student, 32)) == {"StudentServerError": 3, "b": 29}
    assert sick.health_asked > 0
    sick.health = 200
    faults = Counter(ask_each(student, 24))["StudentServerError"]
    assert 0 < faults == sick.asked - 3
    assert caplog.text.count("is left out") == 1 + faults
    sick.status = 200
    assert {*ask_each(student, 32)} == {"a", "b"}
    asked = sick.health_asked
    assert {*ask_each(student, 32)} == {"a", "b"}
    assert sick.health_asked == asked


def test_the_waits_grow(pair: tuple[Replica, Replica]) -> None:
    sick, well = pair
    sick.breaks_off, sick.health = True, 503
    student = student_of(sick, well, backoff_s=0.02)

    async def body() -> float:
        begun = time.monotonic()
        while sick.health_asked < 5 and time.monotonic() < begun + 60:
            with suppress(errors.StudentUnreachable):
                await ask(student, time.monotonic())
        return time.monotonic() - begun

    # Health is asked after waits of 0.02, 0.04, 0.08, 0.16 and 0.32 s; without growth 0.1 s would do. A busy machine only adds to it.
    assert asyncio.run(body()) >= 0.62
    assert sick.health_asked == 5


def fake_process(url: str, *flags: str, delay_s: float = 0.0) -> subprocess.Popen[bytes]:
    """The fake vLLM as a process, at that address."""
    port = url.rpartition(":")[2].removesuffix("/v1")
    words = ["m", "--host", "127.0.0.1", "--port", port, "--served-model-name", "m", "--delay-s", str(delay_s), *flags]
    process = subprocess.Popen([*FAKE, *words], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(port))):
            return process
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def fake(url: str, *flags: str, delay_s: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    process = fake_process(url, *flags, delay_s=delay_s)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_server_killed_under_load_costs_no_answer_and_is_used_again_when_it_is_back(closed_port_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    inner = student_of(closed_port_url, other, backoff_s=0.05)
    pacing = PacingConfig(concurrency=64, backoff_s=0.05)
    student = CountingStudent(PacedStudent(inner, pacing))

    with fake(other, delay_s=0.3) as survivor:
        with fake(closed_port_url, "--dies-at=48", delay_s=0.3) as victim:  # of the 64 in flight about 32 are its

            async def body() -> list[str]:
                return await asyncio.gather(*(ask(student, i) for i in range(256)))

            answers = Counter(asyncio.run(body()))
        assert sum(answers.values()) == 256
        assert answers[str(victim.pid)] > 0
        assert answers[str(survivor.pid)] > answers[str(victim.pid)]
        assert student.stats.failures == 0
        assert student.stats.calls > 256  # those that broke off were sent twice
        with fake(closed_port_url) as returned:

            async def until_returned() -> None:
                end = time.monotonic() + 20
                while await ask(student, time.monotonic()) != str(returned.pid):
                    assert time.monotonic() < end, "the server that came back is not used"

            asyncio.run(until_returned())
    assert student.stats.failures == 0


# --- check and identity -----------------------------------------------------------------------------------------------------------------


def test_check_asks_every_server(pair: tuple[Replica, Replica], closed_port_url: str) -> None:
    a, b = pair
    asyncio.run(student_of(a, b).check())
    with pytest.raises(errors.StudentUnreachable, match=closed_port_url):
        asyncio.run(student_of(a, b, closed_port_url).check())
    b.models = ["other"]
    with pytest.raises(errors.StudentUnknownModel, match=rf"{b.url} does not serve 'm'; it serves other"):
        asyncio.run(student_of(a, b).check())


@pytest.mark.parametrize("version", ["0.17.3", "0.9.2", "0.17.1.dev3+g0"])
def test_a_vllm_that_is_too_old_is_refused(pair: tuple[Replica, Replica], version: str) -> None:
    _, b = pair
    b.version = {"version": version}
    with pytest.raises(errors.StudentError) as caught:
        asyncio.run(student_of(*pair).check())
    assert str(caught.value) == f"{b.url} runs vLLM {version}, this needs 0.18 or newer; upgrade it"
    assert not caught.value.retryable


@pytest.mark.parametrize("version", ["0.18.0", "0.18.1.dev2+g0", "0.32.0+cpu", "1.0", "10.2.1"])
def test_newer_ones_are_fine(pair: tuple[Replica, Replica], version: str, caplog: pytest.LogCaptureFixture) -> None:
    pair[1].version = {"version": version}
    asyncio.run(student_of(*pair).check())
    assert caplog.text == ""


@pytest.mark.parametrize("body", [None, {"version": "0.1.dev50+gabc"}, {"version": "dev"}, {"version": None}, ["0.32"]])
def test_a_server_that_names_no_version_is_only_warned_of(
    pair: tuple[Replica, Replica], body: object, caplog: pytest.LogCaptureFixture
) -> None:
    pair[1].version = body
    asyncio.run(student_of(*pair).check())
    assert f"{pair[1].url} does not say which vLLM" in caplog.text
    assert pair[0].url not in caplog.text


def test_the_identity_holds_no_address_and_no_argument(tmp_path: Path) -> None:
    def attached(port: int, **settings: Any) -> str:
        url = f"http://127.0.0.1:{port}/v1"
        return VLLMStudent("m", lambda url: OpenAICompatibleStudent("m", base_url=url, **settings), base_urls=[url]).identity

    assert attached(1111) == attached(2222)
    assert "1111" not in attached(1111)
    assert attached(1111) != attached(1111, extra_body={"top_k": 1})

    def child(weights: str, *args: str) -> str:
        model = tmp_path / "model"
        model.mkdir(exist_ok=True)
        (model / "weights").write_text(weights)
        return VLLMStudent("m", client, process=VLLMProcess(str(model), log=tmp_path / "log", args=args)).identity

    assert child("x") == child("x") != child("y")
    assert child("x", "--api-key", "secret") != child("x")
    assert "secret" not in child("x", "--api-key", "secret")


def test_a_missing_key_shows_before_a_child_is_started(tmp_path: Path) -> None:
    def keyed(url: str) -> OpenAICompatibleStudent:
        return OpenAICompatibleStudent("m", base_url=url, api_key_file=tmp_path / "empty")

    (tmp_path / "empty").write_text("")
    with pytest.raises(ValueError, match="holds no API key"):
        VLLMStudent("m", keyed, process=VLLMProcess("x", log=tmp_path / "log"))
    assert not (tmp_path / "log").exists()


def test_servers_or_a_child_and_not_both(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        VLLMStudent("m", client)
    with pytest.raises(ValueError, match="exactly one"):
        VLLMStudent("m", client, base_urls=["http://127.0.0.1:1/v1"], process=VLLMProcess("x", log=tmp_path / "log"))
    with pytest.raises(ValueError, match="starts nothing"):
        VLLMProcess("x", log=tmp_path / "log", command=[])


# --- a server as a child ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., VLLMStudent]]:
    """Makes a student whose server is the fake, with arguments for it."""
    processes: list[VLLMProcess] = []

    def make(*args: str, ready_s: float = 60.0, command: list[str] = FAKE) -> VLLMStudent:
        process = VLLMProcess("x", served_name="m", command=command, args=args, log=tmp_path / "logs" / "vllm.log", ready_s=ready_s)
        processes.append(process)
        return VLLMStudent("m", client, process=process)

    yield make
    for process in processes:
        process.stop()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def group(pid: int) -> list[int]:
    """The running members of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def gone(pid: int) -> None:
    """Nothing of a process group is left; what gets SIGKILL ends a moment later."""
    asyncio.run(until(lambda: not group(pid)))


def pid_of(student: VLLMStudent) -> int:
    assert student.process is not None and student.process.pid is not None
    return student.process.pid


def log_of(student: VLLMStudent) -> str:
    assert student.process is not None
    return student.process.log.read_text()


def test_a_child_is_started_asked_and_stopped(launch: Callable[..., VLLMStudent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    student = launch("--worker")

    async def body() -> str:
        await student.check()
        return await ask(student, "who?")

    pid = int(asyncio.run(body()))
    assert pid == pid_of(student)
    members = group(pid)
    worker = int(log_of(student).partition("worker: ")[2])
    assert {pid, worker} < {*members}, "the server, its worker and the guard"
    assert log_of(student).startswith("arguments: serve x --host 127.0.0.1 --port ")
    assert "--served-model-name m --worker threads: 7" in log_of(student)
    asyncio.run(student.aclose())
    gone(pid)
    assert not alive(worker)
    with pytest.raises(errors.StudentUnreachable, match="was stopped; make a new student"):
        asyncio.run(ask(student, "still there?"))
    asyncio.run(student.aclose())


def test_many_requests_start_one_child(launch: Callable[..., VLLMStudent]) -> None:
    student = launch()

    async def body() -> set[str]:
        return {*await asyncio.gather(*(ask(student, i) for i in range(20)))}

    assert asyncio.run(body()) == {str(pid_of(student))}


def test_a_command_that_is_no_serve_takes_the_model_as_an_option(launch: Callable[..., VLLMStudent]) -> None:
    student = launch(command=FAKE[:-1])
    asyncio.run(student.check())
    assert log_of(student).startswith("arguments: --model x --host")


def test_a_child_that_exits_early_says_why(launch: Callable[..., VLLMStudent]) -> None:
    student = launch("--crash", "ValueError: no such\tdtype")
    for _ in range(2):  # and is not started once more
        with pytest.raises(errors.StudentUnreachable) as caught:
            asyncio.run(student.check())
        message = str(caught.value)
        assert "exited with 3" in message and "student.vllm.args" in message and str(student.process and student.process.log) in message
        assert message.endswith("Traceback of the fake | in a line | ValueError: no such dtype")
    gone(pid_of(student))


def test_a_child_that_never_gets_healthy_is_stopped(launch: Callable[..., VLLMStudent]) -> None:
    student = launch("--unhealthy", ready_s=0.5)
    with pytest.raises(errors.StudentUnreachable, match=r"not healthy after 0\.5 s; .* raise student\.vllm\.ready_s; its log .*ends"):
        asyncio.run(student.check())
    gone(pid_of(student))


def test_waiting_for_a_child_can_be_given_up(launch: Callable[..., VLLMStudent]) -> None:
    """Ctrl-C while a model loads: the waiting ends at once, and whoever else waits goes on waiting."""
    student = launch("--unhealthy")

    async def body() -> str:
        other = asyncio.ensure_future(student.check())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(student.check(), 0.3)
        assert not other.done()
        await student.aclose()
        with pytest.raises(errors.StudentUnreachable) as caught:
            await other
        return str(caught.value)

    assert "was stopped" in asyncio.run(body())


def test_a_child_that_ignores_sigterm_is_killed(launch: Callable[..., VLLMStudent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "STOP_S", 0.3)
    student = launch("--deaf")
    asyncio.run(student.check())
    pid = pid_of(student)
    asyncio.run(student.aclose())
    gone(pid)


def test_a_child_that_dies_later_is_reported_with_its_end(launch: Callable[..., VLLMStudent]) -> None:
    student = launch()
    asyncio.run(student.check())
    os.kill(pid_of(student), signal.SIGKILL)

    async def body() -> None:
        assert student.process is not None
        await until(student.process.why_gone)
        await ask(student, "x")

    with pytest.raises(errors.StudentUnreachable, match=r"was ended by SIGKILL; .*out of memory.*its log .* ends: arguments: serve"):
        asyncio.run(body())


def test_a_command_that_does_not_exist_says_what_to_do(launch: Callable[..., VLLMStudent]) -> None:
    with pytest.raises(errors.StudentUnreachable, match=r"no command 'vllm-of-nowhere'.*environment of its own.*student\.vllm\.command"):
        asyncio.run(launch(command=["vllm-of-nowhere", "serve"]).check())


def test_a_log_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    student = VLLMStudent("m", client, process=VLLMProcess("x", command=FAKE, log=tmp_path / "file" / "log"))
    with pytest.raises(errors.StudentUnreachable, match="cannot start vLLM"):
        asyncio.run(student.check())


PARENT = """
import json, sys
from pathlib import Path
from student_clients.vllm_process import VLLMProcess
process = VLLMProcess("x", command=json.loads(sys.argv[1]), args=["--worker", "--leave-s", "0.5"], log=Path(sys.argv[2]))
process.start().result()
print(process.pid, flush=True)
if sys.argv[3] == "stay":
    sys.stdin.read()
"""


@contextmanager
def parent(log: Path, then: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A process of ours with a server as its child; its own, the server's and the server's worker's process."""
    words = [sys.executable, "-c", PARENT, json.dumps(FAKE), str(log), then]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            server = int(process.stdout.readline())
            yield process, server, int(log.read_text().partition("worker: ")[2])
        finally:
            process.kill()


def test_the_parent_ends_after_its_server(tmp_path: Path) -> None:
    """So that the GPU is free for whoever comes next."""
    with parent(tmp_path / "log", "end") as (process, server, worker):
        assert process.wait(30) == 0
        assert not alive(server)
        gone(server)
        assert not alive(worker)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_parent_is_killed(tmp_path: Path, sign: signal.Signals) -> None:
    with parent(tmp_path / "log", "stay") as (process, server, worker):
        assert alive(server) and alive(worker)
        process.send_signal(sign)
        process.wait()
        gone(server)
        assert not alive(worker)
