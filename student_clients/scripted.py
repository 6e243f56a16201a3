"""The fake student that the package ships: a Python function answers, e.g. `ScriptedStudent(lambda messages: messages[-1].content)`.
For tests and for the documentation's examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from student_clients.ledger import Ledger


class ScriptedStudent:
    """Answers with `answer(messages)`; what that raises is raised to the caller, so a script may fail as a server does. Words count as
    tokens."""

    name = "scripted"
    identity = "scripted"

    def __init__(self, answer: Callable[[Sequence[Message]], str]) -> None:
        self.answer = answer
        self.ledger = Ledger()

    @property
    def calls(self) -> int:
        """How often `complete` was called."""
        return self.ledger.stats.calls

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        self.ledger.add(calls=1)
        prompt_tokens = sum(len(message.content.split()) for message in messages)
        texts = [self.answer(messages) for _ in range(n)]
        completions = [
            Completion(text=text, finish_reason="stop", prompt_tokens=prompt_tokens, completion_tokens=len(text.split())) for text in texts
        ]
        self.ledger.add(prompt_tokens=prompt_tokens, completion_tokens=sum(completion.completion_tokens for completion in completions))
        return completions

    async def check(self) -> None:
        """A function is always there."""

    async def aclose(self) -> None:
        """Nothing to give back."""
