"""Agreement of an answer with the student's own samples: a reward for queries without golds (self-consistency, Wang et al. 2022; as a
reward TTRL, Zuo et al. 2025).

    raw           1 where the answer equals the majority of k samples on the question without an instruction, else 0
    instruction   the share of k samples under this very instruction that equal the answer

It measures how sure the student is, not whether it is right: `raw` cannot teach what the student gets wrong by habit, and `instruction`
pays any procedure that leaves no doubt. `docs/results.md` shows both beside gold; keep some labelled questions to look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from exchange.compose import compose
from exchange.guard import guard
from exchange.protocols import SamplingParams, StudentClient
from exchange.records import Completion, Example, Instruction, Score
from exchange.settings import Settings
from rewards.correctness import Grader, extract_text
from rewards.once import Once
from student_clients.errors import StudentError
from tasks import answer_type_of
from tasks.answer_type import AnswerType
from tasks.gsm8k_answer import extract
from tasks.label_answer import extract_choice, extract_yes_no, options_of
from tasks.math_answer import candidates


class ConsistencyConfig(Settings):
    """Self-agreement as a reward."""

    samples: int = Field(default=8, ge=2)
    """Samples that vote: calls a question (`raw`) or an instruction (`instruction`). 8: the hub preset's group; more votes
    are surer and dearer."""
    on: Literal["raw", "instruction"] = "raw"
    """Whose majority counts: the question as it is, which costs `samples` calls once a question, or each instruction, which costs them
    every time."""
    temperature: float = Field(default=1.0, gt=0)
    """At which the voters are sampled."""


EXTRACT: dict[AnswerType, Callable[[str, str], str | None]] = {
    "number": lambda text, query: extract(text, strict=False),
    "math": lambda text, query: next(iter(candidates(text, strict=False)), None),
    "choice": lambda text, query: extract_choice(text, strict=False, options=options_of(query)),
    "yes_no": lambda text, query: extract_yes_no(text, strict=False),
    "text": lambda text, query: extract_text(text),
}
"""What an answer says, by (text, query). Roles are left out: to read them takes the gold's names."""


class Consistent:
    """Agreement as a reward: `parts["agreement"]`."""

    def __init__(self, config: ConsistencyConfig, grader: Grader, student: StudentClient, params: SamplingParams) -> None:
        self.config = config
        self.grader = grader
        self.student = student
        self.params = params.model_copy(update={"temperature": config.temperature})
        self._majorities: Once[str | None] = Once()

    async def __call__(self, example: Example, instruction: Instruction, completion: Completion) -> Score:
        answer_type = answer_type_of(example.task)
        if completion.text is None or answer_type not in EXTRACT:
            return Score(value=None)
        answer = EXTRACT[answer_type](completion.text, example.query)
        try:
            if self.config.on == "raw":
                majority = await self._majorities.get(f"{example.split}/{example.id}", lambda: self._majority(example, answer_type))
                if majority is None:
                    return Score(value=None, extracted=answer, problem="no_answer")
                agreement = float(answer is not None and await self._same(answer_type, majority, completion.text, example.query))
            else:
                votes = await self._samples(example, instruction)
                if answer is None or not votes:
                    return Score(value=0.0, parts={"agreement": 0.0}, problem="no_answer")
                agreement = sum([await self._same(answer_type, answer, vote, example.query) for vote in votes]) / len(votes)
        except StudentError:
            return Score(value=None, extracted=answer, problem="raw_answer")
        return Score(value=agreement, parts={"agreement": agreement}, extracted=answer)

    async def _samples(self, example: Example, instruction: Instruction) -> list[str]:
        messages = compose(example.public(), guard(instruction, example).instruction)
        params = self.params.model_copy(update={"split": example.split})
        drawn = await self.student.complete(messages, params, n=self.config.samples)
        return [completion.text for completion in drawn if completion.text is not None]

    async def _majority(self, example: Example, answer_type: AnswerType) -> str | None:
        """The answer that most samples give, the first of equals; None where no sample gives one."""
        groups: list[tuple[str, int]] = []
        for text in await self._samples(example, Instruction(text="", source="silence")):
            for i, (known, count) in enumerate(groups):
                if await self._same(answer_type, known, text, example.query):
                    groups[i] = (known, count + 1)
                    break
            else:
                if (answer := EXTRACT[answer_type](text, example.query)) is not None:
                    groups.append((answer, 1))
        return max(groups, key=lambda group: group[1])[0] if groups else None

    async def _same(self, answer_type: AnswerType, known: str, text: str, query: str) -> bool:
        grade = await self.grader.agrade(answer_type, known, text, query=query)
        return grade.correct is True
