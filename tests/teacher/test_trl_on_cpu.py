"""The private name of TRL by which its head scores the labelled tokens alone, and that nothing else changes by it."""

from typing import Any

import pytest
import torch

from teacher.policy import load_model
from teacher.trl_on_cpu import score_labelled_tokens_alone


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
