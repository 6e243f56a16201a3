"""The private name of TRL by which its head scores the labelled tokens alone, what rows of `generate` are computed, and that nothing else
changes by it."""

import copy
from typing import Any

import pytest
import torch

from teacher.policy import BrokenWeights, load_model
from teacher.trl_on_cpu import drop_finished_rows, score_labelled_tokens_alone


def test_the_head_scores_labelled_tokens_alone_and_the_losses_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    scored: list[int] = []
    forward = chunked_logprob._forward_tile

    def counting(tile: Any, *arguments: Any, **named: Any) -> None:
        scored.append(len(tile))
        forward(tile, *arguments, **named)

    monkeypatch.setattr(chunked_logprob, "_forward_tile", counting)
    monkeypatch.setattr(utils, "_use_triton", chunked_logprob._use_triton)
    ids_BT = torch.randint(5, 30, (3, 9), generator=torch.Generator().manual_seed(0))
    labels_BT = ids_BT.clone()
    labels_BT[:, :5] = labels_BT[2, 7:] = -100

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        model, _ = load_model("lab:arithmetic/teacher")
        utils.add_fused_lm_head(model, outputs=("entropy",))
        output = model(input_ids=ids_BT, labels=labels_BT, fused_lm_head=True)
        output.loss.backward()
        return output.log_probs.detach(), model.get_input_embeddings().weight.grad

    before = losses()
    score_labelled_tokens_alone()
    score_labelled_tokens_alone()
    after = losses()
    assert scored == [3 * 8, 4 + 4 + 2]
    for a, b in zip(before, after, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b)


def test_other_devices_are_left_to_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import utils

    monkeypatch.setattr(utils, "_use_triton", lambda device: device.type == "cuda")
    score_labelled_tokens_alone()
    assert [utils._use_triton(torch.device(kind)) for kind in ("cpu", "cuda", "meta")] == [True, True, False]


def trls_settings(**changed: Any) -> Any:
    """A generation config as TRL's trainers make it."""
    from transformers import GenerationConfig

    settings = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "cache_implementation": None}
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": [1]}
    return GenerationConfig(**{"max_new_tokens": 30, "do_sample": True, **settings, **ends, **changed}, disable_compile=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, torch.Tensor], list[Any]]:
    """A teacher whose `generate` is ours, prompts of two lengths, and the calls that reach transformers' own."""
    model, tokenizer = load_model("lab:arithmetic/teacher")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    turns = [[{"role": "user", "content": text}] for text in ("Ravi lost 8 of the 47 cups. How many cups are left?", "Ann has 4 pens.")]
    inputs = tokenizer.apply_chat_template(turns * 100, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True)
    theirs, passed_on = type(model).generate, list[Any]()

    def counting(*args: Any, **named: Any) -> Any:
        passed_on.append(named)
        return theirs(*args, **named)

    monkeypatch.setattr(type(model), "generate", counting)
    drop_finished_rows(model)
    return model, {name: inputs[name] for name in ("input_ids", "attention_mask")}, passed_on


def test_rows_that_have_ended_are_not_computed_and_what_comes_is_as_transformers_gives_it(asked: Any) -> None:
    model, inputs, passed_on = asked
    width, computed = inputs["input_ids"].shape[1], list[int]()
    model.register_forward_pre_hook(lambda _, args, named: computed.append(len(named["input_ids"])), with_kwargs=True)
    torch.manual_seed(0)
    ours = model.generate(**inputs, generation_config=trls_settings())
    assert not passed_on and torch.equal(ours[:, :width], inputs["input_ids"])
    assert computed[0] == 200 and computed[-1] < 100
    torch.manual_seed(0)
    assert torch.equal(ours, model.generate(**inputs, generation_config=trls_settings())), "of torch's generator"
    for row in ours[:, width:].tolist():
        end = row.index(1) if 1 in row else len(row)
        assert set(row[end + 1 :]) <= {0}, "after its end a row is padding"
    cold = model.generate(**inputs, generation_config=trls_settings(temperature=1e-9))
    assert not passed_on
    greedy = model.generate(**inputs, do_sample=False, max_new_tokens=30, pad_token_id=0, eos_token_id=[1])
    assert torch.equal(cold, greedy) and len(passed_on) == 1


@pytest.mark.parametrize("temperature", [0.7, 1, 1.4])
def test_draws_are_the_models_own_at_the_temperature(asked: Any, temperature: float) -> None:
    """First tokens of 4,000 texts against the probabilities that the model gives."""
    model, inputs, passed_on = asked
    many = {name: rows[:1].repeat(4000, 1) for name, rows in inputs.items()}
    torch.manual_seed(0)
    drawn = model.generate(**many, generation_config=trls_settings(temperature=temperature, max_new_tokens=1))[:, -1]
    with torch.no_grad():
        chance = (model(**{name: rows[:1] for name, rows in inputs.items()}).logits[0, -1].double() / temperature).softmax(-1)
    found = torch.bincount(drawn, minlength=len(chance)).double() / 4000
    likely = chance > 0.005
    assert not passed_on and likely.sum() > 5
    assert ((found - chance).abs()[likely] < 4.5 * (chance * (1 - chance) / 4000).sqrt()[likely]).all()


def test_a_copy_computes_with_its_own_weights(asked: Any) -> None:
    model, inputs, _ = asked
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    few = {name: rows[:2] for name, rows in inputs.items()}
    torch.manual_seed(0)
    found = copied.generate(**few, generation_config=trls_settings())[:, inputs["input_ids"].shape[1] :]
    assert len(set(found.flatten().tolist())) > 30, "every token is as likely as another"


OTHER = (
    {"top_p": 0.9},
    {"top_k": 5},
    {"min_p": 0.1},
    {"repetition_penalty": 1.1},
    {"do_sample": False},
    {"num_beams": 2},
    {"eos_token_id": 1},
)


@pytest.mark.parametrize("setting", OTHER)
def test_what_it_does_not_follow_is_left_to_transformers(asked: Any, setting: dict[str, Any]) -> None:
    model, inputs, passed_on = asked
    few = {name: rows[:2] for name, rows in inputs.items()}
    assert model.generate(**few, generation_config=trls_settings(**setting)).shape[0] == 2 and len(passed_on) == 1


def test_a_temperature_that_is_none_is_refused_by_transformers(asked: Any) -> None:
    model, inputs, _ = asked
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="strictly positive"):
            model.generate(**inputs, generation_config=trls_settings(temperature=temperature))


def test_scores_that_are_no_numbers_are_an_error(asked: Any) -> None:
    model, inputs, _ = asked
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(BrokenWeights):
        model.generate(**inputs, generation_config=trls_settings())
