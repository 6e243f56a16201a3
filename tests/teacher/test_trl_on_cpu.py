"""The private name of TRL by which its head scores the labelled tokens alone, what rows of `generate` are computed, and that nothing else
changes by it."""

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
def asked() -> tuple[Any, dict[str, torch.Tensor], list[Any]]:
    """A teacher whose `generate` is ours, prompts of two lengths, and the calls that reach transformers' own."""
    model, tokenizer = load_model("lab:arithmetic/teacher")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    turns = [[{"role": "user", "content": text}] for text in ("Ravi lost 8 of the 47 cups. How many cups are left?", "Ann has 4 pens.")]
    inputs = tokenizer.apply_chat_template(turns * 100, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True)
    theirs, passed_on = model.generate, list[Any]()

    def counting(*args: Any, **named: Any) -> Any:
        passed_on.append(named)
        return theirs(*args, **named)

    model.generate = counting
    drop_finished_rows(model)
    return model, {name: inputs[name] for name in ("input_ids", "attention_mask")}, passed_on


def first_tokens(found_BT: torch.Tensor, width: int) -> torch.Tensor:
    """How often each token came first, of the two prompts."""
    return torch.stack([torch.bincount(found_BT[row::2, width], minlength=300)[:300] for row in (0, 1)]).double()


def test_rows_that_have_ended_are_not_computed_and_the_draws_are_of_the_same_distribution(asked: Any) -> None:
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
    theirs = model.generate(**inputs, generation_config=trls_settings(top_p=0.999999))
    assert len(passed_on) == 1
    a, b = first_tokens(ours, width), first_tokens(theirs, width)
    distance = (a - b).abs().sum(1) / 200
    assert (distance < 0.35).all(), "total variation of two hundreds of draws"
    greedy = model.generate(**inputs, do_sample=False, max_new_tokens=30, pad_token_id=0, eos_token_id=[1])
    cold = model.generate(**inputs, generation_config=trls_settings(temperature=1e-9))
    assert torch.equal(cold, greedy)


@pytest.mark.parametrize(
    "setting", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"do_sample": False}, {"num_beams": 2}]
)
def test_what_it_does_not_follow_is_left_to_transformers(asked: Any, setting: dict[str, Any]) -> None:
    model, inputs, passed_on = asked
    few = {name: rows[:2] for name, rows in inputs.items()}
    assert model.generate(**few, generation_config=trls_settings(**setting)).shape[0] == 2 and len(passed_on) == 1


def test_scores_that_are_no_numbers_are_an_error(asked: Any) -> None:
    model, inputs, _ = asked
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(BrokenWeights):
        model.generate(**inputs, generation_config=trls_settings())
