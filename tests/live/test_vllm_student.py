"""The vLLM student against real vLLM, and the same answers from every kind of student."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import pytest

from exchange.compose import compose
from exchange.protocols import SamplingParams
from exchange.records import Completion, Episode, Example, Instruction
from rewards.episode import run_episode
from rewards.rubric import RewardConfig, Rubric
from student_clients.embedded import EmbeddedStudent
from student_clients.ledger import Adapter, CountingStudent
from student_clients.openai_compatible import OpenAICompatibleStudent
from student_clients.pacing import PacedStudent, PacingConfig
from student_clients.vllm import VLLMStudent
from student_clients.vllm_process import VLLMProcess
from tasks.gsm8k_answer import extract
from tasks.lab_arithmetic import load
from tests.live.servers import LiveServer, vllm_server
from tests.requirements import ROOT, VLLM_PYTHON

PARAMS = SamplingParams(max_tokens=128)
CPU_COMMAND = [str(VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server"]
CPU_ARGS = "--dtype float32 --max-model-len 1024 --max-num-seqs 16 --enforce-eager --generation-config vllm".split()
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


def client(url: str) -> OpenAICompatibleStudent:
    return OpenAICompatibleStudent("student", base_url=url)


def instructed(count: int) -> list[tuple[Example, Instruction]]:
    """Lab questions of the test split, every other one with its best instruction."""
    examples = load("test", limit=count)
    return [(e, Instruction(text=e.oracle or "" if i % 2 else "", source="oracle")) for i, e in enumerate(examples)]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_mid_run_costs_no_episode(
    live_vllm: LiveServer, student_dir: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    with vllm_server(student_dir, "student", log_dir=tmp_path) as victim:
        inner = VLLMStudent("student", client, base_urls=[live_vllm.base_url, victim.base_url])
        student = CountingStudent(PacedStudent(inner, PacingConfig(concurrency=32)))
        made_before, victims = live_vllm.completions_made(), 0

        async def body() -> list[Episode]:
            nonlocal victims
            await student.check()
            rubric = Rubric(RewardConfig())
            # New questions follow until the victim is seen to have served: it may be slow to begin, and slow to say so.
            questions, tasks = cycle(instructed(200)), []
            while not victims and len(tasks) < 3000:
                for example, instruction in islice(questions, 96 - sum(not task.done() for task in tasks)):
                    episode = run_episode(example, instruction, arm="x", student=student, params=PARAMS, reward=rubric)
                    tasks.append(asyncio.ensure_future(episode))
                victims = await asyncio.to_thread(victim.completions_made)
            os.killpg(victim.pid, sign)
            episodes = await asyncio.gather(*tasks)
            await student.aclose()
            return episodes

        episodes = asyncio.run(body())
    assert [episode.error for episode in episodes if episode.error] == []
    finish = {completion.finish_reason for episode in episodes for completion in episode.completions}
    assert finish <= {"stop", "length"}, "a text cut off by the server's end is no answer"
    assert victims > 0, "it served before it ended"
    assert live_vllm.completions_made() - made_before >= 50
    assert student.stats.failures == 0
    assert student.stats.calls > len(episodes), "some were in flight and sent again"


@pytest.mark.slow
@pytest.mark.vllm
def test_four_samples_are_one_request_and_four_sequences(live_vllm: LiveServer) -> None:
    student = VLLMStudent("student", client, base_urls=[live_vllm.base_url])
    requests, sequences = live_vllm.requests_served(), live_vllm.completions_made()
    example = load("test", limit=1)[0]
    messages = compose(example.public(), Instruction(text="", source="silence"))

    async def body() -> list[Completion]:
        completions = await student.complete(messages, PARAMS.model_copy(update={"temperature": 1.0}), n=4)
        await student.aclose()
        return completions

    assert len(asyncio.run(body())) == 4
    assert live_vllm.requests_served() - requests == student.ledger.stats.calls == 1
    assert live_vllm.completions_made() - sequences == 4


def members(group: int) -> list[str]:
    """The running processes of a group, by name."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            name, _, rest = (entry / "stat").read_text().rpartition(")")
            if rest.split()[0] != "Z" and int(rest.split()[2]) == group:
                found.append(name.partition("(")[2])
    return found


