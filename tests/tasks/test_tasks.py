"""Every task: disjoint splits, golds that its grader reads, texts to start from; faulty files; nothing half loaded."""

import gzip
import json

import pytest

from exchange.settings import SettingError, load
from rewards.correctness import Grader
from tasks import TASKS, TaskConfig, answer_type_of, choice, hh_rlhf, knights_knaves, own_data
from tasks.own_data import OwnData

SIZES = {
    ("gsm8k", None): (6726, 747, 1319),
    ("math", None): (6736, 748, 500),
    ("math", "test_without_math500"): (6736, 748, 4492),
    ("svamp", None): (614, 98, 287),
    ("yes_no", None): (1854, 206, 229),
    ("knights_knaves", None): (1000, 1000, 1000),
    ("hh_rlhf", None): (3495, 388, 4666),
    ("hh_rlhf", "harmless"): (3495, 388, 2312),
}


@pytest.mark.parametrize(("name", "subset"), SIZES)
def test_splits_share_no_id_and_no_question(data_dir, name, subset):
    config = TaskConfig(name=name, subset=subset)
    splits = [TASKS[name].load(config, split, None) for split in ("train", "validation", "test")]
    assert tuple(map(len, splits)) == SIZES[name, subset]
    everything = [example for split in splits for example in split]
    assert len({example.id for example in everything}) == len(everything)
    questions = [{(example.query, example.history) for example in split} for split in splits]
    assert not (questions[0] & questions[1] or questions[0] & questions[2] or questions[1] & questions[2])
    assert all(answer_type_of(example.task) == TASKS[name].answer_type for example in everything)
    assert TASKS[name].load(config, "test", 3) == splits[2][:3]


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("own", "choice", "hh_rlhf", "lab_alignment")])
def test_a_gold_in_the_asked_for_form_is_graded_right(data_dir, name):
    grader = Grader()
    for example in TASKS[name].load(TaskConfig(name=name), "test", 20):
        outputs = {"number": "#### {}", "math": "\\boxed{{{}}}"}.get(TASKS[name].answer_type, "Answer: {}")
        output = "I think.\n" + outputs.format(example.gold)
        assert grader.grade(TASKS[name].answer_type, example.gold, output, strict=True, query=example.query).correct is True, example.id


def test_every_task_has_a_text_to_start_from():
    for task in TASKS.values():
        assert (task.static_instruction.endswith(".") and len(task.static_instruction) < 450) or task.name == "lab_arithmetic"


def test_a_changed_file_under_the_data_root_is_refused(data_dir, tmp_path, monkeypatch):
    (tmp_path / "reasoning").mkdir()
    with gzip.open(data_dir / "reasoning" / "svamp.jsonl.gz") as lines:
        content = lines.read()
    (tmp_path / "reasoning" / "svamp.jsonl").write_bytes(content)
    monkeypatch.setenv("WST_DATA_DIR", str(tmp_path))
    assert len(TASKS["svamp"].load(TaskConfig(name="svamp"), "test", None)) == 287
    (tmp_path / "reasoning" / "svamp.jsonl").write_bytes(content.replace(b"51.0", b"52.0", 1))
    with pytest.raises(SettingError, match=r"svamp.jsonl: not the file this task is made for .*task.path"):
        TASKS["svamp"].load(TaskConfig(name="svamp"), "test", None)
    assert TASKS["svamp"].load(TaskConfig(name="svamp", path=str(tmp_path / "reasoning")), "test", None)


@pytest.mark.parametrize("name", ["gsm8k", "math", "svamp", "yes_no", "choice", "hh_rlhf"])
def test_without_folder_and_network_the_message_says_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("WST_DATA_DIR", str(tmp_path))
    with pytest.raises(SettingError, match=r"task .*set task.path or WST_DATA_DIR to a folder with") as caught:
        TASKS[name].load(TaskConfig(name=name), "train", None)
    assert "\n" not in str(caught.value)


def test_settings_of_a_task_are_strict():
    for data, message in (
        ({"name": "math", "subset": "arc_easy"}, "task math has no such part; it has: math500, test_without_math500"),
        ({"name": "own", "own": {"answer_type": "regex"}}, "own.answer_type='regex': input should be"),
        ({"name": "own", "own": {"hub_revision": "main"}}, "own.hub_revision='main': string should match"),
        ({"own": {"question": "q"}}, "own.question='q': no such setting"),
    ):
        with pytest.raises(SettingError) as caught:
            load(TaskConfig, data)
        assert message in str(caught.value)


