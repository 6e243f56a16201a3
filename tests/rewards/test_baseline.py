"""Raw outcomes are asked once, and harm is charged where an instruction loses what raw had."""

import asyncio

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Episode, Example, Instruction, Score
from rewards.baseline import RawOutcomes, charge_harm, help_and_harm
from rewards.rubric import RewardConfig, Rubric
from student_clients.errors import StudentServerError
from student_clients.scripted import ScriptedStudent

EXAMPLES = [Example(id=str(i), task="gsm8k", split="train", query=f"{i}?", gold=str(i)) for i in range(3)]


def episode(name: str, value: float | None, **parts: float) -> Episode:
    scores = (Score(value=value, parts=parts),)
    return Episode(example_id=name, arm="train", instruction=Instruction(text="x", source="teacher"), messages=(), scores=scores)


def test_each_question_is_asked_once_and_a_failed_one_again():
    asked: list[str] = []

    def answer(messages):
        asked.append(messages[-1].content)
        if messages[-1].content == "2?" and asked.count("2?") == 1:
            raise StudentServerError("HTTP 500")
        return "#### 0"

    raw = RawOutcomes(student=ScriptedStudent(answer), params=SamplingParams(), reward=Rubric(RewardConfig()))

    async def body():
        first = await raw([EXAMPLES[0], EXAMPLES[2], EXAMPLES[0]])
        second, third = await asyncio.gather(raw(EXAMPLES), raw(EXAMPLES))
        return first, second, third

    first, second, third = asyncio.run(body())
    assert first == {"0": 1.0, "2": None}
    assert second == third == {"0": 1.0, "1": 0.0, "2": 0.0}
    assert sorted(asked) == ["0?", "1?", "2?", "2?"]


def test_questions_of_two_splits_with_one_id_are_two_questions():
    student = ScriptedStudent(lambda messages: "#### 0")
    raw = RawOutcomes(student=student, params=SamplingParams(), reward=Rubric(RewardConfig()))
    other = EXAMPLES[0].model_copy(update={"split": "validation", "gold": "5"})

    async def body():
        return await raw([EXAMPLES[0]]), await raw([other]), await raw([EXAMPLES[0]])

    assert asyncio.run(body()) == ({"0": 1.0}, {"0": 0.0}, {"0": 1.0})


def test_what_a_gate_refused_has_its_price_already():
    refused = episode("a", -0.2, correct=0.0, ill_formed=-0.2)
    assert charge_harm([refused], {"a": 1.0}, 0.5) == [refused]


def test_harm_is_charged_in_proportion_to_what_was_lost():
    episodes = [episode("a", 0.0, correct=0.0), episode("a", 1.0, correct=1.0), episode("b", 0.0, correct=0.0), episode("c", None)]
    charged = charge_harm(episodes, {"a": 1.0, "b": 0.0, "c": 1.0}, 0.5)
    assert [e.scores[0].value for e in charged] == [-0.5, 1.0, 0.0, None]
    assert charged[0].scores[0].parts == {"correct": 0.0, "harm": -0.5}
    assert charge_harm([episode("a", 0.25, correct=0.25)], {"a": 0.75}, 2.0)[0].scores[0].value == pytest.approx(-0.75)
    assert charge_harm(episodes, {}, 0.5) == episodes


def test_help_and_harm_are_joint_shares():
    episodes = [episode("a", 0.0, correct=0.0), episode("b", 1.0, correct=1.0), episode("c", None), episode("d", 1.0, correct=1.0)]
    raw = {"a": 1.0, "b": 0.0, "c": 1.0, "d": None}
    assert help_and_harm(episodes, raw) == {"help_rate": 0.5, "harm_rate": 0.5}
    assert help_and_harm(episodes, {}) == {}
