"""The student drafts, the teacher advises on the draft, the student revises: what each of them is shown, and what is asked once."""

import asyncio
import json

import pytest

from exchange.compose import compose, raw_messages
from exchange.protocols import SamplingParams
from exchange.records import Example, Instruction, PublicExample
from exchange.settings import SettingError
from server.teachers import TeacherSource
from server.teachers import load as load_for_server
from student_clients.errors import StudentTimeout
from student_clients.scripted import ScriptedStudent
from teacher import evaluate
from teacher.drafts import drafted, settle
from teacher.locate import find_teacher
from teacher.policy import TransformersPolicy, load_model
from teacher.prompt import HIDDEN, TeacherPrompt
from teacher.run_directory import RunDirectory
from teacher.train import main
from tests.teacher.test_train_lab import TINY

EXAMPLE = PublicExample(id="1", task="gsm8k", split="train", query="2 + {draft}?", system="Be brief.", draft="It is {query}.")


def test_the_student_revises_its_own_draft_and_silence_asks_it_raw():
    messages = compose(EXAMPLE, Instruction(text="Count again.", source="teacher"))
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[:2] == raw_messages(EXAMPLE) and messages[2].content == "It is {query}."
    assert "Count again." in messages[3].content and messages[3].content.endswith("Revise your answer.")
    assert compose(EXAMPLE, Instruction(text="", source="silence")) == raw_messages(EXAMPLE)


def test_the_teacher_sees_query_and_draft_and_neither_is_a_slot(tmp_path):
    prompt = TeacherPrompt("Q: {query}\nD: {draft}\nA:")
    assert [message.content for message in prompt.messages(EXAMPLE)] == ["Q: 2 + {draft}?\nD: It is {query}.\nA:"]
    assert TeacherPrompt("{query}{draft}", blind=True).messages(EXAMPLE)[0].content == HIDDEN * 2
    with pytest.raises(SettingError, match=r"must hold \{draft\} exactly once with variant=three_step"):
        TeacherPrompt.named("lab", drafts=True)
    with pytest.raises(SettingError, match=r"must not hold \{draft\} with variant=two_step"):
        TeacherPrompt.named("lab_three_step")


def test_without_a_draft_such_a_teacher_passes():
    policy = TransformersPolicy(
        *load_model("lab:arithmetic/teacher"), TeacherPrompt.named("lab_three_step", drafts=True), max_instruction_tokens=8
    )
    without, with_draft = asyncio.run(policy.instruct([EXAMPLE.model_copy(update={"draft": None}), EXAMPLE]))
    assert (without.text, without.source) == ("", "passthrough") and with_draft.source in ("teacher", "silence")


def test_drafts_are_kept_by_student_and_those_that_fail_are_asked_again_until_learning_begins(tmp_path):
    run = RunDirectory(tmp_path)
    examples = [Example(id=str(i), task="gsm8k", split="train", query=f"{i}?", gold="0") for i in range(3)]
    asked = []

    def answer(messages):
        asked.append(messages[-1].content)
        if messages[-1].content == "1?" or (messages[-1].content == "2?" and asked.count("2?") == 1):
            raise StudentTimeout("late")
        return f"draft {len(asked)}"

    student = ScriptedStudent(answer)
    first = asyncio.run(drafted(examples, student=student, params=SamplingParams(), run=run))
    assert [example.draft for example in first] == ["draft 1", None, None]
    again = asyncio.run(drafted(examples, student=student, params=SamplingParams(), run=run))
    assert [example.draft for example in again] == ["draft 1", None, "draft 5"] and len(asked) == 5
    settle(again, run)
    settle(again, run)
    assert asyncio.run(drafted(examples, student=student, params=SamplingParams(), run=run)) == again and len(asked) == 5
    assert len(run.lines("drafts.jsonl")) == 3
    asyncio.run(drafted(examples, student=student, params=SamplingParams(), run=run, section="validation."))
    assert len(asked) == 8


def test_a_whole_run_and_what_is_asked_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WST_CACHE_DIR", str(tmp_path / "cache"))
    assert main([*TINY, "--variant=three_step"]) == 0
    (run,) = map(RunDirectory, (tmp_path / "runs").iterdir())
    drafts = run.lines("drafts.jsonl")
    # Two steps of four questions; the warm start's six are the first of them.
    assert [sum(line["split"] == split for line in drafts) for split in ("train", "validation")] == [8, 12]
    spoken = [line for line in run.lines("episodes.jsonl") if line["instruction"]["text"] and len(line["messages"]) > 1]
    known = {line["id"]: line["draft"] for line in drafts}
    assert spoken and all(line["messages"][-2] == {"role": "assistant", "content": known[line["example_id"]]} for line in spoken)
    summary = json.loads((run.path / "summary.json").read_text())
    assert {"raw", "static", "trained", "oracle"} <= set(summary["eval"]["arms"])
    manifest = json.loads((run.teacher / "teacher.json").read_text())
    assert manifest["variant"] == "three_step"
    assert evaluate.main([str(run.path)]) == 0
    assert json.loads((run.path / "summary.json").read_text())["eval"] == summary["eval"]
    assert find_teacher() != run.teacher, "the server would have no drafts for it"
    with pytest.raises(SettingError, match="a three-step teacher advises on a draft"):
        load_for_server(TeacherSource(folder=str(run.teacher)), "x", batch_size=1, threads=1, timeout_s=1.0)


def test_the_dry_run_counts_the_drafts(capsys):
    assert main([*TINY, "--variant=three_step", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.rindex('{\n "student_calls_at_most"') :])["student_calls_at_most"]["drafts"] == 8 + 12
