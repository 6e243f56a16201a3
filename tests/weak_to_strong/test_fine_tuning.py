"""The checks before fine-tuning, and fine-tuning itself on a lab model."""

import pytest

from exchange.command import RunError
from exchange.records import Example
from exchange.settings import SettingError
from student_clients.embedded import model_fingerprint
from teacher.policy import end_ids, load_model
from teacher.run_directory import COMPLETE
from weak_to_strong.fine_tuning import FineTuneConfig, check_labels, fine_tune, fitting, last_whole, rows_of, watch
from weak_to_strong.run import StrongConfig

MODEL = "lab:arithmetic/teacher"
STRONG = StrongConfig(model=MODEL, max_tokens=12)
THINK_STRIPPING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def example(i):
    return Example(id=str(i), task="lab_arithmetic", split="train", query=f"Ben had {12 + i} coins and lost 2.", gold=str(10 + i))


def rows(n=8):
    return rows_of([(example(i), f"{12 + i} - 2 = {10 + i}\n#### {10 + i}") for i in range(n)])


@pytest.fixture(scope="module")
def loaded():
    return load_model(MODEL)


def test_an_over_long_row_is_dropped_and_not_cut(loaded):
    long = rows_of([(example(0), "1 + 1 = 2\n" * 100 + "#### 2")])
    kept, dropped = fitting([*rows(3), *long], loaded[1], 100)
    assert kept == rows(3) and dropped == 1


def test_a_template_that_strips_thinking_is_refused(loaded):
    from copy import deepcopy

    tokenizer = deepcopy(loaded[1])
    tokenizer.chat_template = THINK_STRIPPING
    thinking = rows_of([(example(0), "<think>12 - 2 = 10</think>#### 10")])
    with pytest.raises(SettingError, match=r"strong.model: its chat template changes what the assistant said"):
        fitting(thinking, tokenizer, 4096)
    assert fitting(rows(1), tokenizer, 4096) == (rows(1), 0)  # nothing to strip
    assert fitting(thinking, loaded[1], 4096) == (thinking, 0)


def test_every_row_learns_the_end_token():
    whole = [{"input_ids": [5, 6, 7, 1], "labels": [-100, -100, 7, 1]}] * 3
    assert check_labels(whole, frozenset({1})) == 12
    cut = [*whole, {"input_ids": [1, 6, 7], "labels": [-100, 6, 7]}]  # an end token in the prompt is not learnt
    with pytest.raises(SettingError, match="row 3 learns no end token"):
        check_labels(cut, frozenset({1}))


def test_a_template_without_an_end_is_refused(loaded, tmp_path):
    model, tokenizer = loaded
    folder = tmp_path / "endless"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(SettingError, match="row 0 learns no end token"):
        tune(tmp_path, base=folder)


def tune(tmp_path, base=MODEL, strong=STRONG, **settings):
    config = FineTuneConfig(epochs=2, batch_size=4, learning_rate=2e-3, **settings).resolved(strong)
    return fine_tune(
        base, rows(), config, strong, seed=0, out=tmp_path / "student", work=tmp_path / "work",
        watched=[example(i) for i in range(4)], say=lambda _: None,
    )  # fmt: skip


def test_it_learns_watches_every_epoch_and_leaves_a_whole_model(tmp_path):
    found = tune(tmp_path)
    assert (found["rows"], found["too_long"], found["steps"]) == (8, 0, 4)
    assert [(line["epoch"], line["step"], line["n"]) for line in found["epochs"]] == [(1, 2, 4), (2, 4, 4)]
    assert all(line["stop_rate"] + line["truncation_rate"] == pytest.approx(1) for line in found["epochs"])
    tokens = found["cost"]["trained_tokens"]
    assert tokens % 2 == 0 and found["cost"]["flops"] == 6.0 * found["parameters"] * tokens
    assert (tmp_path / "student" / COMPLETE).exists() and not (tmp_path / "work").exists()
    model, tokenizer = load_model(str(tmp_path / "student"))
    assert model_fingerprint(str(tmp_path / "student")) and end_ids(model, tokenizer)
    assert watch(model, tokenizer, [example(0)], 12)["n"] == 1


def test_an_adapter_is_merged(tmp_path):
    strong = StrongConfig.model_validate({"model": MODEL, "max_tokens": 12, "lora": {"r": 4, "alpha": 8}})
    tune(tmp_path, strong=strong)
    assert not (tmp_path / "student" / "adapter_config.json").exists()
    assert load_model(str(tmp_path / "student"))[0].num_parameters() == load_model(MODEL)[0].num_parameters()


def test_nothing_that_fits_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"all 8 rows are longer than fine_tune\.max_length=8"):
        tune(tmp_path, max_length=8)


def test_a_torn_checkpoint_is_not_gone_on_with(tmp_path):
    for step, whole in ((2, True), (4, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / COMPLETE).touch()
    assert last_whole(tmp_path) == str(tmp_path / "checkpoint-2")
    assert not (tmp_path / "checkpoint-4").exists()
    assert last_whole(tmp_path / "none") is None


def test_presets_follow_the_model():
    lab = FineTuneConfig().resolved(STRONG)
    assert (lab.learning_rate, lab.batch_size, lab.device_batch_size) == (3e-4, 16, 16)
    hub = FineTuneConfig(epochs=7).resolved(StrongConfig(model="some/model"))
    assert (hub.learning_rate, hub.epochs, hub.batch_size, hub.device_batch_size) == (1e-5, 7, 64, 2)
