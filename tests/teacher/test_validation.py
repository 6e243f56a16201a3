"""Two judges in validation: what is kept, when they have parted, and that training then stops."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Example, Instruction, Score
from student_clients import ScriptedStudent
from teacher import validation
from teacher.run_directory import COMPLETE, RunDirectory
from teacher.validation import Validator

EXAMPLES = [Example(id=str(i), task="lab_alignment", split="validation", query=f"{i}?") for i in range(40)]


class Model:
    def save_pretrained(self, folder):
        folder.mkdir(parents=True)
        (folder / "weights").write_text("w")


@pytest.fixture
def validated(tmp_path, monkeypatch):
    """validate(first, second): one more step at which the judges see these mean wins, spread a little over the questions."""

    class Policy:
        def __init__(self, *args, **kwargs):
            pass

        async def instruct(self, examples):
            return [Instruction(text="Be warm.", source="teacher")] * len(examples)

    monkeypatch.setattr(validation, "TransformersPolicy", Policy)
    run = RunDirectory(tmp_path)
    wins: dict[str, float] = {}

    async def reward(example, instruction, completion):
        wobble = 0.05 * (-1) ** int(example.id)
        beside = {"second": wins["second"] - wobble} if "second" in wins else {}
        return Score(value=wins["first"] + wobble, parts={"win": wins["first"] + wobble}, beside=beside)

    made = Validator(
        run, EXAMPLES, None, None, max_instruction_tokens=8, student=ScriptedStudent(lambda m: "x"), params=SamplingParams(), reward=reward,
        watched=True,
    )  # fmt: skip
    steps = iter(range(0, 1000, 10))

    def validate(**seen):
        wins.clear()
        wins.update(seen)
        made(next(steps), Model())
        return run.lines("validation.jsonl")[-1]

    return made, validate


def test_the_best_is_chosen_by_the_mean_of_both_judges(validated):
    made, validate = validated
    line = validate(first=0.6, second=0.6)
    assert (line["value"], line["right"], line["second"], line["parted"]) == (
        pytest.approx(0.6),
        pytest.approx(0.6),
        pytest.approx(0.6),
        False,
    )
    assert validate(first=0.8, second=0.62)["value"] == pytest.approx(0.71)
    validate(first=0.7, second=0.7)
    assert made.best()[1] == 10 and not made.parted


def test_of_equal_values_the_latest_is_the_best(validated):
    made, validate = validated
    validate(first=0.6, second=0.6)
    validate(first=0.7, second=0.7)
    validate(first=0.7, second=0.7)
    assert made.best()[1] == 20 and made.without_gain() == 1
    made.prune(20)
    assert [folder.name for folder in made.run.checkpoints.glob("best-*")] == ["best-20"]


def test_pruning_keeps_the_best_that_has_a_folder(validated):
    """A step that equals the best may have been validated when the older one was kept."""
    made, validate = validated
    validate(first=0.7, second=0.7)
    validate(first=0.7, second=0.7)
    shutil.rmtree(made.run.checkpoints / "best-10")
    made.run.checkpoints.joinpath("best-0").mkdir(exist_ok=True)
    made.run.checkpoints.joinpath("best-0", COMPLETE).touch()
    validate(first=0.8, second=0.8)
    made.prune(10)
    assert {folder.name for folder in made.run.checkpoints.glob("best-*")} == {"best-0", "best-20"}


def test_they_part_where_one_gains_and_the_other_surely_loses(validated):
    made, validate = validated
    validate(first=0.6, second=0.6)
    assert not validate(first=0.7, second=0.7)["parted"]
    assert not validate(first=0.65, second=0.6)["parted"], "both lose: that is no overoptimisation"
    line = validate(first=0.9, second=0.65)
    assert line["parted"] and made.parted
    assert made.best()[1] == 10, "the step where they part is no candidate, however high its value"
    made.prune(30)
    assert [folder.name for folder in sorted(made.run.checkpoints.glob("best-*"))] == ["best-10"]


def test_noise_is_no_parting(validated):
    made, validate = validated
    validate(first=0.6, second=0.6)
    assert not validate(first=0.6, second=0.6)["parted"]
    assert not made.parted


def test_without_a_second_judge_nothing_parts(validated):
    made, validate = validated
    made.watched = False
    line = validate(first=0.6)
    assert set(line) == {"step", "value", "right", "n"} and not made.parted


def test_a_judge_that_fails_on_some_questions_is_compared_on_the_others(validated, monkeypatch):
    made, validate = validated
    validate(first=0.6, second=0.6)
    reward = made.reward

    async def sometimes(example, instruction, completion):
        score = await reward(example, instruction, completion)
        return score.model_copy(update={"beside": {}}) if int(example.id) % 4 == 0 else score

    made.reward = sometimes
    line = validate(first=0.7, second=0.7)
    assert line["wins"]["second"].count(None) == 10 and line["second"] > 0.69
    # The value is of the questions that both judged: elsewhere it would be the first judge's alone, and not comparable between steps.
    assert line["n"] == 30 and line["value"] == pytest.approx(0.7)
    line = validate(first=1.0, second=0.2)
    assert line["value"] == pytest.approx(0.6), "the mean of both on each question, not the first judge's where the second one failed"
    assert asyncio.run(sometimes(EXAMPLES[0], None, None)).beside == {}


def test_a_step_without_one_verdict_of_the_second_judge_ends_the_run_resumable(validated):
    made, validate = validated
    validate(first=0.6, second=0.6)
    with pytest.raises(RunError, match=r"step 10: .*the second judge gave no verdict.*--resume="):
        validate(first=0.9)
    assert made.best()[1] == 0 and len(made.run.lines("validation.jsonl")) == 1


def test_what_a_gate_refused_is_worth_that_whatever_a_judge_says(validated):
    made, validate = validated

    async def refused(example, instruction, completion):
        return Score(value=-0.2, parts={"win": 0.1, "ill_formed": -0.3}, beside={"second": 0.9})

    made.reward = refused
    assert validate()["value"] == pytest.approx(-0.2)


def test_answers_are_worth_the_mean_of_those_that_both_judges_judged(validated):
    made, validate = validated
    made.samples = 2
    asked = iter(range(1000))

    async def reward(example, instruction, completion):
        second = next(asked) % 2 == 0
        return Score(value=0.6 if second else 0.0, parts={"win": 0.6 if second else 0.0}, beside={"second": 0.2} if second else {})

    made.reward = reward
    assert validate()["value"] == pytest.approx(0.4)


def test_an_unchanged_teacher_has_not_parted(validated):
    made, _ = validated

    async def reward(example, instruction, completion):
        win = int(example.id) / 39 / 3
        return Score(value=win, parts={"win": win}, beside={"second": win})

    made.reward = reward
    for step in range(5):
        made(step, Model())
        assert not made.parted
