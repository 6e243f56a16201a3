"""Where teachers come from, and whether they are fast enough: static texts, a teacher behind HTTP, the choice by header."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from exchange.records import Instruction, Message, PublicExample
from exchange.settings import SettingError
from lab.weights_folder import weights_dir
from server.app import create_app
from server.cache import InstructionCache
from server.reload import make_desk
from server.settings import ServerSettings
from server.teachers import TeacherSource, check_speed, load
from student_clients.errors import StudentBadRequest, StudentServerError
from teacher.folder import save_teacher
from teacher.policy import load_model
from teacher.prompt import TeacherPrompt
from teacher.remote import RemotePolicy
from tests.server.fakes import FakePolicy, FakeTeacher
from tests.student_clients.conftest import chat
from tests.student_clients.faulty_server import faulty_server, hang, reply

SHIPPED = weights_dir("arithmetic") / "trained_teacher"
EXAMPLE = PublicExample(id="1", task="t", split="served", query="2+2?", history=(Message(role="assistant", content="Hi."),))


def loaded(source: TeacherSource, timeout_s: float = 30.0) -> RemotePolicy:
    policy = load(source, "n", batch_size=4, threads=1, timeout_s=timeout_s).policy
    assert isinstance(policy, RemotePolicy)
    return policy


def test_a_static_teacher() -> None:
    brief = load(TeacherSource(text="Be brief."), "brief", batch_size=4, threads=1, timeout_s=1)
    with TestClient(create_app(ServerSettings(), FakeTeacher(FakePolicy()), {"brief": brief})) as client:
        replies = [client.post("/instruct", json={"query": "q"}, headers=headers).json() for headers in ({}, {"WST-Teacher": "brief"})]
        refused = client.post("/instruct", json={"query": "q"}, headers={"WST-Teacher": "x"})
    assert [reply["source"] for reply in replies] == ["teacher", "static"]
    assert (replies[1]["instruction"], replies[1]["teacher"]["id"]) == ("Be brief.", "static:brief")
    assert (refused.status_code, refused.json()["error"]["message"]) == (422, "WST-Teacher: this server has no such teacher")


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "12345678", "1e3"])
def test_a_bad_timeout_is_refused(text: str) -> None:
    with TestClient(create_app(ServerSettings(), FakeTeacher(FakePolicy()))) as client:
        assert client.post("/instruct", json={"query": "q"}, headers={"WST-Timeout-Ms": text}).status_code == 422


def test_a_teacher_behind_http() -> None:
    with faulty_server() as server:
        server.script = [
            reply(200, chat(" Add.\n")),
            reply(200, chat("")),
            reply(200, chat("x", finish_reason="length")),
            reply(400, {}),
            reply(500, {}),
        ]
        policy = loaded(TeacherSource(folder=str(SHIPPED), base_url=server.url, model="t"))

        async def scenario() -> list[Instruction]:
            written = [(await policy.instruct([EXAMPLE]))[0] for _ in range(4)]
            with pytest.raises(StudentServerError):
                await policy.instruct([EXAMPLE])
            await policy.client.aclose()
            return written

        written = asyncio.run(scenario())
        assert [(i.text, i.source, i.truncated) for i in written] == [
            ("Add.", "teacher", False), ("", "silence", False), ("x", "teacher", True), ("", "passthrough", False),
        ]  # fmt: skip
        assert written[0].teacher_sha256 == policy.sha256
        assert written[0].num_tokens == 3
        body = server.bodies[0]
        assert (body["model"], body["temperature"]) == ("t", 0.0)
        assert [m["role"] for m in body["messages"]] == ["assistant", "user"]
        assert "2+2?" in body["messages"][-1]["content"]


def test_the_bias_towards_silence_goes_along_to_a_model_server(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    model, tokenizer = load_model(str(SHIPPED))
    facts = {"id": "t", "task": "lab_arithmetic", "max_instruction_tokens": 40}
    laid_on = {str(tokenizer.eos_token_id): 1.5}
    for bias, temperature, sent in ((0.0, 0.0, None), (1.5, 0.0, laid_on), (1.5, 1.0, None)):
        save_teacher(folder, model, tokenizer, TeacherPrompt.named("lab"), facts, silence_bias=bias)
        with faulty_server() as server:
            unwilling = {"error": {"message": "logit_bias is not supported with speculative decoding", "type": "BadRequestError"}}
            server.script = [reply(200, chat("Add.")), reply(400, unwilling)]
            policy = loaded(TeacherSource(folder=str(folder), base_url=server.url, model="t", temperature=temperature))

            async def scenario(policy: RemotePolicy = policy) -> None:
                await policy.instruct([EXAMPLE])
                with pytest.raises(StudentBadRequest, match="logit_bias"):  # no query that is too long
                    await policy.instruct([EXAMPLE])
                await policy.client.aclose()

            asyncio.run(scenario())
            assert server.bodies[0].get("logit_bias") == sent


def test_a_teacher_behind_http_that_hangs_is_left_when_the_caller_is() -> None:
    with faulty_server() as server:
        server.script = [hang]
        teacher = load(TeacherSource(folder=str(SHIPPED), base_url=server.url, model="t"), "n", batch_size=4, threads=1, timeout_s=30)

        async def scenario() -> None:
            desk = make_desk(ServerSettings(deadline_ms=30_000), teacher, InstructionCache(most=0, ttl_s=1))
            asking = asyncio.create_task(desk.engine.ask(EXAMPLE))
            assert await asyncio.to_thread(server.asked.wait, 5)
            asking.cancel()
            await asyncio.wait([asking])
            assert await asyncio.to_thread(server.left.wait, 5)

        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "x", "folder": "y"}, "text is a teacher of its own"),
        ({"base_url": "http://x/v1"}, "base_url and model go together"),
        ({"base_url": "ftp://x", "model": "m"}, "a URL begins with http"),
    ],
)
def test_a_source_that_makes_no_sense(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherSource.model_validate(fields)


def test_a_folder_that_is_no_teacher(tmp_path: Path) -> None:
    for source in (TeacherSource(folder=str(tmp_path)), TeacherSource(folder=str(tmp_path), base_url="http://127.0.0.1:9/v1", model="m")):
        with pytest.raises(SettingError, match="holds no"):
            load(source, "n", batch_size=4, threads=1, timeout_s=1)


class SlowPolicy(FakePolicy):
    """Thirty tokens in 300 ms: a busy machine's delay is little beside it."""

    async def instruct(self, examples: list[PublicExample]) -> list[Instruction]:  # type: ignore[override]
        await asyncio.sleep(0.3)
        return [Instruction(text="Add.", source="teacher", num_tokens=30) for _ in examples]


