"""What a lab model of a family and size is, and what trains it, with torch and transformers alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lab.tokenizer import CONTEXT

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

FAMILIES = ("llama", "qwen3", "gpt_neox", "mamba")


def shape_of(size: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """The config of a model of that size and family; heads of 64. Raises KeyError for a family that is none of FAMILIES."""
    from transformers import GPTNeoXConfig, LlamaConfig, MambaConfig, Qwen3Config

    hidden, layers, mlp = int(size["hidden"]), int(size["layers"]), int(size["mlp"])
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": hidden, "num_hidden_layers": layers, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    heads: dict[str, Any] = {
        "num_attention_heads": hidden // 64, "intermediate_size": mlp, "max_position_embeddings": CONTEXT, "initializer_range": 0.04,
    }  # fmt: skip
    gated: dict[str, Any] = {**heads, "num_key_value_heads": hidden // 64, "head_dim": 64}
    made: dict[str, Callable[[], PreTrainedConfig]] = {
        "llama": lambda: LlamaConfig(**common, **gated),
        "qwen3": lambda: Qwen3Config(**common, **gated),
        # Two matrices a layer in place of three, half as wide again.
        "gpt_neox": lambda: GPTNeoXConfig(**common, **{**heads, "intermediate_size": mlp * 3 // 2}),
        # Numbers no positions; a layer has no MLP beside it, so that of three there are four.
        "mamba": lambda: MambaConfig(**{**common, "num_hidden_layers": layers + 1}, state_size=16, expand=2),
    }
    return made[str(size.get("family", "llama"))]()


def optimizers_of(model: Any, lr: float, *, teacher: bool) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024) for the matrices inside a student's layers, AdamW for the rest. The teacher is AdamW's alone: the large weights
    that Muon leaves hardly move under the small steps of the fine-tuning that comes after."""
    import torch

    inside = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name and "A_log" not in name]
    muon = [] if teacher else inside
    others = [p for p in model.parameters() if not any(p is m for m in muon)]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
    if muon:
        made.append(torch.optim.Muon(muon, lr=10 * lr, momentum=0.95, weight_decay=0.01))
    return made


def padded_batches(rows: Sequence[tuple[list[int], int]], tokens: int, rng: random.Random) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Documents (ids, the place from which on they are learnt) as batches (ids_BT, learnt_BT) of about so many tokens, those of like length
    together and the batches in random order; learnt_BT is a mask."""
    import torch

    groups: list[list[tuple[list[int], int]]] = [[]]
    for row in sorted(rows, key=lambda row: len(row[0])):
        if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > tokens:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    made = []
    for group in groups:
        width = max(len(ids) for ids, _ in group)
        ids_BT = torch.zeros(len(group), width, dtype=torch.long)
        learnt_BT = torch.zeros(len(group), width, dtype=torch.bool)
        for i, (ids, learnt_from) in enumerate(group):
            ids_BT[i, : len(ids)] = torch.tensor(ids)
            learnt_BT[i, learnt_from : len(ids)] = True
        made.append((ids_BT, learnt_BT))
    return made


def learn(model: Any, optimizers: Sequence[torch.optim.Optimizer], ids_BT: torch.Tensor, learnt_BT: torch.Tensor) -> torch.Tensor:
    """One step on the tokens that `learnt_BT` names, logits for those alone, in bfloat16; gives the mean cross-entropy in nats."""
    import torch

    learnt = learnt_BT[:, 1:]
    with torch.autocast(ids_BT.device.type, dtype=torch.bfloat16):
        hidden_BTD = model.base_model(input_ids=ids_BT).last_hidden_state
        logits = model.get_output_embeddings()(hidden_BTD[:, :-1][learnt])
    loss = torch.nn.functional.cross_entropy(logits.float(), ids_BT[:, 1:][learnt])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.detach()
