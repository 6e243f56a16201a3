"""The bridge to TRL: values, None for failures, and the end of a run whose student is gone."""

import asyncio
from types import SimpleNamespace

import pytest

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Example
from rewards.baseline import RawOutcomes
from rewards.rubric import RewardConfig, Rubric
from student_clients.errors import StudentServerError
from student_clients.scripted import ScriptedStudent
from teacher.policy import load_model
from teacher.rewarder import Rewarder

EXAMPLES = [Example(id=str(i), task="gsm8k", split="train", query=f"{i}?", gold=str(i)) for i in range(3)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("lab:arithmetic/teacher")[1]


def score(answer, tokenizer, texts, names, **more):
    recorded, metrics = [], {}
    rewarder = Rewarder(
        EXAMPLES,
        tokenizer,
        frozenset({tokenizer.eos_token_id}),
        student=ScriptedStudent(answer),
        params=SamplingParams(),
        reward=Rubric(RewardConfig()),
        record=lambda step, episodes: recorded.append((step, episodes)),
        **more,
    )
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    values = asyncio.run(
        rewarder.score(completion_ids=ids, example_id=names, trainer_state=SimpleNamespace(global_step=4), log_metric=metrics.__setitem__)
    )
    return values, recorded, metrics


def test_values_records_and_rates(tokenizer):
    def answer(messages):
        query = messages[-1].content.splitlines()[-1]
        if query == "2?":
            raise StudentServerError("HTTP 500")
        return "#### 0"

    texts = ["Add the numbers.", "", "Add the numbers.", "loose"]
    values, recorded, metrics = score(answer, tokenizer, texts, ["0", "0", "2", "1"])
    assert values == [1.0, 1.05, None, -0.2]
    assert recorded[0][0] == 5 and [e.instruction.text for e in recorded[0][1]] == texts
    assert metrics == {
        "right_rate": pytest.approx(2 / 3),
        "silence_rate": 0.25,
        "ill_formed_rate": 0.25,
        "repetition_rate": 0.0,
        "distinct_rate": 0.75,
        "failed_rate": 0.25,
        "no_answer_rate": 0.0,
        "unparsed_rate": 0.0,
        "undecided_rate": 0.0,
    }


def test_a_step_without_a_single_answer_ends_the_run(tokenizer):
    def answer(messages):
        raise StudentServerError("HTTP 500")

    with pytest.raises(RunError, match=r"every student call of step 5 failed \(StudentServerError: HTTP 500\); go on with --resume"):
        score(answer, tokenizer, ["Add the numbers.", ""], ["0", "1"])


def test_harm_is_charged_against_the_raw_answer(tokenizer):
    """Question 0 is right raw, and an instruction that makes it wrong pays for it; a step's raw answers are asked once."""
    asked = []

    def answer(messages):
        asked.append(messages[-1].content)
        return "#### 0" if messages[-1].content == "0?" else "#### 9"

    student, params, reward = ScriptedStudent(answer), SamplingParams(), Rubric(RewardConfig())
    metrics = {}
    rewarder = Rewarder(
        EXAMPLES, tokenizer, frozenset({tokenizer.eos_token_id}), student=student, params=params, reward=reward,
        raw=RawOutcomes(student=student, params=params, reward=reward), harm_penalty=0.5, record=lambda *_: None,
    )  # fmt: skip
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in ["Add the numbers.", "", "Add the numbers."]]
    values = asyncio.run(
        rewarder.score(
            completion_ids=ids, example_id=["0", "0", "1"], trainer_state=SimpleNamespace(global_step=0), log_metric=metrics.__setitem__
        )
    )
    assert values == [-0.5, 1.05, 0.0]
    assert metrics["harm_rate"] == pytest.approx(1 / 3) and metrics["help_rate"] == 0.0
    assert asked.count("0?") == 2 and asked.count("1?") == 1  # silence itself asks question 0 raw once more


def taking_turns(*texts):
    """A student that gives these answers one after another."""
    left = iter(texts)
    return lambda messages: next(left)


def test_several_answers_pay_their_mean(tokenizer):
    """Four answers, three of them right; of a silence two right, each with its bonus; what cannot be judged is left out of the mean."""
    student = taking_turns("#### 0", "#### 0", "#### 9", "#### 0", "#### 0", "#### 9", "#### 9", "#### 0")
    values, recorded, metrics = score(student, tokenizer, ["Add the numbers.", ""], ["0", "0"], samples=4)
    assert values == [0.75, pytest.approx(1.05 / 2)]
    assert [len(episode.scores) for episode in recorded[0][1]] == [4, 4]
    assert metrics["right_rate"] == pytest.approx(0.625) and metrics["ill_formed_rate"] == 0.0


def test_harm_is_a_difference_of_means(tokenizer):
    """Raw is right twice in four, the instruction twice in four: that harms nothing, though single answers differ. Once in four costs."""
    for answers, expected in [
        (("#### 0", "#### 9", "#### 9", "#### 0"), 0.5),
        (("#### 0", "#### 9", "#### 9", "#### 9"), 0.25 - 0.5 * 0.25),
    ]:
        raw_student, params, reward = (
            ScriptedStudent(taking_turns("#### 9", "#### 0", "#### 0", "#### 9")),
            SamplingParams(),
            Rubric(RewardConfig()),
        )
        raw = RawOutcomes(student=raw_student, params=params, reward=reward, samples=4)
        values, _, _ = score(taking_turns(*answers), tokenizer, ["Add the numbers."], ["0"], samples=4, raw=raw, harm_penalty=0.5)
        assert values == [pytest.approx(expected)]
