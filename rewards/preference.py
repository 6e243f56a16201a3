"""How much better an answer is than the raw one: the reward where there is no gold.

    reward model   sigmoid(r(answer) - r(raw answer)): the odds of Bradley and Terry (1952), as reward models are trained on them
    judge          mean of a pairwise verdict in both orders: 1, 0.5 or 0 (`rewards.judge`)

The raw answer is the student's own to the conversation without an instruction, asked once a question. Where that student answers and the
teacher keeps silent the answer is the raw one, so silence is a tie (0.5) and the raw arm 0.5 by construction, and the mean over questions
is the win rate over raw. Raw prompts asked anew, voted on or put to another student are judged like any answer (`judged`). A win rate and
no ratio of scores: reward models have no zero.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import BaseModel, Field, ValidationError

from exchange.compose import raw_messages
from exchange.guard import guard
from exchange.protocols import SamplingParams, StudentClient
from exchange.records import Completion, Example, Instruction, Message, Score
from exchange.settings import SettingError, Settings
from rewards.once import Once
from rewards.preference_model import RewardModel
from store import Store
from student_clients import BudgetConfig, StudentConfig, make_student
from student_clients.caching import CacheConfig
from student_clients.errors import StudentBadResponse, StudentError
from student_clients.ledger import CountingStudent
from student_clients.pacing import PacingConfig

TIE = 0.5
MEMO = 20_000
"""Rewards of raw answers that are kept."""


class PreferenceConfig(Settings):
    """A reward model, in this process or served."""

    model: str
    """Folder, Hub id or lab:WORLD/ROLE of a sequence-classification model with one label; with `base_url` the name it is served under."""
    base_url: str | None = None
    """vLLM server of the model (`vllm serve MODEL --runner pooling`), `/v1` included; its `/classify` is asked. None = in this process."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's key, where it wants one."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds for one request to the server."""
    pacing: PacingConfig = PacingConfig()
    """Concurrency, retries and rate limits of the server."""
    batch_size: int = Field(default=64, ge=1)
    """Answers scored at a time in this process."""
    max_tokens: int = Field(default=1024, ge=16)
    """A longer conversation loses its beginning; a server keeps to its own limit."""


class Preference(Protocol):
    """Judges an answer against the raw one."""

    stats: CountingStudent | None
    """The client whose calls are counted; None where nothing is called."""

    async def win(self, example: Example, answer: str, raw: str) -> float | None:
        """In [0, 1]: how clearly the answer beats the raw one; None = no verdict. Raises StudentError."""
        ...

    async def check(self) -> None:
        """Raises SettingError or StudentError where it cannot judge."""
        ...

    async def aclose(self) -> None: ...


class Scorer(Protocol):
    """Gives rewards: `RewardModel` or `ServedRewardModel`."""

    async def score(self, messages: Sequence[Message], answer: str) -> float: ...
    async def check(self) -> None: ...
    async def aclose(self) -> None: ...


class _Classified(BaseModel):
    probs: list[float]


class _Classification(BaseModel):
    data: list[_Classified]


class ServedRewardModel:
    """A reward model behind vLLM's pooling API: `/classify` with `messages`, which the server's own chat template writes out, and the
    activation off, so that the logit comes back. Requests go through the student's pacing, retries, budget and errors."""

    def __init__(self, config: PreferenceConfig, budget: BudgetConfig | None, account: Callable[[], Store] | None) -> None:
        served = StudentConfig(
            kind="openai", model=config.model, base_url=config.base_url, api_key_env=config.api_key_env, timeout_s=config.timeout_s,
            pacing=config.pacing, cache=CacheConfig(enabled=False),
        )  # fmt: skip
        self.client = make_student(served, budget, account)

    async def score(self, messages: Sequence[Message], answer: str) -> float:
        """The reward of one answer, a logit. Raises StudentError."""
        turns = [*messages, Message(role="assistant", content=answer)]
        body = {
            "model": self.client.name,
            "messages": [turn.model_dump() for turn in turns],
            "use_activation": False,
            "truncate_prompt_tokens": -1,
            "truncation_side": "left",
        }
        async with self.client.forward(body, path="../classify") as reply:
            content = b"".join([piece async for piece in reply.chunks()])
        try:
            found = _Classification.model_validate_json(content).data[0].probs
        except (ValidationError, IndexError):
            raise StudentBadResponse(f"the reward model {self.client.name} sent no classification but {content[:200]!r}") from None
        if len(found) != 1:
            raise StudentBadResponse(f"{self.client.name} has {len(found)} labels; a reward model has one, whose logit is the reward")
        return found[0]

    async def check(self) -> None:
        await self.client.check()
        try:
            await self.score((Message(role="user", content="Hello"),), "Hello.")
        except StudentError as error:
            raise SettingError(f"reward model {self.client.name!r} at /classify: {error}") from None

    async def aclose(self) -> None:
        await self.client.aclose()