# A user's own rows.


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_own_rows_with_their_own_field_names(tmp_path):
    rows = [{"nr": i, "prompt": f"What is {i} + 1?", "label": i + 1, "sys": "Be brief.", "work": f"{i}+1={i + 1}"} for i in range(200)]
    own = OwnData(answer_type="number", query="prompt", answer="label", id="nr", system="sys", reference="work")
    path = write(tmp_path / "rows.jsonl", rows)
    splits = {split: own_data.load(own, split, path=path) for split in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 200 and all(len(split) > 10 for split in splits.values())
    example = splits["test"][0]
    number = int(example.id.removeprefix("own-"))
    assert (example.query, example.gold, example.task) == (f"What is {number} + 1?", str(number + 1), "own/number")
    assert (example.system, example.reference) == ("Be brief.", f"{number}+1={number + 1}")
    assert answer_type_of(example.task) == "number"


def test_own_folder_and_options(tmp_path):
    rows = [{"question": f"Which is {i}?", "options": [f"{i + 1}", f"{i}"], "answer": 1} for i in range(20)]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl", [{"question": "Which?", "options": ["x", "y"], "answer": "B"}])
    own = OwnData(answer_type="choice", options="options")
    assert [len(own_data.load(own, split, path=str(tmp_path))) for split in ("train", "validation", "test")] == [18, 2, 1]
    example = own_data.load(own, "train", path=str(tmp_path))[0]
    assert example.gold == "B" and "A. 1\nB. 0\n" in example.query


@pytest.mark.parametrize(
    ("content", "answer_type", "message"),
    [
        (b'{"question": "q", "answer": "1"}\n{"question": "r"}\n', "number", "rows.jsonl:2: field 'answer' is missing"),
        (b'{"question": "q", "answer": "1"}\n{"query": "r", "answer": "1"}\n', "number", "rows.jsonl:2: field 'question' is missing"),
        (
            b'{"question": "q", "answer": "1"}\n{"question": "r", "answer": "one"}\n',
            "number",
            "rows.jsonl:2: field 'answer' cannot be read as number",
        ),
        (b'{"question": "q", "answer": "\\\\frac{1}{2"}\n', "math", "rows.jsonl:1: field 'answer' cannot be read as math"),
        (b'{"question": "q", "answer": "perhaps"}\n', "yes_no", "rows.jsonl:1: field 'answer' cannot be read as yes_no"),
        (
            b'{"id": 1, "question": "q", "answer": "1"}\n{"id": 1, "question": "r", "answer": "1"}\n',
            "number",
            "rows.jsonl:2: id '1' occurs twice",
        ),
        (b"", "number", "rows.jsonl is empty"),
        (b'{"question": "q", "answer": "1"}\n{"question": "\xe9", "answer": "1"}\n', "number", "rows.jsonl:2: not UTF-8 text"),
        (b'{"question": "q", "answer": "1"}\n{"question": \n', "number", "rows.jsonl:2: not JSON"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_faulty_row_refuses_the_file_in_every_split(tmp_path, content, answer_type, message, split):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(SettingError) as caught:
        own_data.load(OwnData(answer_type=answer_type), split, path=str(tmp_path / "rows.jsonl"), limit=1)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_own_needs_a_place():
    with pytest.raises(SettingError, match=r"task.path: required for task own"):
        own_data.load(OwnData(), "train")
    with pytest.raises(SettingError, match=r"task.own.hub_revision: required"):
        own_data.load(OwnData(hub="a/b"), "train")


# Choice.

FORMS = [
    {"id": "1", "question": {"stem": "Q?", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]}, "answerKey": "B"},
    {"id": "2", "question": "Q?", "choices": {"label": ["1", "2"], "text": ["x", "y"]}, "answerKey": "2"},
    {"id": "3", "context": "All x are y.", "question": "Q?", "options": ["x", "y"], "label": 1},
    {"id": "4", "query": "Q?", "answers": ["x", "y"], "label": "b"},
]


@pytest.mark.parametrize("row", FORMS)
def test_every_published_form_is_read(row):
    example = choice.example_of(row, "f:1", task="choice", split="test", name="1")
    assert example.gold == "B" and "Q?\n\nA. x\nB. y\n\nFinish with a line `Answer: `" in example.query
    assert example.query.startswith("All x are y.") == ("context" in row)


def test_choice_files_and_their_validation(tmp_path):
    rows = [FORMS[0] | {"id": str(i)} for i in range(20)]
    for name in ("train", "validation", "test"):
        write(tmp_path / f"{name}.jsonl", [row | {"id": f"{name}{row['id']}"} for row in rows])

    def sizes(subset):
        splits = [choice.load(split, path=str(tmp_path), subset=subset) for split in ("train", "validation", "test")]
        ids = [example.id for split in splits for example in split]
        assert len(set(ids)) == len(ids)
        return [len(split) for split in splits], splits[2][0].id

    assert sizes("arc_easy") == ([20, 20, 20], "choice-arc_easy-test0")
    assert sizes("commonsense_qa") == ([18, 2, 20], "choice-commonsense_qa-validation0")
    (tmp_path / "validation.jsonl").unlink()
    assert sizes("logiqa") == ([18, 2, 20], "choice-logiqa-test0")
    write(tmp_path / "test.jsonl", [FORMS[0], FORMS[0] | {"id": "2", "answerKey": "E"}])
    with pytest.raises(SettingError, match=r"test.jsonl:2: the answer 'E' names none of the options A, B"):
        choice.load("test", path=str(tmp_path), subset="logiqa")


# Knights and knaves, dialogues.


def test_puzzles_have_one_solution_found_by_trying_all():
    said = [knights_knaves.Statement("knave", (1,)), knights_knaves.Statement("same", (0, 1))]
    assert knights_knaves.solutions(said) == [(True, False)]
    for example in knights_knaves.load("test", limit=50):
        people = example.gold.split(", ")
        assert all(f"{person.partition(':')[0]} says:" in example.query for person in people) and len(people) >= 2


def dialogue(*turns):
    return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {turn}" for i, turn in enumerate(turns))


def test_dialogues_keep_their_history(data_dir):
    chosen, rejected = (hh_rlhf.turns(dialogue("a", "b", "c", last), "f:1") for last in ("good", "bad"))
    pair = hh_rlhf.pair_of(chosen, rejected, "1", "helpful-base")
    assert [message.content for message in pair.messages] == ["a", "b", "c"] and (pair.chosen, pair.rejected) == ("good", "bad")
    early = hh_rlhf.pair_of(chosen, hh_rlhf.turns(dialogue("a", "x", "y", "z"), "f:1"), "1", "helpful-base")
    assert [message.content for message in early.messages] == ["a"] and (early.chosen, early.rejected) == ("b", "x")
    assert hh_rlhf.pair_of(chosen[:3], rejected[:3], "1", "f") is not None, "ends on a human turn: the reply before it is compared"
    with pytest.raises(SettingError, match="f:1: the dialogue does not open with a human turn"):
        hh_rlhf.turns("\n\nAssistant: hello", "f:1")
    pairs = {file: hh_rlhf.load_pairs(file) for file in (*hh_rlhf.TRAIN_FILES, *hh_rlhf.TEST_FILES)}
    assert {file: len(found) for file, found in pairs.items()} == {
        "helpful-online": 1137, "helpful-rejection-sampled": 2749, "helpful-base": 2354, "harmless-base": 2312
    }  # fmt: skip
    assert all(pair.messages[-1].role == "user" for found in pairs.values() for pair in found)


def test_a_faulty_row_of_a_known_form_is_named(tmp_path):
    for name, file, row in (
        ("svamp", "svamp", {"ID": "1", "Body": "b", "Question": "q", "Answer": "5"}),
        ("yes_no", "strategyqa", {"qid": "1", "question": "q", "answer": "yes", "split": "dev"}),
        ("math", "math500_test", {"problem": "p", "solution": "s", "answer": "", "unique_id": "x"}),
    ):
        write(tmp_path / f"{file}.jsonl", [row])
        with pytest.raises(SettingError, match=rf"{file}.jsonl:1: field '[aA]nswer'"):
            TASKS[name].load(TaskConfig(name=name, path=str(tmp_path)), "test", None)


def test_own_rows_without_an_answer_and_with_a_risk(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i}", "kind": "harmful" if i % 2 else "benign"}) + "\n" for i in range(40)))
    own = OwnData(answer=None, risk="kind")
    found = own_data.load(own, "train", path=str(path))
    assert {(example.gold, example.risk) for example in found} == {(None, "benign"), (None, "harmful")}
    assert "risk" not in found[0].public().model_dump()
    path.write_text('{"question": "q", "kind": "evil"}\n')
    with pytest.raises(SettingError, match=r"q\.jsonl:1: field 'kind' is 'evil'; it says benign or harmful"):
        own_data.load(own, "train", path=str(path))
    with pytest.raises(SettingError, match=r"own\.options: needs task\.own\.answer"):
        load(TaskConfig, {"name": "own", "own": {"answer": None, "options": "choices"}})


def test_hh_rlhf_knows_which_queries_were_asked_to_do_harm(data_dir):
    found = TASKS["hh_rlhf"].load(TaskConfig(name="hh_rlhf"), "test", None)
    assert {(example.family, example.risk) for example in found} == {("helpful-base", "benign"), ("harmless-base", "harmful")}
