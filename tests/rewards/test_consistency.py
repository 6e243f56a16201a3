"""Agreement with the student's own samples: votes counted exactly, failures no score."""

from __future__ import annotations

import asyncio
from itertools import cycle

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Completion, Example, Instruction
from rewards.consistency import ConsistencyConfig, Consistent
from rewards.correctness import Grader
from rewards.once import Once
from student_clients import ScriptedStudent
from student_clients.errors import StudentServerError

ADVICE = Instruction(text="Add.", source="static")


def consistent(answers, pool, **settings):
    said = cycle(answers)
    student = ScriptedStudent(lambda messages: next(said))
    return Consistent(ConsistencyConfig(samples=len(answers), **settings), Grader(pool), student, SamplingParams()), student


def ask(reward, text, task="gsm8k", query="2 + 2?"):
    return asyncio.run(reward(Example(id=query, task=task, split="train", query=query), ADVICE, Completion(text=text)))


def test_on_raw_the_majority_pays_and_is_asked_once(pool):
    reward, student = consistent(["#### 4", "It is 4.", "#### 5", "no idea"], pool)
    assert [ask(reward, text).value for text in ("#### 4.0", "#### 5", "hm")] == [1.0, 0.0, 0.0]
    assert student.calls == 1 and ask(reward, "#### 4").parts == {"agreement": 1.0}


def test_on_the_instruction_the_share_that_agrees_pays(pool):
    reward, student = consistent(["#### 4", "#### 4", "#### 4", "#### 7"], pool, on="instruction")
    assert ask(reward, "#### 4").value == 0.75 and ask(reward, "#### 7").value == 0.25 and ask(reward, "#### 1").value == 0.0
    assert student.calls == 3
    assert (ask(reward, "hm").value, ask(reward, "hm").problem) == (0.0, "no_answer")


@pytest.mark.parametrize(
    ("task", "votes", "answer"),
    [
        ("math", [r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", r"\boxed{3}"], r"so $\boxed{1/2}$"),
        ("yes_no", ["Answer: yes", "Yes.", "Answer: no"], "The answer is yes"),
        ("choice", ["Answer: B", "B", "Answer: C"], "Answer: (B)"),
        ("own/text", ["Paris", "paris.", "Rome"], "The answer is Paris"),
    ],
)
def test_answers_of_every_type_are_grouped_by_the_graders_equality(task, votes, answer, pool):
    reward, _ = consistent(votes, pool)
    assert ask(reward, answer, task).value == 1.0


def test_where_no_sample_answers_or_the_student_fails_there_is_no_score(pool):
    reward, _ = consistent(["hm", "hm"], pool)
    assert (ask(reward, "#### 4").value, ask(reward, "#### 4").problem) == (None, "no_answer")

    def fail(messages):
        raise StudentServerError("HTTP 500")

    broken = Consistent(ConsistencyConfig(), Grader(pool), ScriptedStudent(fail), SamplingParams())
    assert (ask(broken, "#### 4").value, ask(broken, "#### 4").problem) == (None, "raw_answer")


def test_once_shares_a_call_forgets_a_failure_and_survives_a_cancelled_asker():
    once: Once[int] = Once()
    made = []

    async def make():
        made.append(1)
        await asyncio.sleep(0)
        if len(made) == 1:
            raise ValueError
        if len(made) == 2:
            await asyncio.Event().wait()  # until it is cancelled
        return len(made)

    async def story():
        first = await asyncio.gather(*(once.get("k", make) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(error, ValueError) for error in first) and len(made) == 1
        asker = asyncio.create_task(once.get("k", make))
        await asyncio.sleep(0)
        waiter = asyncio.create_task(once.get("k", make))
        await asyncio.sleep(0)
        asker.cancel()
        assert await waiter == 3  # it asked for itself
        assert await once.get("k", make) == 3

    asyncio.run(story())