class BradleyTerry:
    """A reward model as a preference."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.stats = scorer.client if isinstance(scorer, ServedRewardModel) else None
        self._raw: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def win(self, example: Example, answer: str, raw: str) -> float | None:
        messages = raw_messages(example.public())
        difference = await self.scorer.score(messages, answer) - await self._of_raw(example.id, messages, raw)
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, difference))))

    async def _of_raw(self, name: str, messages: Sequence[Message], raw: str) -> float:
        key = (name, raw)
        if key not in self._raw:
            self._raw[key] = await self.scorer.score(messages, raw)
            if len(self._raw) > MEMO:
                self._raw.popitem(last=False)
        return self._raw[key]

    async def check(self) -> None:
        await self.scorer.check()

    async def aclose(self) -> None:
        await self.scorer.aclose()


def reward_model(config: PreferenceConfig, budget: BudgetConfig | None, account: Callable[[], Store] | None) -> BradleyTerry:
    """The configured reward model, not yet loaded or connected."""
    if config.base_url is not None:
        return BradleyTerry(ServedRewardModel(config, budget, account))
    return BradleyTerry(RewardModel(config.model, batch_size=config.batch_size, max_tokens=config.max_tokens))


class RawAnswers:
    """The student's answers without an instruction, each asked once."""

    def __init__(self, student: StudentClient, params: SamplingParams) -> None:
        self.student = student
        self.params = params
        self._answers: Once[str | None] = Once()

    async def of(self, example: Example) -> str | None:
        """Its text; None where the student gave none. Raises StudentError."""

        async def ask() -> str | None:
            params = self.params.model_copy(update={"split": example.split})
            return (await self.student.complete(raw_messages(example.public()), params))[0].text

        return await self._answers.get((example.split, example.id), ask)


class Preferred:
    """The win over the raw answer, as a reward: `parts["win"]`."""

    def __init__(self, preference: Preference, raw: RawAnswers) -> None:
        self.preference = preference
        self.raw = raw

    async def __call__(self, example: Example, instruction: Instruction, completion: Completion) -> Score:
        """The win of an answer of the student that gave the raw ones: where the teacher kept silent, a tie."""
        if completion.text is not None and not guard(instruction, example).instruction.text:
            return Score(value=TIE, parts={"win": TIE})
        return await self.judged(example, instruction, completion)

    async def judged(self, example: Example, instruction: Instruction, completion: Completion) -> Score:
        """The win of any answer, also where nothing was said. A failed judge or raw answer gives `value` None and `problem`."""
        if completion.text is None:
            return Score(value=None)
        try:
            raw = await self.raw.of(example)
        except StudentError:
            raw = None
        if raw is None:
            return Score(value=None, problem="raw_answer")
        if raw == completion.text:
            return Score(value=TIE, parts={"win": TIE})
        try:
            win = await self.preference.win(example, completion.text, raw)
        except StudentError:
            win = None
        return Score(value=None, problem="judge") if win is None else Score(value=win, parts={"win": win})
