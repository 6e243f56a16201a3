"""Agreement of final answers, by the task's rules or by a judge, without a gold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from exchange.records import Message, PublicExample
from student_clients import StudentConfig
from student_clients.errors import StudentUnreachable
from student_clients.scripted import ScriptedStudent
from tasks import TASKS, TaskConfig
from weak_to_strong.agreement import JudgeKey, KeyConfig, TaskKey, people


def labels(task: str, query: str, *texts: str | None) -> list[int | None]:
    return asyncio.run(TaskKey().labels(PublicExample(id="q", task=task, split="train", query=query), texts))


def test_numbers_and_expressions_agree_as_the_grader_says() -> None:
    assert labels("gsm8k", "?", "#### 1,000", "it is 1000.0\n#### 1000.0", "#### 12", None, "dunno") == [0, 0, 1, None, None]
    assert labels("math", "?", r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", r"\boxed{2}") == [0, 0, 1]


def test_letters_and_yes_no() -> None:
    query = "Which one?\nA. red\nB. blue"
    assert labels("choice", query, "Answer: A", "The answer is (A).", "Answer: B") == [0, 0, 1]
    assert labels("yes_no", "Is it?", "Answer: yes", "Answer: no", "Answer: Yes.") == [0, 1, 0]


def test_roles_are_read_by_the_names_of_those_who_speak() -> None:
    for example in TASKS["knights_knaves"].load(TaskConfig(name="knights_knaves"), "train", 50):
        assert example.gold is not None
        named = {pair.partition(":")[0] for pair in example.gold.split(", ")}
        assert {pair.partition(":")[0] for pair in people(example.query).split(", ")} == named
        turned = example.gold.replace("knight", "#").replace("knave", "knight").replace("#", "knave")
        found = asyncio.run(TaskKey().labels(example.public(), [f"Answer: {example.gold}", example.gold, f"Answer: {turned}", "No idea."]))
        assert found == [0, 0, 1, None]


QUESTION = PublicExample(id="q", task="hh_rlhf", split="train", query="Name a fruit.")


def judge(messages: Sequence[Message]) -> str:
    """Calls two answers the same where they end in the same word."""
    one, other = (messages[0].content.split(f"[Answer {i}]\n")[1].split("\n")[0] for i in (1, 2))
    return "[[SAME]]" if one.split()[-1] == other.split()[-1] else "[[DIFFERENT]]"


def test_a_judge_groups_answers_that_come_to_the_same() -> None:
    student = ScriptedStudent(judge)
    key = JudgeKey(student, StudentConfig())
    texts = ["An apple", "A pear", "Take an apple", None, "A pear"]
    assert asyncio.run(key.labels(QUESTION, texts)) == [0, 1, 0, None, 1]
    assert key.unclear == 0
    assert student.calls == 4, "equal texts need no judge against themselves"


def test_a_judge_that_says_nothing_or_fails_finds_no_agreement() -> None:
    silent = JudgeKey(ScriptedStudent(lambda _: "hm"), StudentConfig())
    assert asyncio.run(silent.labels(QUESTION, ["a", "b"])) == [0, 1]

    def down(_: Sequence[Message]) -> str:
        raise StudentUnreachable("down")

    failing = JudgeKey(ScriptedStudent(down), StudentConfig())
    assert asyncio.run(failing.labels(QUESTION, ["a", "b"])) == [0, 1]
    assert silent.unclear == failing.unclear == 1


def test_slots_in_an_answer_are_text() -> None:
    seen = []

    def script(messages: Sequence[Message]) -> str:
        seen.append(messages[0].content)
        return "[[SAME]]"

    asyncio.run(JudgeKey(ScriptedStudent(script), StudentConfig()).labels(QUESTION, ["{answer_b}", "b"]))
    assert "[Answer 1]\n{answer_b}\n" in seen[0]


def test_a_judge_and_its_client_belong_together() -> None:
    with pytest.raises(ValueError, match="belong together"):
        KeyConfig(kind="judge")
    with pytest.raises(ValueError, match="belong together"):
        KeyConfig(judge=StudentConfig())
