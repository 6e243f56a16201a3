"""Arms on scripted students: same questions, paired, failures counted."""

import asyncio

import pytest

from evaluation.arms import FixedPolicy, OraclePolicy, run_arm
from evaluation.table import print_table, summarise
from exchange.protocols import SamplingParams
from exchange.records import Example
from rewards.rubric import RewardConfig, Rubric
from student_clients.errors import StudentServerError
from student_clients.scripted import ScriptedStudent

EXAMPLES = [
    Example(id=str(i), task="gsm8k", split="test", query=f"{i} + 1?", gold=str(i + 1), oracle=f"Add one to {i}.") for i in range(60)
]


def answer(messages):
    """Right under any advice; raw only for the first five questions; the last question always fails."""
    text = messages[-1].content
    number = int(text.splitlines()[-1].split()[0])
    if number == 19:
        raise StudentServerError("HTTP 500")
    return f"#### {number + 1}" if "<advice>" in text or number < 5 else "#### 0"


def run(**policies):
    async def arms():
        return {
            name: await run_arm(
                name,
                policy,
                EXAMPLES,
                student=ScriptedStudent(answer),
                params=SamplingParams(),
                reward=Rubric(RewardConfig()),
            )
            for name, policy in policies.items()
        }

    return summarise(asyncio.run(arms()), EXAMPLES)


def test_every_arm_is_paired_with_raw_and_a_failure_is_no_zero(capsys):
    summary = run(raw=FixedPolicy(""), trained=OraclePolicy(EXAMPLES), oracle=OraclePolicy(EXAMPLES))
    assert (summary.n, summary.split, summary.verdict) == (60, "test", "gain")
    raw, trained = summary.arms["raw"], summary.arms["trained"]
    assert (raw.mean, raw.n, raw.failed, raw.silence_rate) == (pytest.approx(5 / 59), 59, 1, 1.0)
    assert (trained.mean, trained.failed, trained.silence_rate) == (1.0, 1, 0.0)
    assert summary.vs_raw["trained"].difference == pytest.approx(54 / 59)
    assert (summary.vs_raw["trained"].help_rate, summary.vs_raw["trained"].harm_rate) == (pytest.approx(54 / 59), 0.0)
    assert "raw" not in summary.vs_raw
    print_table(summary, title="toy")
    printed = capsys.readouterr().out
    assert "verdict: gain" in printed and "8.5%" in printed


def test_a_silent_teacher_changes_nothing():
    summary = run(raw=FixedPolicy(""), trained=FixedPolicy(""))
    assert summary.verdict == "no gain"
    assert (summary.vs_raw["trained"].low, summary.vs_raw["trained"].high) == (0.0, 0.0)


def test_a_table_without_a_trained_arm_has_no_verdict():
    assert run(raw=FixedPolicy(""), static=FixedPolicy("Add one.")).verdict is None
