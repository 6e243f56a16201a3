"""Frozen features of texts: the last-token hidden states of a Hugging Face model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from exchange.settings import SettingError
from lab.weights_folder import context_of, resolve_model
from weak_to_strong.divergence import Array


def load_backbone(name: str) -> tuple[Any, Any]:
    """(model without its head, tokenizer) of a folder, a Hub id or lab:WORLD/ROLE. Raises SettingError where it cannot be loaded."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = resolve_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    except Exception as error:  # tokenizers and safetensors raise plain Exceptions of their own for a damaged file
        raise SettingError(f"model={name!r}: cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def last_token_states(
    model: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 32, advance: Callable[[int], None] = lambda _: None
) -> Array:
    """(N, D) hidden states of the last layer at each text's last token; texts longer than the context keep their end.

    `advance` is told the rows done. Raises SettingError for a text without a token.
    """
    import torch

    limit = context_of(model.config, tokenizer)
    ids = [tokenizer(text)["input_ids"][-limit:] for text in texts]
    if empty := [i for i, row in enumerate(ids) if not row]:
        raise SettingError(f"text of row {empty[0]}: is empty, so it has no last token")
    states = np.empty((len(ids), model.config.hidden_size))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = max(len(ids[i]) for i in batch)
            tokens = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros(len(batch), width, dtype=torch.long)
            for row, i in enumerate(batch):
                tokens[row, : len(ids[i])], mask[row, : len(ids[i])] = torch.tensor(ids[i]), 1
            hidden = model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device)).last_hidden_state
            last = hidden[torch.arange(len(batch)), mask.sum(1) - 1]
            states[batch] = last.double().cpu().numpy()
            advance(len(batch))
    return states
