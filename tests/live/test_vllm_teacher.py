"""A trained teacher whose weights vLLM holds writes what it writes in process, its bias towards silence included."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

import pytest

from exchange.records import Instruction
from tasks.lab_arithmetic import load
from teacher.folder import LoadedTeacher, load_teacher, save_teacher
from teacher.policy import TransformersPolicy, load_model
from teacher.prompt import TeacherPrompt
from teacher.remote import RemotePolicy, remote_teacher
from tests.live.servers import LiveServer

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
def test_a_teacher_behind_vllm_is_the_teacher(live_vllm: LiveServer, student_dir: Path, tmp_path: Path) -> None:
    """Any model is one; this one's bias silences a half."""
    model, tokenizer = load_model(str(student_dir))
    prompt, facts = TeacherPrompt.named("lab"), {"id": "t", "task": "lab_arithmetic", "max_instruction_tokens": 24}
    margins = TransformersPolicy(model, tokenizer, prompt, max_instruction_tokens=24).silence_margins(EXAMPLES)
    bias = -statistics.median(margin for margin in margins if margin is not None)
    for name, laid_on in (("plain", 0.0), ("biased", bias)):
        save_teacher(tmp_path / name, model, tokenizer, prompt, facts, silence_bias=laid_on)
        here = written(load_teacher(tmp_path / name))
        there = written(remote_teacher(tmp_path / name, live_vllm.model, base_url=live_vllm.base_url))
        assert sum(a != b for a, b in zip(there, here, strict=True)) <= 4, "two engines may break a tie differently"
        assert here.count("") == (0 if not laid_on else pytest.approx(len(EXAMPLES) / 2, abs=2))
        drawn = remote_teacher(tmp_path / name, live_vllm.model, base_url=live_vllm.base_url, temperature=1e-3)
        assert written(drawn).count("") <= 2, "who draws explores, without the bias"
