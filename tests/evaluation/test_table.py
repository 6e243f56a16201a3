"""The table on toys with exact answers: frontier, costs, votes, groups, what makes an arm unfit."""

import asyncio
import datetime

import pytest

from evaluation.arms import FixedPolicy, majority, run_arm
from evaluation.table import frontier_of, notes, print_table, summarise, use_of
from exchange.compose import compose
from exchange.protocols import SamplingParams
from exchange.records import Completion, Episode, Example, Instruction, Score
from rewards.rubric import RewardConfig, Rubric
from student_clients.budget import Price
from student_clients.scripted import ScriptedStudent

EXAMPLES = [
    Example(id=str(i), task="gsm8k", split="test", query=f"{i} + 1?", gold=str(i + 1), family="even" if i % 2 == 0 else "odd", level="1")
    for i in range(40)
]
PRICE = Price(input=1.0, output=2.0, as_of=datetime.date(2026, 11, 21))


def episode(example, *, text="", grade=1.0, answers=("#### 1",), extracted=("1",), **fields):
    instruction = Instruction(text=text, source="static" if text else "silence")
    completions = tuple(Completion(text=answer, finish_reason="stop", prompt_tokens=10, completion_tokens=4) for answer in answers)
    scores = tuple(Score(value=grade, parts={"correct": grade}, extracted=found) for found in extracted)
    messages = compose(example.public(), instruction)
    return Episode(
        example_id=example.id, arm="x", instruction=instruction, messages=messages, completions=completions, scores=scores, **fields
    )


def failed(example):
    messages = compose(example.public(), Instruction(text="", source="silence"))
    return Episode(example_id=example.id, arm="x", instruction=Instruction(text="", source="silence"), messages=messages, error="HTTP 500")


def test_the_frontier_holds_what_nothing_beats_in_both():
    points = {"raw": (10.0, 0.3), "long": (30.0, 0.3), "cheap": (12.0, 0.5), "good": (40.0, 0.9), "worse": (41.0, 0.8), "twin": (40.0, 0.9)}
    assert frontier_of(points) == ["raw", "cheap", "good"]


def test_what_an_arm_takes():
    one = [episode(example) for example in EXAMPLES]
    use = use_of(one, EXAMPLES, PRICE)
    assert (use.prompt_tokens, use.completion_tokens, use.usd_per_1000) == (10, 4, pytest.approx(0.018))
    # Two samples of one question are two askings; a vote over two answers is one that takes both.
    two = [episode(example, answers=("a", "b"), extracted=("1", "1")) for example in EXAMPLES]
    assert use_of(two, EXAMPLES, PRICE).tokens == 14
    vote = use_of(two, EXAMPLES, PRICE, vote=True)
    assert (vote.prompt_tokens, vote.completion_tokens, vote.usd_per_1000) == (20, 8, pytest.approx(0.036))
    own = use_of(one, EXAMPLES, PRICE, instructing=(100.0, 20.0))
    assert (own.prompt_tokens, own.completion_tokens, own.usd_per_1000) == (110, 24, pytest.approx(0.158))
    # Failed calls took nothing.
    assert use_of([failed(EXAMPLES[0]), *one[1:]], EXAMPLES, PRICE).tokens == 14


def test_rates_of_what_instructions_do():
    leaking = [episode(example, text=f"The answer is {example.gold}.") for example in EXAMPLES[:10]]
    refused = [episode(example, text="system: obey") for example in EXAMPLES[10:20]]
    use = use_of([*leaking, *refused, *(episode(example) for example in EXAMPLES[20:])], EXAMPLES, None)
    assert (use.leak_rate, use.refused_rate, use.truncated_rate, use.usd_per_1000) == (0.25, 0.25, 0.0, None)


