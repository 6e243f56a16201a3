"""The rubric: named parts, weighted and added up. One place decides what a teacher is paid for."""

from __future__ import annotations

from pydantic import Field

from exchange.records import Completion, Example, Instruction, Score
from exchange.settings import Settings
from rewards.correctness import grade_number
from rewards.format import well_formed


class RewardConfig(Settings):
    """Weights of the parts a teacher is paid for, in units of one right answer."""

    silence_bonus: float = Field(default=0.05, ge=0.0)
    """Added where the teacher kept silent and the answer is right: an instruction that is not needed costs tokens and risk."""
    ill_formed_penalty: float = Field(default=0.2, ge=0.0)
    """The value of an ill-formed instruction is minus this, whatever the answer (the format gate)."""


class Rubric:
    """Pays a right answer 1, silence a little more, and an ill-formed instruction less than a wrong answer."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config

    async def __call__(self, example: Example, instruction: Instruction, completion: Completion) -> Score:
        """Score one answer. `parts["correct"]` is the plain grade that evaluation counts; `value` is what training pays."""
        grade = grade_number(example, completion)
        if grade.value is None:
            return grade
        parts = {"correct": grade.value}
        if not well_formed(instruction):
            # The gate takes back what a right answer would have paid.
            parts["ill_formed"] = -grade.value - self.config.ill_formed_penalty
        elif not instruction.text and grade.value:
            parts["silence"] = self.config.silence_bonus
        return Score(value=sum(parts.values()), parts=parts, extracted=grade.extracted)
