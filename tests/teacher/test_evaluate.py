"""The command that measures a teacher: on a run directory, on a config, with extra arms, and when something is wrong."""

import json

import pytest
import yaml

from evaluation.arms import ArmConfig
from exchange.settings import SettingError, load, parse_flags
from teacher import parts
from teacher.arms import arm_student, extra_policy
from teacher.config import TrainConfig, resolve
from teacher.evaluate import main
from teacher.folder import read_manifest, save_teacher
from teacher.policy import load_model
from teacher.prompt import TeacherPrompt
from teacher.run_directory import RunDirectory, mark_complete

FLAGS = ["--eval.n=12", "--eval.include=[]"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run whose teacher is the untrained base, so that it costs no training."""
    monkeypatch.setenv("WST_RUNS_DIR", str(tmp_path / "runs"))
    run = RunDirectory.create(resolve(TrainConfig()))
    model, tokenizer = load_model("lab:arithmetic/teacher")
    facts = {"id": "base", "task": "lab_arithmetic", "max_instruction_tokens": 40}
    save_teacher(run.teacher, model, tokenizer, TeacherPrompt.named("lab"), facts)
    (run.path / "summary.json").write_text(json.dumps({"task": "lab_arithmetic", "wall_s": 7.5, "eval": {"n": 1}}))
    return run


def test_on_a_run_directory_only_the_eval_block_is_replaced(run, capsys):
    assert main([str(run.path), *FLAGS]) == 0
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["task"], summary["wall_s"], summary["eval"]["n"]) == ("lab_arithmetic", 7.5, 12)
    assert list(summary["eval"]["arms"]) == ["raw", "static", "untrained", "trained", "oracle"]
    # The trained teacher is the untrained one here, so both arms must agree to the question.
    assert summary["eval"]["arms"]["trained"] == summary["eval"]["arms"]["untrained"]
    assert "verdict" in capsys.readouterr().out


def test_the_same_command_gives_the_same_numbers(run):
    summaries = []
    for _ in range(2):
        assert main([str(run.path), *FLAGS]) == 0
        summaries.append((run.path / "summary.json").read_bytes())
    assert summaries[0] == summaries[1]


def test_without_an_argument_the_newest_run_is_measured_in_its_place(run, capsys):
    assert main(FLAGS) == 0
    assert f"teacher: {run.teacher}\n" in capsys.readouterr().out
    assert json.loads((run.path / "summary.json").read_text())["eval"]["n"] == 12


def test_with_a_config_the_summary_goes_into_a_directory_of_its_own(run, tmp_path):
    before = (run.path / "summary.json").read_bytes()
    (tmp_path / "c.yaml").write_text("task:\n  dial: 0\n")
    assert main([str(tmp_path / "c.yaml"), *FLAGS]) == 0
    assert (run.path / "summary.json").read_bytes() == before
    [other] = [path for path in run.path.parent.iterdir() if path != run.path]
    assert json.loads((other / "summary.json").read_text())["eval"]["arms"]["raw"]["mean"] > 0.9


def test_an_unfinished_run_is_sent_back_to_training(run, capsys):
    (run.path / "summary.json").unlink()
    assert main([str(run.path), *FLAGS]) == 2
    assert f"teacher.train --resume={run.path}" in capsys.readouterr().err


def test_the_dry_run_asks_nothing(run, capsys):
    assert main([str(run.path), *FLAGS, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.rindex('{\n "student_calls_at_most"') :])["student_calls_at_most"]["total"] == 60


def test_extra_arms_are_texts_files_runs_and_models(run, tmp_path, capsys):
    (tmp_path / "cot.txt").write_text("Think step by step.\n")
    arms = [
        "--eval.arms.static:mine.text=Think.",
        f"--eval.arms.static:file.file={tmp_path / 'cot.txt'}",
        f"--eval.arms.blind.run={run.path}",
        "--eval.arms.model:base.model=lab:arithmetic/teacher",
    ]
    assert main([str(run.path), *FLAGS, *arms]) == 0
    names = list(json.loads((run.path / "summary.json").read_text())["eval"]["arms"])
    assert names == ["raw", "static", "untrained", "static:mine", "static:file", "model:base", "blind", "trained", "oracle"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval.arms.x.text=a", "--eval.arms.x.model=b"], "eval.arms.x: give exactly one of text, file, run, model (given: text, model)"),
        (["--eval.arms.raw.text=a"], "eval.arms.raw: this name is reserved"),
        (["--eval.arms.x.file=/nowhere"], "eval.arms.x.file='/nowhere': no such file"),
        (["--eval.arms.x.run=/nowhere"], "teacher '/nowhere': holds no teacher.json"),
        (["--eval.arms.x.txt=a"], "eval.arms.x.txt='a': no such setting"),
    ],
)
def test_bad_arms_are_one_clear_line(run, capsys, flags, message):
    assert main([str(run.path), *FLAGS, *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_what_is_no_run_and_a_student_that_is_not_there(run, tmp_path, capsys, free_port):
    assert main([str(tmp_path)]) == 2
    assert "not a run directory" in capsys.readouterr().err
    flags = [f"--student.base_url=http://127.0.0.1:{free_port}/v1", "--student.model=m", "--student.kind=openai"]
    assert main([str(run.path), *FLAGS, *flags]) == 2
    assert "a run is measured with its own settings" in capsys.readouterr().err
    assert main(["lab_arithmetic_grpo", *FLAGS, *flags, "--student.pacing.max_attempts=1"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("teacher.evaluate: student: ") and "\n" not in error


def test_an_empty_arm_is_refused():
    config = load(TrainConfig, {}, parse_flags(["--eval.arms.x.text="]))
    with pytest.raises(SettingError, match="given: none"):
        extra_policy(resolve(config), "x", config.eval.arms["x"])


ALL = ["--eval.n=12", "--eval.include=[best_static, router, majority, self, bigger]", "--eval.search_calls=200"]


def test_every_arm_of_the_lab_is_run_and_again_nothing_is_asked_and_no_byte_changes(run, capsys):
    """The second acceptance: table, eval block and reports are byte-identical, and the student is asked nothing."""
    seen = []
    for _ in range(2):
        before = counted()
        assert main([str(run.path), *ALL]) == 0
        table, _, rest = capsys.readouterr().out.partition("report: ")
        files = {name: (run.path / name).read_bytes() for name in ("report.html", "report.md", "report.json", "evaluation.jsonl")}
        seen.append((table, json.dumps(json.loads((run.path / "summary.json").read_text())["eval"]), files))
        asked = counted() - before
    assert asked == 0 and "fresh calls" not in rest
    assert seen[0] == seen[1]
    summary = json.loads(seen[0][1])
    names = ["raw", "static", "best_static", "router", "majority", "untrained", "self", "bigger", "trained", "oracle"]
    assert list(summary["arms"]) == names and [name for name in names if f" {name} " not in seen[0][0]] == []
    assert summary["arms"]["self"]["use"]["leak_rate"] == 1.0  # the lab's student answers, whatever it is asked
    # A vote takes all of its answers: three prompts a question at least.
    assert summary["arms"]["majority"]["use"]["prompt_tokens"] >= 3 * summary["arms"]["raw"]["use"]["prompt_tokens"]
    assert "training calls" in summary["arms"]["router"]["about"]


def counted():
    """Sequences that embedded students have computed in this process."""
    return COMPUTED[0]


COMPUTED = [0]


@pytest.fixture(autouse=True)
def _count(monkeypatch):
    from student_clients.embedded import EmbeddedStudent

    answer = EmbeddedStudent._completion

    def completion(self, *args):
        COMPUTED[0] += 1
        return answer(self, *args)

    monkeypatch.setattr(EmbeddedStudent, "_completion", completion)


def test_a_sampling_student_is_asked_raw_once_more_for_the_churn_floor(run, tmp_path):
    flags = ["--eval.n=60", "--student.temperature=0.7", "--student.seed=3", f"--run.dir={tmp_path / 'noisy'}"]
    assert main(["lab_arithmetic_grpo", *flags, "--eval.include=[raw_again]", "--task.dial=0.5"]) == 0
    summary = json.loads((tmp_path / "noisy" / "summary.json").read_text())["eval"]
    floor = summary["vs_raw"]["raw_again"]
    assert summary["churn"] == "measured" and floor["churn"] > 0
    assert floor["net_help_low"] <= 0 <= floor["net_help_high"] and floor["net_harm_low"] <= 0 <= floor["net_harm_high"]
    assert summary["arms"]["raw"] != summary["arms"]["raw_again"]


def test_several_samples_a_question(run, tmp_path):
    flags = ["--eval.n=8", "--eval.samples=3", "--student.temperature=0.7", "--eval.include=[]", f"--run.dir={tmp_path / 'k'}"]
    assert main(["lab_arithmetic_grpo", *flags]) == 0
    rows = [json.loads(line) for line in (tmp_path / "k" / "evaluation.jsonl").read_text().splitlines()]
    assert {len(row["answers"]) for row in rows} == {3}
    assert json.loads((tmp_path / "k" / "summary.json").read_text())["eval"]["samples"] == 3


def test_an_arm_may_have_a_student_of_its_own(run):
    moved = f"--eval.arms.moved={{run: {run.path}, student: {{model: lab:arithmetic/student_b}}}}"
    arms = ["--eval.arms.stronger.student.model=lab:arithmetic/student_b", moved]
    assert main([str(run.path), *FLAGS, *arms]) == 0
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["eval"]["arms"]["stronger"]["about"] == "answered by lab:arithmetic/student_b"
    assert summary["eval"]["arms"]["stronger"]["silence_rate"] == 1.0 > summary["eval"]["arms"]["moved"]["silence_rate"]


def test_the_warm_start_alone_is_an_arm_where_the_run_has_one(run):
    model, tokenizer = load_model("lab:arithmetic/teacher")
    folder = run.path / "checkpoints" / "warm_start"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mark_complete(folder)
    assert main([str(run.path), *FLAGS]) == 0
    arms = json.loads((run.path / "summary.json").read_text())["eval"]["arms"]
    assert arms["sft"] == arms["untrained"]  # the same weights here


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval.include=[rooter]"], "eval.include.0='rooter': input should be 'raw_again', 'cot', 'best_static', 'router'"),
        (["--eval.include=rooter"], "eval.include.0='rooter'"),
        (["--eval.samples=2"], "eval.samples=2: a greedy student gives the same answer each time"),
        (["--eval.arms.x.student.modell=a"], "eval.arms.x.student.modell='a': no such setting; did you mean model?"),
        (["--eval.arms.x.student={base_url: nowhere, model: m}"], "eval.arms.x.student.base_url='nowhere': a URL begins with"),
        (["--eval.arms.x.student={base_url: https://api.example.com/v1, model: m}"], "no price is known for 'm'"),
        (["--eval.arms.x.file=/nowhere.json"], "no such file"),
    ],
)
def test_bad_settings_of_arms_are_one_clear_line(run, capsys, flags, message):
    assert main([str(run.path), *FLAGS, *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_small_model_that_answers_itself_leaves_the_server_of_the_run_behind():
    served = {"kind": "openai", "base_url": "http://localhost:1/v1", "model": "m", "max_tokens": 99}
    config = resolve(load(TrainConfig, {"student": served}))
    small = arm_student(config, "direct", ArmConfig(student={"kind": "embedded", "model": "lab:arithmetic/student"}))
    assert (small.kind, small.base_url, small.max_tokens) == ("embedded", None, 99)
    stronger = arm_student(config, "stronger", ArmConfig(student={"model": "larger"}))
    assert (stronger.kind, stronger.base_url, stronger.model) == ("openai", "http://localhost:1/v1", "larger")


CELLS = (
    "--eval.transfer={other: {student: {model: 'lab:arithmetic/student_b'}}, easy: {task: {dial: 0}}, "
    "both: {student: {model: 'lab:arithmetic/student_b'}, task: {dial: 0}}}"
)


def test_a_cell_is_asked_of_its_own_student_also_where_another_one_validates(run, monkeypatch):
    asked = []
    made = parts.make_student

    def noted(config, *args, **kwargs):
        asked.append(config.model)
        return made(config, *args, **kwargs)

    monkeypatch.setattr(parts, "make_student", noted)
    held = yaml.safe_load((run.path / "config.yaml").read_text())
    held["validation"]["student"] = {"model": "lab:arithmetic/student_b"}
    (run.path / "config.yaml").write_text(yaml.safe_dump(held))
    assert main([str(run.path), *FLAGS, "--eval.transfer={own: {student: {model: 'lab:arithmetic/student'}}}"]) == 0
    assert asked == ["lab:arithmetic/student_b", "lab:arithmetic/student"]
    assert "transfer" in json.loads((run.path / "summary.json").read_text())
    assert main([str(run.path), *FLAGS]) == 0
    assert "transfer" not in json.loads((run.path / "summary.json").read_text()), "it was of an evaluation before this one"


def test_one_teacher_is_tried_on_students_and_tasks(run, capsys):
    held = json.loads((run.path / "summary.json").read_text())
    (run.path / "summary.json").write_text(json.dumps({**held, "teacher_sha256": read_manifest(run.teacher)["sha256"]}))
    assert main([str(run.path), *FLAGS, CELLS]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((run.path / "summary.json").read_text())
    found = summary["transfer"]
    students, tasks = ["lab:arithmetic/student", "lab:arithmetic/student_b"], ["lab_arithmetic", "lab_arithmetic at dial 0"]
    assert list(found) == students and all(set(found[student]) == set(tasks) for student in students)
    assert "transfer of teacher" in printed and printed.count("held-out questions") == 4
    for name in ("other", "easy", "both"):
        cell = json.loads((run.path / "transfer" / name / "summary.json").read_text())["eval"]
        assert list(cell["arms"]) == ["raw", "static", "trained"] and cell["n"] == 12
        assert (run.path / "transfer" / name / "report.html").exists()
    pair = json.loads((run.path / "transfer" / "other" / "summary.json").read_text())["eval"]["vs_raw"]["trained"]
    assert found[students[1]][tasks[0]].startswith(f"{pair['difference']:+.1%} (")
    # The run's own cell is its own evaluation, and a second time nothing is asked.
    assert summary["eval"]["n"] == 12
    assert main([str(run.path), *FLAGS, CELLS]) == 0
    assert json.loads((run.path / "summary.json").read_text())["transfer"] == found


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{a: {}}", "give a student, a task or both"),
        ("{a: {student: {modle: x}}}", "eval.transfer.a.student.modle"),
        ("{a: {task: {name: gsm9k}}}", "eval.transfer.a.task.name='gsm9k'"),
        ("{'../a': {task: {dial: 0}}}", "it becomes a folder's name"),
        ("{a: {student: {kind: openai, model: m, base_url: 'https://api.example.com/v1'}}}", "budget.prices: no price is known for 'm'"),
    ],
)
def test_a_cell_that_cannot_be_is_found_out_before_anything_is_asked(run, capsys, cell, message):
    before = (run.path / "summary.json").read_bytes()
    assert main([str(run.path), *FLAGS, f"--eval.transfer={cell}"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error, error
    assert (run.path / "summary.json").read_bytes() == before


def test_the_dry_run_counts_the_cells(run, capsys):
    assert main([str(run.path), *FLAGS, CELLS, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.rindex('{\n "student_calls_at_most"') :])["student_calls_at_most"]["transfer"] == 3 * 3 * 12
