"""The bridge to TRL: values, None for failures, and the end of a run whose student is gone."""

import asyncio
from types import SimpleNamespace

import pytest

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Example
from rewards.rubric import RewardConfig, Rubric
from student_clients.errors import StudentServerError
from student_clients.scripted import ScriptedStudent
from teacher.policy import load_model
from teacher.rewarder import Rewarder

EXAMPLES = [Example(id=str(i), task="gsm8k", split="train", query=f"{i}?", gold=str(i)) for i in range(3)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("lab:arithmetic/teacher")[1]


def score(answer, tokenizer, texts, names):
    recorded, metrics = [], {}
    rewarder = Rewarder(
        EXAMPLES,
        tokenizer,
        frozenset({tokenizer.eos_token_id}),
        student=ScriptedStudent(answer),
        params=SamplingParams(),
        reward=Rubric(RewardConfig()),
        record=lambda step, episodes: recorded.append((step, episodes)),
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
