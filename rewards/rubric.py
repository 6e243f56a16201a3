"""The rubric: named parts, weighted and added up. One place decides what a teacher is paid for."""

from __future__ import annotations

from pydantic import Field

from exchange.records import Completion, Example, Instruction, Score
from exchange.settings import Settings
from rewards.correctness import Grader, grade_answer
from rewards.format import well_formed
from rewards.shape import leaks, length, repetition
from tasks import answer_type_of


class RewardConfig(Settings):
    """Weights of the parts a teacher is paid for, in units of one right answer."""

    silence_bonus: float = Field(default=0.05, ge=0.0)
    """Added where the teacher kept silent and the answer is right: an instruction that is not needed costs tokens and risk."""
    harm_penalty: float = Field(default=0.5, ge=0.0)
    """Taken off where an instruction turns an answer wrong that is right without one; costs one raw call a question. 0 = not asked."""
    ill_formed_penalty: float = Field(default=0.2, ge=0.0)
    """The value of an ill-formed instruction is minus this, whatever the answer (the format gate)."""
    leakage_penalty: float = Field(default=0.0, ge=0.0)
    """The value of an instruction that hands the answer over is minus this, whatever the answer; 0 = leakage is not looked for. Off by
    default because the lab's figures were measured without it (a lab instruction can name a number by chance); set it, 1 say, for every
    task where the teacher could work out the answer itself."""
    length_penalty: float = Field(default=0.0, ge=0.0)
    """Taken off for every 100 tokens of instruction; 0 = length is free."""
    repetition_penalty: float = Field(default=0.0, ge=0.0)
    """Taken off in proportion to the share of three-word runs that repeat; 0 = not looked at (the format gate refuses whole sentences)."""


class Rubric:
    """Pays a right answer 1, silence a little more, and an ill-formed instruction less than a wrong answer."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self.grader = Grader()
        """Counts what could not be graded or parsed: `rubric.grader.counts`."""

    async def __call__(self, example: Example, instruction: Instruction, completion: Completion) -> Score:
        """Score one answer. `parts["correct"]` is the plain grade that evaluation counts; `value` is what training pays."""
        grade = await grade_answer(self.grader, example, completion)
        if grade.value is None:
            return grade
        parts = {"correct": grade.value}
        if not well_formed(instruction):
            # The gate takes back what a right answer would have paid.
            parts["ill_formed"] = -grade.value - self.config.ill_formed_penalty
        elif self.config.leakage_penalty and leaks(instruction, example, answer_type_of(example.task)):
            parts["leakage"] = -grade.value - self.config.leakage_penalty
        elif not instruction.text and grade.value:
            parts["silence"] = self.config.silence_bonus
        if self.config.length_penalty and instruction.text:
            parts["length"] = -self.config.length_penalty * length(instruction) / 100
        if self.config.repetition_penalty and instruction.text:
            parts["repetition"] = -self.config.repetition_penalty * repetition(instruction)
        return Score(value=sum(parts.values()), parts=parts, extracted=grade.extracted)
