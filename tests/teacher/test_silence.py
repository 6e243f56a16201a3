"""The bias towards silence: its choice on toys, and through a validator."""

from __future__ import annotations

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Example, Instruction, Score
from student_clients import ScriptedStudent
from student_clients.errors import StudentServerError
from teacher import validation
from teacher.run_directory import RunDirectory
from teacher.silence import MOST, best_bias
from teacher.validation import Validator


@pytest.mark.parametrize(
    ("hesitant", "bias"),
    [
        ([], 0.0),
        ([(2.0, -1.0)], 1.0),  # up to the first loss
        ([(2.0, 1.0)], (2 + MOST) / 2),  # from the last gain on
        ([(1.0, 1.5), (3.0, -1.0)], 2.0),  # between gain and loss
        ([(3.0, -1.0), (1.0, 1.5)], 2.0),  # in any order
        ([(1.0, -1.0), (2.0, 1.5), (4.0, -1.0)], 3.0),  # one loss is worth a larger gain
        ([(1.0, -1.0), (2.0, 0.5), (4.0, -1.0)], 0.5),  # and not a smaller one
        ([(0.5, 0.0), (1.0, 0.0), (3.0, -1.0)], 1.5),  # what makes no difference does not divide
        ([(0.2, 0.1), (0.4, -0.1), (0.6, 0.1), (3.0, -1.0)], 1.8),  # of equal ones the wider
    ],
)
def test_the_bias_is_the_middle_of_where_the_value_is_highest(hesitant: list[tuple[float, float]], bias: float) -> None:
    assert best_bias(hesitant) == bias


def test_a_validator_weighs_only_those_in_doubt(tmp_path, monkeypatch):
    """Of six questions two are silent or sure; of the four in doubt one instruction harms, one helps, one changes nothing and one call
    fails."""
    margins = {"sure": -9.0, "silent": 2.0, "harms": -1.0, "helps": -4.0, "same": -3.0, "fails": -2.0}
    examples = [Example(id=name, task="lab_arithmetic", split="validation", query=name, gold="1") for name in margins]

    class Policy:
        def __init__(self, *args, **kwargs):
            pass

        def silence_margins(self, examples):
            return [margins[example.id] for example in examples]

        async def instruct(self, examples):
            return [Instruction(text="Add.", source="teacher")] * len(examples)

    asked = []

    def answer(messages):
        asked.append(messages[-1].content)
        if "fails" in asked[-1]:
            raise StudentServerError("HTTP 500")
        return "1"

    async def reward(example, instruction, completion):
        right = float({"harms": not instruction.text, "helps": bool(instruction.text)}.get(example.id, True))
        bonus = 0.05 if right and not instruction.text else 0.0
        return Score(value=right + bonus, parts={"correct": right})

    monkeypatch.setattr(validation, "TransformersPolicy", Policy)
    made = Validator(
        RunDirectory(tmp_path), examples, None, None, max_instruction_tokens=8, student=ScriptedStudent(answer), params=SamplingParams(),
        reward=reward,
    )  # fmt: skip
    # Silence gains 1.05 from 1.0 on, 0.05 from 2.0 and from 3.0 on, and loses 1 from 4.0 on.
    assert made.silence_bias(None) == 3.5
    assert len(asked) == 8 and not any("sure" in text or "silent" in text for text in asked)
