"""A trained teacher whose weights a model server holds: vLLM in production, anything that speaks OpenAI's protocol.

    vllm serve runs/2026…/teacher --served-model-name my-teacher

The folder is still read here, for what it asks the model (template, limit, sum); its weights are not. The server has to apply the folder's
own chat template and to send nothing of its own sampling defaults, `--generation-config vllm`. The bias towards silence goes with each
request, as `logit_bias`, unless words are drawn; the server has to honour it (vLLM does, but for speculative decoding).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exchange.protocols import SamplingParams
from exchange.records import Instruction, PublicExample
from student_clients import errors
from student_clients.openai_compatible import OpenAICompatibleStudent
from teacher.folder import LoadedTeacher, end_biases, named_at, read_manifest
from teacher.prompt import TeacherPrompt


class RemotePolicy:
    """Asks the server for one instruction an example, all at the same time; the server makes batches of them itself."""

    def __init__(
        self,
        client: OpenAICompatibleStudent,
        prompt: TeacherPrompt,
        *,
        max_instruction_tokens: int,
        temperature: float = 0.0,
        sha256: str | None = None,
    ) -> None:
        self.client = client
        self.prompt = prompt
        self.params = SamplingParams(temperature=temperature, max_tokens=max_instruction_tokens)
        self.sha256 = sha256

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        """Raises the StudentError tree. A query that does not fit the model's context gets no instruction (source "passthrough")."""
        return list(await asyncio.gather(*map(self._one, examples)))

    async def _one(self, example: PublicExample) -> Instruction:
        try:
            (found,) = await self.client.complete(self.prompt.messages(example), self.params)
        except errors.StudentBadRequest as error:
            if "logit_bias" in str(error):
                raise
            return Instruction(text="", source="passthrough", teacher_sha256=self.sha256)
        text = (found.text or "").strip()
        return Instruction(
            text=text,
            source="teacher" if text else "silence",
            teacher_sha256=self.sha256,
            num_tokens=found.completion_tokens,
            truncated=found.finish_reason == "length",
        )


def remote_teacher(folder: Path, model: str, *, base_url: str, temperature: float = 0.0, **connection: Any) -> LoadedTeacher:
    """The teacher of `folder`, asked at `base_url` under the name `model`. `connection` is for `OpenAICompatibleStudent`.

    Raises SettingError where the folder is no teacher, ValueError where the server cannot be asked like that.
    """
    manifest = read_manifest(folder)
    prompt = TeacherPrompt((folder / "template.txt").read_text(encoding="utf-8").removesuffix("\n"), manifest["blind"])
    biases = {str(token): bias for token, bias in end_biases(folder, temperature).items()}
    body = {"logit_bias": biases} if biases else {}
    client = OpenAICompatibleStudent(model, base_url=base_url, extra_body=body, **connection)
    name, sha256 = named_at(manifest, temperature)
    most = manifest["max_instruction_tokens"]
    policy = RemotePolicy(client, prompt, max_instruction_tokens=most, temperature=temperature, sha256=sha256)
    return LoadedTeacher(name, sha256, manifest["task"], policy, manifest, folder, temperature)
