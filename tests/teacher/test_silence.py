"""The bias towards silence: its choice on toys, and through a validator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Completion, Example, Instruction, Message, Score
from student_clients import ScriptedStudent
from student_clients.errors import StudentServerError
from teacher import validation
from teacher.run_directory import RunDirectory
from teacher.silence import MOST, most_silent
from teacher.validation import Validator


@pytest.mark.parametrize(
    ("hesitant", "questions", "bias"),
    [
        ([], 300, MOST),
        ([(1.05, 0.0)], 300, MOST),
        ([(1.05, -1.0)], 300, MOST),  # one loss is within its standard error
        ([(1.05, -1.0), (1.75, -1.0)], 300, 1.7),  # two are not within theirs, 1.41
        ([(1.75, -1.0), (1.05, -1.0)], 300, 1.7),  # in any order
        ([(1.05, -1.0)], 99, 1.0),  # but one is more than a hundredth of 99 questions
        ([(1.05, 1.5), (1.55, -1.0), (1.75, -1.0)], 300, 1.7),  # counted from the best, 1.1
        ([(0.55, -1.0), (1.05, 1.5), (1.55, -1.0), (1.75, -1.0)], 300, 1.7),  # which may lie behind a loss
        ([(0.55, -1.0), (1.05, -1.0), (1.55, 0.5), (1.75, 0.5)], 300, 1.0),  # and where that is not made up for, it is 0.5
        ([(1.0, -1.0), (1.0, -1.0)], 300, 0.9),  # silent from there on
    ],
)
def test_the_most_silent_that_cannot_be_told_from_the_best(hesitant: list[tuple[float, float]], questions: int, bias: float) -> None:
    assert most_silent(hesitant, questions) == bias


MARGINS = {"sure": -9.0, "silent": 2.0, "harms": -0.5, "same": -1.0, "fails": -1.3, "helps": -1.5}


class Model:
    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True)


class Toy:
    """A validator of a teacher with MARGINS, whose instruction helps on `sure` and `helps`, harms on `harms`, and changes nothing on `same`
    and `fails`, whose raw answer never comes."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.margins, self.cut, self.down, self.asked = dict(MARGINS), False, False, 0
        examples = [Example(id=name, task="lab_arithmetic", split="validation", query=name, gold="1") for name in MARGINS]
        toy = self

        class Policy:
            def __init__(self, *_: Any, silence_bias: float, **__: Any) -> None:
                self.bias = silence_bias

            def silence_margins(self, examples: Sequence[Example]) -> list[float]:
                return [toy.margins[example.id] for example in examples]

            async def instruct(self, examples: Sequence[Example]) -> list[Instruction]:
                spoken = "Ad" if toy.cut and self.bias else "Add."
                texts = ["" if toy.margins[example.id] + self.bias >= 0 else spoken for example in examples]
                return [Instruction(text=text, source="teacher" if text else "silence") for text in texts]

        monkeypatch.setattr(validation, "TransformersPolicy", Policy)
        (path / "checkpoints").mkdir()
        self.of = Validator(
            RunDirectory(path), examples, None, None, max_instruction_tokens=8, student=ScriptedStudent(self.answer),
            params=SamplingParams(), reward=self.reward,
        )  # fmt: skip

    def answer(self, messages: Sequence[Message]) -> str:
        self.asked += 1
        if self.down or messages[-1].content == "fails":
            raise StudentServerError("HTTP 500")
        return "1"

    async def reward(self, example: Example, instruction: Instruction, completion: Completion) -> Score:
        told = instruction.text == "Add."
        right = float({"sure": told, "helps": told, "harms": not told}.get(example.id, True))
        bonus = 0.05 if right and not instruction.text else 0.0
        return Score(value=right + bonus, parts={"correct": right})

    def noted(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.of.run.path / "silence.json").read_text())
        return found


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    made = Toy(tmp_path, monkeypatch)
    made.of(0, Model())
    made.asked = 0
    return made


def test_a_validator_weighs_only_those_in_doubt_and_asks_once_more(toy: Toy) -> None:
    # Silence gains 1.05 from 0.5 on and 0.05 from 1.0 on, says nothing of 1.3, and loses 1 from 1.5 on.
    assert toy.of.silence_bias(None) == 1.4
    assert toy.asked == 2 * 4 + 6
    without, under = toy.noted()["value_without"], toy.noted()["value"]
    assert without == pytest.approx((1 + 1.05 + 0 + 1 + 1 + 1) / 6)
    assert under == pytest.approx((1 + 1.05 + 1.05 + 1.05 + 1) / 5)  # `fails` is silent now
    assert (toy.noted()["hesitant"], toy.noted()["judged"]) == (4, 3)
    assert toy.of.silence_bias(None) == 1.4
    assert toy.asked == 14, "a resumed run has it written down"
    toy.of(10, Model())
    toy.margins["harms"] = 0.1
    assert toy.of.silence_bias(None) == 1.4 and toy.noted()["step"] == 10, "of another step it is chosen anew"


def test_a_bias_that_cuts_texts_short_is_not_kept(toy: Toy) -> None:
    toy.cut = True
    assert toy.of.silence_bias(None) == 0.0
    assert (toy.noted()["chosen"], toy.noted()["bias"]) == (1.4, 0.0)


def test_a_teacher_that_never_thinks_of_silence_gets_no_bias(toy: Toy) -> None:
    toy.margins = dict.fromkeys(MARGINS, -9.0)
    assert toy.of.silence_bias(None) == 0.0 and toy.asked == 0


def test_a_student_that_is_gone_is_no_reason_for_a_bias(toy: Toy) -> None:
    toy.down = True
    with pytest.raises(RunError, match=r"no answer could be scored; go on with --resume"):
        toy.of.silence_bias(None)
    assert not (toy.of.run.path / "silence.json").exists()
    toy.down = False
    assert toy.of.silence_bias(None) == 1.4
