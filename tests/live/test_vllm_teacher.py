"""A trained teacher whose weights vLLM holds writes what it writes in process, its bias towards silence included."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exchange.records import Instruction
from lab.weights_folder import weights_dir
from tasks.lab_arithmetic import load
from teacher.policy import LoadedTeacher, load_model, load_teacher, save_teacher
from teacher.prompt import TeacherPrompt
from teacher.remote import RemotePolicy, remote_teacher
from tests.live.servers import vllm_server

EXAMPLES = [example.public() for example in load("test", limit=200)]


def written(teacher: LoadedTeacher) -> list[str]:
    async def scenario() -> list[Instruction]:
        found = await teacher.policy.instruct(EXAMPLES)
        if isinstance(teacher.policy, RemotePolicy):
            await teacher.policy.client.aclose()
        return found

    return [instruction.text for instruction in asyncio.run(scenario())]


@pytest.mark.slow
@pytest.mark.vllm
def test_a_teacher_behind_vllm_is_the_teacher(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    model, tokenizer = load_model(str(weights_dir("arithmetic") / "trained_teacher"))
    facts = {"id": "t", "task": "lab_arithmetic", "max_instruction_tokens": 40}
    found = {}
    for bias in (4.9, 0.0):  # vLLM serves the second; the bias is in the request
        save_teacher(folder, model.float(), tokenizer, TeacherPrompt.named("lab"), facts, silence_bias=bias)
        found[bias] = written(load_teacher(folder))
    with vllm_server(folder, "teacher", log_dir=tmp_path) as server:
        for bias, texts in found.items():
            save_teacher(folder, model, tokenizer, TeacherPrompt.named("lab"), facts, silence_bias=bias)
            remote = written(remote_teacher(folder, "teacher", base_url=server.base_url))
            assert sum(a != b for a, b in zip(remote, texts, strict=True)) <= 2, "two engines may break a tie differently"
    assert found[4.9].count("") >= found[0.0].count("") + 10
