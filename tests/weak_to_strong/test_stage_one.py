"""Stage I: what is kept, how pure it is, and that a systematic weak error is not repaired by keeping what agrees."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Example, PublicExample
from student_clients.errors import StudentUnreachable
from student_clients.scripted import ScriptedStudent
from weak_to_strong.agreement import Answer, Pool, TaskKey
from weak_to_strong.stage_one import StageOneConfig, ask, demonstrated, goes_on, select_consistent, training_rows


def question(number: int) -> PublicExample:
    return PublicExample(id=f"q{number}", task="gsm8k", split="train", query=f"What is {number} + 1?")


def pool(**texts: str | None) -> Pool:
    return Pool.of([Answer(example_id=name, text=text, finish_reason="stop") for name, text in texts.items()])


def test_a_question_is_kept_where_both_final_answers_agree() -> None:
    questions = [question(i) for i in range(6)]
    weak = pool(q0="#### 18", q1="#### 18", q2="I cannot say.", q3="#### 1,000", q4=None, q5="#### 3")
    icl = pool(q0="9 + 9 = 18\n#### 18", q1="#### 19", q2="#### 2", q3="It is 1000.0\n#### 1000.0", q4="#### 1", q5="no idea")
    found = asyncio.run(select_consistent(questions, weak, icl, TaskKey()))
    assert found.kept == ("q0", "q3")
    assert found.counts == {"agree": 2, "differ": 1, "weak_silent": 2, "icl_silent": 1}
    assert found.rows["weak"] == [("q0", "#### 18"), ("q3", "#### 1,000")]
    assert found.rows["hybrid"][:2] == [("q0", "#### 18"), ("q0", "9 + 9 = 18\n#### 18")]
    assert len(found.rows["hybrid"]) == 2 * len(found.kept), "exactly twice the questions, the weak row first"


def test_an_answer_that_was_cut_is_no_answer() -> None:
    cut = Pool.of([Answer(example_id="q0", text="#### 18", finish_reason="length")])
    found = asyncio.run(select_consistent([question(0)], cut, pool(q0="#### 18"), TaskKey()))
    assert found.kept == () and found.counts["weak_silent"] == 1


@pytest.mark.parametrize(
    ("p", "q", "wrong", "agree", "precision"),
    [(0.33, 0.57, 20, 0.2025, 0.9289), (0.33, 0.57, 5, 0.2457, 0.7655), (0.66, 0.6, 20, 0.4028, 0.9831)],
)
def test_precision_of_agreement_with_independent_errors(p: float, q: float, wrong: int, agree: float, precision: float) -> None:
    """P(agree) = pq + (1-p)(1-q)/K; the share right of what agrees is pq / P(agree). Checked on the same rule by simulation."""
    assert p * q + (1 - p) * (1 - q) / wrong == pytest.approx(agree, abs=5e-5)
    rng = np.random.default_rng(0)
    n = 200_000
    first, second = (np.where(rng.random(n) < share, 0, rng.integers(1, wrong + 1, n)) for share in (p, q))
    same = first == second
    assert same.mean() == pytest.approx(agree, abs=0.005)
    assert (first[same] == 0).mean() == pytest.approx(precision, abs=0.005)
    copied = np.where(rng.random(n) < 0.3, first, second)
    assert (first[first == copied] == 0).mean() < precision - 0.02, "correlated errors are less precise"


K, LENGTH, SYSTEMATIC = 10, 4, 7


def chains(
    rng: np.random.Generator, starts: NDArray[np.int_], ops: NDArray[np.int_], error: float, *, systematic: bool
) -> NDArray[np.int_]:
    """(N, LENGTH + 1) states written by a source that errs at random with probability `error`, and always on op 7 where systematic."""
    states = [starts]
    for step in range(LENGTH):
        meant = (states[-1] + ops[:, step] + ((ops[:, step] == SYSTEMATIC) & systematic)) % K
        slip = (meant + rng.integers(1, K, len(starts))) % K
        states.append(np.where(rng.random(len(starts)) < error, slip, meant))
    return np.stack(states, axis=1)


def greedy(rows: Sequence[tuple[NDArray[np.int_], NDArray[np.int_]]]) -> NDArray[np.int_]:
    """(K, K) the most frequent next state by (state, op): what fine-tuning on these chains converges to."""
    counts = np.zeros((K, K, K))
    for states, ops in rows:
        for step in range(LENGTH):
            np.add.at(counts, (states[:, step], ops[:, step], states[:, step + 1]), 1)
    return counts.argmax(axis=2)


def accuracy(table: NDArray[np.int_], starts: NDArray[np.int_], ops: NDArray[np.int_]) -> tuple[float, float]:
    """(share right of all chains, of those that hold op 7)."""
    state = starts
    for step in range(LENGTH):
        state = table[state, ops[:, step]]
    right = state == (starts + ops.sum(axis=1)) % K
    return float(right.mean()), float(right[(ops == SYSTEMATIC).any(axis=1)].mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_systematic_weak_error_survives_selection_and_only_the_second_source_repairs_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts, ops = rng.integers(K, size=40_000), rng.integers(K, size=(40_000, LENGTH))
    gold = (starts + ops.sum(axis=1)) % K
    weak = chains(rng, starts, ops, 0.2, systematic=True)
    icl = chains(rng, starts, ops, 0.25, systematic=False)
    assert (weak[:, -1] == gold).mean() == pytest.approx(0.3035, abs=0.01)
    assert (icl[:, -1] == gold).mean() == pytest.approx(0.3465, abs=0.01)
    kept = weak[:, -1] == icl[:, -1]
    assert kept.mean() == pytest.approx(0.157, abs=0.006)
    assert (weak[kept, -1] == gold[kept]).mean() == pytest.approx(0.67, abs=0.02)
    held = (ops == SYSTEMATIC).any(axis=1)
    # 0.207 is one simulation too: three standard errors of the difference of two.
    assert held.mean() == pytest.approx(0.346, abs=0.01) and held[kept].mean() == pytest.approx(0.207, abs=0.0216), "reduced, not removed"

    students = {
        "full_weak": greedy([(weak, ops)]),
        "weak": greedy([(weak[kept], ops[kept])]),
        "icl": greedy([(icl[kept], ops[kept])]),
        "hybrid": greedy([(weak[kept], ops[kept]), (icl[kept], ops[kept])]),
    }
    fresh, tests = rng.integers(K, size=20_000), rng.integers(K, size=(20_000, LENGTH))
    right = {name: accuracy(table, fresh, tests) for name, table in students.items()}
    assert right["full_weak"][0] == pytest.approx(0.6575, abs=0.0142)
    assert right["weak"][0] == pytest.approx(right["full_weak"][0], abs=0.005)
    # Chains with op 7 come out right only by two errors that cancel.
    assert right["weak"][1] == right["full_weak"][1] < 0.02
    assert right["full_weak"][0] + 0.02 < right["hybrid"][0] < right["icl"][0] == 1.0


def test_demonstrations_are_the_weak_models_own_and_never_of_the_question_itself() -> None:
    questions = [question(i) for i in range(8)]
    weak = Pool.of([Answer(example_id=f"q{i}", text=f"wrong {i}\n#### {i}") for i in range(8) if i != 3])
    shown = demonstrated(questions, questions, weak, count=4, seed=0)
    for asked, given in zip(questions, shown, strict=True):
        assert [turn.role for turn in given.history] == ["user", "assistant"] * 4
        assert given.query == asked.query
        assert asked.query not in [turn.content for turn in given.history]
        assert all(turn.content.startswith("wrong") for turn in given.history[1::2])
    assert shown == demonstrated(questions, questions, weak, count=4, seed=0)
    assert len({given.history for given in shown}) > 1
    with pytest.raises(RunError, match="3 of 8 weak answers are whole"):
        demonstrated(questions, questions, pool(q0="a", q1="b", q2="c"), count=4, seed=0)


def test_answers_come_in_order_and_a_failed_call_is_one_without_text() -> None:
    def script(messages: Sequence[object]) -> str:
        text = str(messages[-1])
        if "What is 1 " in text:
            raise StudentUnreachable("down")
        return "#### 5"

    questions = [question(i) for i in range(3)]
    found = asyncio.run(ask(questions, client=ScriptedStudent(script), params=SamplingParams(), samples=2))
    assert [(answer.example_id, answer.sample_index, answer.text) for answer in found] == [
        ("q0", 0, "#### 5"), ("q0", 1, "#### 5"), ("q1", 0, None), ("q1", 1, None), ("q2", 0, "#### 5"), ("q2", 1, "#### 5"),
    ]  # fmt: skip


def test_no_function_of_the_stage_takes_a_question_with_a_gold() -> None:
    told = Example(id="q0", task="gsm8k", split="train", query="What is 1 + 1?", gold="2")
    weak = pool(q0="#### 2")
    with pytest.raises(TypeError, match="may hold a gold"):
        asyncio.run(ask([told], client=ScriptedStudent(lambda _: ""), params=SamplingParams()))
    with pytest.raises(TypeError, match="may hold a gold"):
        asyncio.run(select_consistent([told], weak, weak, TaskKey()))
    with pytest.raises(TypeError, match="may hold a gold"):
        demonstrated([told], [told], weak, count=1, seed=0)
    with pytest.raises(TypeError, match="may hold a gold"):
        training_rows([told], [("q0", "#### 2")])


def test_rounds_end_at_the_last_or_where_nothing_is_gained() -> None:
    config = StageOneConfig(rounds=3, least_growth=0.01)
    assert goes_on([0.3], config) is None
    assert goes_on([0.3, 0.5], config) is None
    assert "less than stage_one.least_growth" in (goes_on([0.3, 0.305], config) or "")
    assert goes_on([0.3, 0.5, 0.7], config) == "round 3 of 3 is the last"
    assert goes_on([0.3], StageOneConfig()) == "round 1 of 1 is the last"
