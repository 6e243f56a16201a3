"""Best-of-N: where the calls go, and what is kept."""

import asyncio
import random
import re

import pytest

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Episode, Example, Instruction, Score
from exchange.settings import SettingError
from rewards.rubric import RewardConfig, Rubric
from student_clients.errors import StudentBadRequest, StudentServerError
from student_clients.scripted import ScriptedStudent
from teacher import warm_start
from teacher.prompt import TeacherPrompt
from teacher.warm_start import KEPT, WAVE, best_of_n, keep_best, logged_rows


def example(name, gold):
    return Example(id=name, task="gsm8k", split="train", query=f"Question {name}?", gold=gold)


class Writer:
    """Writes numbered instructions."""

    def __init__(self):
        self.written = 0

    async def instruct(self, examples):
        first = self.written
        self.written += len(examples)
        return [Instruction(text=f"Try number {first + i}.", source="teacher") for i in range(len(examples))]


def run(student, examples, samples, **named):
    policy, recorded = Writer(), []
    reward = Rubric(RewardConfig())
    episodes = asyncio.run(
        best_of_n(policy, examples, samples, student=student, params=SamplingParams(), reward=reward, record=recorded.extend, **named)
    )
    assert recorded == episodes
    return episodes, policy.written


def test_a_question_that_is_right_raw_costs_one_call_and_keeps_silence():
    episodes, written = run(ScriptedStudent(lambda messages: "#### 5"), [example("a", "5")], 12)
    assert (len(episodes), written) == (1, 0)
    assert keep_best(episodes, random.Random(0)) == [("a", "")]


def test_a_hopeless_question_stops_at_n_and_a_solved_one_after_its_wave():
    def answer(messages):
        text = messages[-1].content
        return "#### 5" if "Question b" in text and "number 2." in text else "#### 0"

    episodes, _ = run(ScriptedStudent(answer), [example("b", "5"), example("c", "7")], 10)
    asked = {name: sum(e.example_id == name and bool(e.instruction.text) for e in episodes) for name in "bc"}
    assert asked == {"b": WAVE, "c": 10}
    assert keep_best(episodes, random.Random(0)) == [("b", "Try number 2.")]


def test_from_the_second_wave_on_what_worked_comes_first_and_the_limit_stays():
    def answer(messages):
        text = messages[-1].content
        if "Question d" in text and "number 1." in text:
            raise StudentBadRequest("too long")
        return "#### 5" if "number 1." in text and "Question c" not in text else "#### 0"

    episodes, _ = run(ScriptedStudent(answer), [example(name, "5") for name in "abcd"], 10, borrowed=0.5)
    texts = {name: [e.instruction.text for e in episodes if e.example_id == name and e.instruction.text] for name in "abcd"}
    first = {name: [f"Try number {WAVE * i + j}." for j in range(WAVE)] for i, name in enumerate("abcd")}
    assert texts["a"] == first["a"], "new ones, of which one worked"
    assert texts["b"] == [*first["b"], "Try number 1."], "which is borrowed next, and is enough"
    assert texts["c"][:5] == [*first["c"], "Try number 1."] and len(texts["c"]) == 10 == len(set(texts["c"]))
    assert texts["d"].count("Try number 1.") == 1 and len(texts["d"]) == 10, "also where the call failed"
    alone, _ = run(ScriptedStudent(answer), [example(name, "5") for name in "abcd"], 10)
    assert sum(e.instruction.text == "Try number 1." for e in alone) == 1, "without borrowing none is asked again"


@pytest.mark.parametrize(
    ("change", "lent"),
    [
        ({}, True),
        ({"draft": "5 or so"}, False),  # advice on one draft reads another one wrong
        ({"task": "choice"}, False),  # a guess
        ({"query": "Question a?"}, False),  # asked again of a student that samples its answer would be one from the cache
    ],
)
def test_what_is_lent_to_whom(change, lent):
    asked = [example("a", "5"), example("b", "5").model_copy(update=change)]
    if "draft" in change:
        asked[0] = asked[0].model_copy(update={"draft": "4"})
    episodes, _ = run(
        ScriptedStudent(lambda messages: "#### 5" if "number 1." in messages[-1].content else "#### 0"), asked, 8, borrowed=0.5
    )
    assert any(e.example_id == "b" and e.instruction.text == "Try number 1." for e in episodes) == lent


def test_a_text_that_states_an_answer_is_not_lent():
    class Guessing(Writer):
        async def instruct(self, examples):
            return [one.model_copy(update={"text": f"The answer is {one.text[11:-1]}."}) for one in await super().instruct(examples)]

    policy = Guessing()
    episodes = asyncio.run(
        best_of_n(
            policy, [example("a", "1"), example("b", "1")], 8, borrowed=1.0, params=SamplingParams(), reward=Rubric(RewardConfig()),
            student=ScriptedStudent(lambda messages: "#### 1" if "is 1." in messages[-1].content else "#### 0"), record=lambda _: None,
        )
    )  # fmt: skip
    assert policy.written == 12 and not any(e.instruction.text == "The answer is 1." for e in episodes if e.example_id == "b")