def test_a_teacher_that_is_too_slow_here_is_told() -> None:
    teacher = FakeTeacher(SlowPolicy(), max_instruction_tokens=100)
    slow = check_speed(teacher, 0.5)
    assert slow is not None
    assert "an instruction of 100 tokens takes about 1." in slow
    assert check_speed(teacher, 50.0) is None
    assert check_speed(FakeTeacher(FakePolicy(), max_instruction_tokens=100), 0.5) is None
    shipped = load(TeacherSource(folder=str(SHIPPED)), "n", batch_size=4, threads=1, timeout_s=1)
    assert check_speed(shipped, 60.0) is None


def test_a_remote_teacher_that_is_down_does_not_keep_the_service_down(capsys: pytest.CaptureFixture[str], free_port: int) -> None:
    """Whoever restarts server and model server together still has a proxy that passes requests on raw."""
    from server.__main__ import _load
    from server.settings import ServerSettings

    source = TeacherSource(folder=str(SHIPPED), base_url=f"http://127.0.0.1:{free_port}/v1", model="t")
    assert _load(ServerSettings(slow_teacher="warn"), "far", source).id
    assert "teacher far does not answer yet" in capsys.readouterr().err


def test_a_fixed_text_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="leave out temperature"):
        TeacherSource(text="Be brief.", temperature=1.0)
