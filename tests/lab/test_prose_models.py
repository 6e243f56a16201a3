"""lab-m's own training: a killed pretraining goes on to the same weights, and GRPO moves a teacher to what pays."""

import random

import pytest

from lab import prose_models, prose_teacher
from lab.prose_corpus import Document
from lab.prose_models import Shape, load_folder, pretrain, save_folder, write
from lab.prose_teacher import Learning, Student, best_of_n, grpo_step, instruct, token_losses, train
from lab.prose_world import Row
from lab.tokenizer import train_tokenizer

SHAPE = Shape(64, 1, 64, seed=1, lr=2.5e-3, steps=6, tokens_a_batch=128, documents_a_chunk=16)
PLAN = Learning(2, 4, 1, 2e-3, steps=2, batch=4, group=2, lr=4e-4, every=1, validation=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(["add or take the numbers", "1 2 3 #### 4"] * 3, 300, tmp_path_factory.mktemp("tokenizer"))


def draw(rng: random.Random, _chunk: int) -> Document:
    return Document(f"{rng.randint(1, 9)} and {rng.randint(1, 9)}?", rng.choice(("add", "take")))


def weights(folder):
    return load_folder(folder, "cpu").state_dict()


def test_a_killed_pretraining_goes_on_to_the_weights_of_the_unbroken_one(tokenizer, tmp_path, monkeypatch):
    pretrain("student", SHAPE, tokenizer, draw, tmp_path / "unbroken", "cpu")

    saves = []
    save = prose_models.save_atomically

    def killed(data, path):
        save(data, path)
        saves.append(data["done"])
        if len(saves) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(prose_models, "save_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain("student", SHAPE, tokenizer, draw, tmp_path / "killed", "cpu", every_s=0)
    assert saves == [1, 2, 3] and not (tmp_path / "killed").exists()
    pretrain("student", SHAPE, tokenizer, draw, tmp_path / "killed", "cpu", every_s=0)
    assert saves == [1, 2, 3, 4, 5, 6]
    one, other = weights(tmp_path / "unbroken"), weights(tmp_path / "killed")
    assert all(one[name].equal(other[name]) for name in one)


class Paying(Student):
    """Right under every instruction that says "add"."""

    def grades(self, rows, instructions):
        return ["add" in text for text in instructions]


@pytest.fixture
def teacher(tokenizer, tmp_path):
    import torch

    torch.manual_seed(0)
    pretrain("teacher", SHAPE, tokenizer, draw, tmp_path / "teacher", "cpu")
    return tmp_path / "teacher"


def rows(n):
    return [Row(str(i), f"{i} and 2?", "2", "total", "") for i in range(n)]


def test_grpo_raises_the_probability_of_what_pays(tokenizer, teacher, monkeypatch):
    import torch

    model, student = load_folder(teacher, "cpu"), Paying(None, tokenizer, 8)
    paid, unpaid = (tokenizer([text + "<|end|>"])["input_ids"] for text in ("add", "take"))

    def odds():
        (good, seen), (bad, also) = (token_losses(model, tokenizer, ["1 and 2?"], ids) for ids in (paid, unpaid))
        return float((bad[also].sum() - good[seen].sum()).detach())

    before, optimizer = odds(), torch.optim.AdamW(model.parameters(), lr=1e-3)
    monkeypatch.setattr(prose_teacher, "instruct", lambda *_args, **_more: (["add", "take"] * 2, [paid[0], unpaid[0]] * 2))
    assert grpo_step(model, optimizer, student, rows(2), 2, blind=False) == 0.5
    assert odds() > before


def test_the_warm_start_keeps_silence_where_raw_is_right_and_else_what_worked(tokenizer, teacher):
    model = load_folder(teacher, "cpu")

    class Half(Student):
        def grades(self, rows, instructions):
            return [row.id == "0" or bool(text) for row, text in zip(rows, instructions, strict=True)]

    kept = best_of_n(model, Half(None, tokenizer, 8), rows(3), PLAN, blind=False, rng=random.Random(0))
    assert [text for query, text in kept if query == "0 and 2?"] == [""]
    assert all(text for query, text in kept if query != "0 and 2?")


def test_a_killed_teacher_goes_on_to_the_weights_of_the_unbroken_one(tokenizer, teacher, tmp_path, monkeypatch):
    student = Paying(load_folder(teacher, "cpu"), tokenizer, 8)

    def learn(folder):
        train(teacher, tmp_path / folder, student, rows(4), rows(2), PLAN, seed=0, blind=False)

    learn("unbroken")
    step, steps = prose_teacher.grpo_step, []

    def killed(*args, **more):
        if len(steps) == 1:
            steps.append("killed")
            raise KeyboardInterrupt
        steps.append("step")
        return step(*args, **more)

    monkeypatch.setattr(prose_teacher, "grpo_step", killed)
    with pytest.raises(KeyboardInterrupt):
        learn("killed")
    learn("killed")
    assert steps == ["step", "killed", "step"]
    one, other = weights(tmp_path / "unbroken" / "trained"), weights(tmp_path / "killed" / "trained")
    assert all(one[name].equal(other[name]) for name in one)


def test_a_batch_writes_what_each_turn_writes_alone(tokenizer, teacher, tmp_path):
    model = load_folder(teacher, "cpu")
    turns = ["1 and 2?", "3 and 4? take the numbers", "1 and 2?"]
    together, ids = write(model, tokenizer, turns, most=5, batch=8)
    assert together == [write(model, tokenizer, [turn], most=5, batch=8)[0][0] for turn in turns]
    assert all(len(found) <= 5 for found in ids)
    blind, _ = instruct(model, Student(model, tokenizer, 8), turns, blind=True)
    assert len(set(blind)) == 1
    save_folder(model, tokenizer, tmp_path / "again")
    assert (tmp_path / "again" / "complete").exists()