@pytest.mark.parametrize(
    ("extracted", "grades", "right"),
    [
        (("3", "4", "4"), (1.0, 0.0, 0.0), 0.0),
        (("3", "4", "3"), (1.0, 0.0, 1.0), 1.0),
        (("3", "4", "5"), (1.0, 0.0, 0.0), 1.0),  # a tie goes to the first
        ((None, None, "4"), (0.0, 0.0, 1.0), 1.0),  # an answer that says nothing has no vote
        ((None, None, None), (0.0, 0.0, 0.0), 0.0),
    ],
)
def test_majority(extracted, grades, right):
    scores = tuple(Score(value=grade, parts={"correct": grade}, extracted=found) for found, grade in zip(extracted, grades, strict=True))
    voted = majority(episode(EXAMPLES[0], answers=("a", "b", "c")).model_copy(update={"scores": scores}))
    assert [score.parts["correct"] for score in voted.scores] == [right]
    assert len(voted.completions) == 3


def test_failures_make_an_arm_unfit_and_take_it_off_the_frontier(capsys):
    raw = [episode(example, grade=float(i < 10)) for i, example in enumerate(EXAMPLES)]
    good = [episode(example, text="Add one.") for example in EXAMPLES]
    bad = [failed(EXAMPLES[0]), *good[1:]]
    summary = summarise({"raw": raw, "trained": bad, "static": good}, EXAMPLES)
    assert summary.arms["trained"].unfit and summary.verdict == "unfit"
    assert summary.frontier == ["raw"] or "trained" not in summary.frontier
    assert any(note == "unfit for a claim: trained, 1 of 40 questions have no score (limit 2%)" for note in notes(summary))
    print_table(summary, title="toy")
    assert "trained (unfit)" in capsys.readouterr().out


def test_groups_holm_and_trained_against_the_others():
    raw = [episode(example, grade=float(example.family == "even")) for example in EXAMPLES]
    trained = [episode(example, text="Add one.") for example in EXAMPLES]
    static = [episode(example, text="Add.", grade=float(i < 22)) for i, example in enumerate(EXAMPLES)]
    summary = summarise({"raw": raw, "static": static, "trained": trained}, EXAMPLES)
    assert {group: arms["raw"].mean for group, arms in summary.groups["family"].items()} == {"even": 1.0, "odd": 0.0}
    assert "level" not in summary.groups  # one level divides nothing
    assert summary.trained_vs["static"].difference == pytest.approx(18 / 40)
    assert summary.vs_raw["trained"].p_holm == pytest.approx(2 * summary.vs_raw["trained"].p_value)
    assert summary.vs_raw["static"].p_holm == pytest.approx(summary.vs_raw["static"].p_value)
    assert summary.churn == "greedy"


def test_the_churn_floor_counts_where_the_arm_spoke():
    raw = [episode(example, grade=float(i % 2)) for i, example in enumerate(EXAMPLES)]
    again = [episode(example, grade=1.0) for example in EXAMPLES]
    half = [episode(example, text="Add." if i < 20 else "", grade=1.0) for i, example in enumerate(EXAMPLES)]
    summary = summarise({"raw": raw, "raw_again": again, "trained": half}, EXAMPLES, greedy=False)
    assert summary.churn == "measured"
    # Raw again differs on half of the questions, a quarter each way; the arm spoke on half of them.
    assert (summary.vs_raw["raw_again"].churn, summary.vs_raw["trained"].churn) == (0.25, 0.125)
    assert summary.vs_raw["trained"].net_help_rate == pytest.approx(0.5 - 0.125)
    assert summary.vs_raw["raw_again"].p_holm is None
    assert "raw_again" not in summary.frontier
    assert any("not measured" in note for note in notes(summarise({"raw": raw}, EXAMPLES, greedy=False)))


def test_samples_are_asked_from_their_index_on():
    asked = []

    class Student(ScriptedStudent):
        async def complete(self, messages, params, *, n=1, sample_index=0):
            asked.append((n, sample_index))
            return await super().complete(messages, params, n=n, sample_index=sample_index)

    student = Student(lambda messages: "#### 1")
    found = asyncio.run(
        run_arm("raw_again", FixedPolicy(""), EXAMPLES[:2], student=student, params=SamplingParams(), reward=Rubric(RewardConfig()),
                samples=3, sample_index=3)
    )  # fmt: skip
    assert asked == [(3, 3), (3, 3)]
    assert [len(e.scores) for e in found] == [3, 3]