def test_a_student_that_is_gone_ends_the_warm_start():
    def answer(messages):
        raise StudentServerError("HTTP 500")

    with pytest.raises(RunError, match="every student call of a wave failed"):
        run(ScriptedStudent(answer), [example("a", "5")], 4)

    def then_gone(messages):
        if "Try" in messages[-1].content:
            raise StudentServerError("HTTP 500")
        return "#### 0"

    with pytest.raises(RunError, match="every student call of a wave failed"):
        run(ScriptedStudent(then_gone), [example("a", "5")], 4)


def test_a_question_that_the_student_never_answers_is_no_student_that_is_gone():
    def answer(messages):
        if "Question b" in messages[-1].content:
            raise StudentBadRequest("content filter")
        return "#### 5"

    episodes, _ = run(ScriptedStudent(answer), [example("a", "5"), example("b", "5")], 8)
    assert [e.example_id for e in episodes if not e.error] == ["a"] and len(episodes) == 2 + 8


def test_a_wave_is_asked_in_parts_in_their_order_and_one_bad_question_in_the_last_part_ends_nothing(monkeypatch):
    monkeypatch.setattr(warm_start, "AT_ONCE", 4)

    def answer(messages):
        text = messages[-1].content
        if "Question c" in text:
            raise StudentBadRequest("too long")
        return "#### 5" if "Question b" in text and "number 5." in text else "#### 0"

    episodes, written = run(ScriptedStudent(answer), [example("a", "5"), example("b", "5"), example("c", "5")], WAVE)
    taught = [(episode.example_id, episode.instruction.text) for episode in episodes[3:]]
    assert taught == [(name, f"Try number {4 * i + j}.") for i, name in enumerate("abc") for j in range(WAVE)]
    assert written == 3 * WAVE and keep_best(episodes, random.Random(0)) == [("b", "Try number 5.")]


def test_a_teacher_that_fails_beside_answers_lets_them_be_paid_for_and_kept(monkeypatch):
    monkeypatch.setattr(warm_start, "AT_ONCE", 2)
    recorded = []

    class Failing(Writer):
        async def instruct(self, examples):
            if self.written:
                raise RuntimeError("out of memory")
            return await super().instruct(examples)

    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(
            best_of_n(
                Failing(), [example("a", "5")], WAVE, student=ScriptedStudent(lambda messages: "#### 0"), params=SamplingParams(),
                reward=Rubric(RewardConfig()), record=recorded.extend,
            )
        )  # fmt: skip
    assert [episode.instruction.text for episode in recorded] == ["", "Try number 0.", "Try number 1."]


def episode(text, value, correct=1.0, **parts):
    score = Score(value=value, parts={"correct": correct, **parts})
    return Episode(example_id="a", arm="x", instruction=Instruction(text=text, source="teacher"), messages=(), scores=(score,))


def test_only_right_well_formed_distinct_instructions_of_the_highest_value_are_kept():
    episodes = [
        episode("Good one.", 1.0),
        episode("Good one.", 1.0),
        episode("Good two.", 1.0),
        episode("Good three.", 1.0),
        episode("bad form", -0.2, ill_formed=-1.2),
        episode("Wrong one.", 0.0, correct=0.0),
    ]
    kept = keep_best(episodes, random.Random(0))
    assert len(kept) == KEPT and len(set(kept)) == KEPT
    assert {text for _, text in kept} <= {"Good one.", "Good two.", "Good three."}
    assert keep_best([*episodes, episode("", 1.05)], random.Random(0)) == [("a", "")]
    assert keep_best([episode("Wrong one.", 0.0, correct=0.0)], random.Random(0)) == []


PROMPT = TeacherPrompt.named("lab")


def test_lines_of_a_file_are_queries_and_instructions(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "1 + 1?", "instruction": "Add."}\n\n{"query": "2?", "instruction": "", "value": 1}\n')
    rows = logged_rows(str(path), PROMPT)
    assert [(row["prompt"][-1]["content"], row["completion"][0]["content"]) for row in rows] == [("1 + 1?", "Add."), ("2?", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", ":1"),
        ('{"query": "a", "instruction": "b"}\n{"query": "a"}', ":2: field 'instruction' is missing or not text"),
        ('{"query": " ", "instruction": "b"}', ":1"),
        ('{"instruction": "b"}', ":1"),
        ("[1]", ":1"),
    ],
)
def test_bad_pairs_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(SettingError, match=re.escape(message)):
        logged_rows(str(path), PROMPT)
    with pytest.raises(SettingError, match="nowhere"):
        logged_rows(str(tmp_path / "nowhere"), PROMPT)


def test_of_several_answers_three_of_four_count_as_right():
    right, wrong = (Score(value=grade, parts={"correct": grade}) for grade in (1.0, 0.0))
    mostly = episode("Good one.", 1.0).model_copy(update={"scores": (right, right, wrong, right)})
    half = episode("Worse one.", 1.0).model_copy(update={"scores": (right, wrong, wrong, right)})
    assert keep_best([mostly, half], random.Random(0)) == [("a", "Good one.")]
    always = episode("Best one.", 1.0).model_copy(update={"scores": (right,) * 4})
    assert keep_best([mostly, half, always], random.Random(0)) == [("a", "Best one.")]
