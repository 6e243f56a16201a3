"""Record and replay: a student's traffic to a JSON-lines file, and answers from such a file without any student.

A line: {"messages": [...], "params": {...} or null, "sample_index": 0, "completion": {...}}. Lines written by hand may leave `params` out
(null fits any) and give only `{"text": "..."}` as completion. Of equal lines the last counts.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message, Record
from exchange.settings import SettingError
from student_clients.errors import StudentBadRequest
from student_clients.ledger import Adapter, Ledger, StudentWrapper


class Recorded(Record):
    """One line of a recording."""

    messages: tuple[Message, ...] = Field(min_length=1)
    params: SamplingParams | None = None
    sample_index: int = Field(default=0, ge=0)
    completion: Completion


class RecordingStudent(StudentWrapper):
    """Writes what `client` answers into a file as it comes; appends to what is there. Proxied requests are not recorded."""

    def __init__(self, client: Adapter, path: Path) -> None:
        """Raises OSError where the file cannot be written."""
        super().__init__(client)
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        completions = await self.client.complete(messages, params, n=n, sample_index=sample_index)
        lines = [
            Recorded(
                messages=tuple(messages),
                params=params,
                sample_index=sample_index + i,
                completion=completion.model_copy(update={"cached": False}),
            ).model_dump_json(exclude_defaults=True)
            for i, completion in enumerate(completions)
        ]
        # Opened anew each time, so that every line is out when the answer is, and nothing is left open.
        with self._lock, self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(line + "\n" for line in lines))
        return completions


class ReplayStudent:
    """Answers from a recording: calls that cost nothing. A request that is not in the file raises StudentBadRequest."""

    def __init__(self, path: Path) -> None:
        """Raises SettingError where the file cannot be read, naming file and line."""
        self.path = path
        self.name = f"replay:{path.name}"
        self.ledger = Ledger()
        self._answers: dict[str, Completion] = {}
        try:
            content = path.read_bytes()
            text = content.decode("utf-8")
        except OSError as error:
            raise SettingError(f"student.replay={str(path)!r}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise SettingError(f"student.replay={str(path)!r}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        self.identity = "replay:" + hashlib.sha256(content).hexdigest()
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                recorded = Recorded.model_validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(str(part) for part in first["loc"]) or "the line"
                raise SettingError(f"student.replay: {path}, line {number}: {where}: {first['msg']}") from None
            self._answers[_key(recorded.messages, recorded.params, recorded.sample_index)] = recorded.completion

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        answers = []
        for i in range(sample_index, sample_index + n):
            answer = self._answers.get(_key(messages, params, i)) or self._answers.get(_key(messages, None, i))
            if answer is None:
                raise StudentBadRequest(
                    f"{self.path} holds no answer to this request (sample {i}, query {messages[-1].content[:60]!r}); "
                    "record it with student.record=FILE, with the same settings"
                )
            answers.append(answer.model_copy(update={"cost_usd": 0.0}))
        self.ledger.add(
            calls=1, prompt_tokens=sum(a.prompt_tokens for a in answers), completion_tokens=sum(a.completion_tokens for a in answers)
        )
        return answers

    async def check(self) -> None:
        """The file was read when the student was made."""

    async def aclose(self) -> None:
        """Nothing to give back."""


def _key(messages: Sequence[Message], params: SamplingParams | None, sample_index: int) -> str:
    """What a recorded answer is found by; the split is no part of it."""
    settings = params.model_dump(exclude={"split"}) if params is not None else None
    return json.dumps([[[message.role, message.content] for message in messages], settings, sample_index])