def wait_until_gone(group: int, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while left := members(group):
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.vllm
def test_a_launched_vllm_answers_and_leaves_nothing(student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CPU_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    process = VLLMProcess(
        str(student_dir), served_name="student", command=CPU_COMMAND, args=CPU_ARGS, log=tmp_path / "vllm.log", ready_s=300
    )
    student = VLLMStudent("student", client, process=process)
    example, instruction = instructed(2)[1]

    async def body() -> list[Completion]:
        await student.check()
        assert process.pid is not None
        assert len(members(process.pid)) >= 3, "the server, its engine, the guard"
        completions = await student.complete(compose(example.public(), instruction), PARAMS)
        await student.aclose()
        return completions

    (completion,) = asyncio.run(body())
    assert completion.text and completion.prompt_tokens > 0
    assert process.pid is not None
    wait_until_gone(process.pid, 5)


@pytest.mark.slow
@pytest.mark.vllm
def test_a_vllm_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CPU_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    empty = tmp_path / "no-model"
    empty.mkdir()
    process = VLLMProcess(str(empty), command=CPU_COMMAND, log=tmp_path / "vllm.log", ready_s=300)
    student = VLLMStudent(str(empty), client, process=process)
    with pytest.raises(Exception, match=r"exited with \d+; .*its log .* ends: .*no-model") as caught:
        asyncio.run(student.check())
    assert type(caught.value).__name__ == "StudentUnreachable"


PARENT = """
import sys
from pathlib import Path
from student_clients.vllm_process import VLLMProcess
model, log, command, args = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(), sys.argv[4].split()
process = VLLMProcess(model, command=command, args=args, log=log, ready_s=300)
process.start().result()
print(process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.vllm
def test_a_launched_vllm_ends_with_a_parent_that_is_killed(student_dir: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", PARENT, str(student_dir), str(tmp_path / "vllm.log"), " ".join(CPU_COMMAND), " ".join(CPU_ARGS)]
    with subprocess.Popen(words, cwd=ROOT, env={**os.environ, **CPU_ENVIRONMENT}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert len(members(group)) >= 3
        parent.kill()
        parent.wait()
        wait_until_gone(group, 30)


def answers(student: Adapter, count: int) -> list[str]:
    """The greedy texts for the lab questions."""

    async def body() -> Sequence[list[Completion]]:
        await student.check()
        done = await asyncio.gather(*(student.complete(compose(e.public(), i), PARAMS) for e, i in instructed(count)))
        await student.aclose()
        return done

    return [completion.text or "" for (completion,) in asyncio.run(body())]


def assert_like_embedded(student: Adapter, student_dir: Path) -> None:
    served = answers(PacedStudent(student, PacingConfig(concurrency=32)), 200)
    embedded = answers(EmbeddedStudent(student_dir), 200)
    assert [extract(text) for text in served] == [extract(text) for text in embedded]
    same = sum(one == other for one, other in zip(served, embedded, strict=True))
    assert same >= 198, f"{200 - same} of 200 greedy texts differ"
    assert sum(extract(text) is not None for text in embedded) > 100, "or equal answers would mean nothing"


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_gives_the_embedded_students_greedy_answers(live_vllm: LiveServer, student_dir: Path) -> None:
    assert_like_embedded(VLLMStudent(live_vllm.model, client, base_urls=[live_vllm.base_url]), student_dir)


@pytest.mark.slow
def test_transformers_serve_gives_the_embedded_students_greedy_answers(live_transformers: LiveServer, student_dir: Path) -> None:
    assert_like_embedded(OpenAICompatibleStudent(live_transformers.model, base_url=live_transformers.base_url, timeout_s=300), student_dir)
