"""What TRL's trainers leave undone on a CPU."""

from __future__ import annotations

import random
from typing import Any

from student_clients.embedded_decoding import Row, decode
from teacher.policy import refuse_broken

NEUTRAL = {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "disable_compile": True}
"""Settings of TRL's that change nothing."""
FOLLOWED = {"max_new_tokens", "do_sample", "temperature", "eos_token_id", "bos_token_id", "pad_token_id", "transformers_version"}


def score_labelled_tokens_alone() -> None:
    """Let TRL's language-model head leave out the prompt and the padding on a CPU too, as it does on a GPU: scored and masked away again,
    they take half of the time of a step. The losses stay the same but for rounding. Call it before a trainer is made; a second time it
    does nothing.
    """
    from trl.trainer import utils

    theirs = utils._use_triton
    if theirs.__module__ == __name__:
        return

    def compact(device: Any) -> bool:
        return bool(device.type == "cpu" or theirs(device))

    utils._use_triton = compact


def drop_finished_rows(model: Any) -> None:
    """Let `model.generate` compute on a CPU only rows that have not ended, where it draws at a temperature and nothing else is asked of
    it: a step's longest instruction is twice as long as the mean. The draws come from torch's generator, as its own do.

    Raises BrokenWeights where the scores are not finite.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    theirs = model.generate

    def generate(*args: Any, generation_config: Any = None, **inputs: Any) -> Any:
        settings = generation_config.to_diff_dict() if generation_config is not None else {}
        asked = {name: value for name, value in settings.items() if value != NEUTRAL.get(name)}
        plain = asked.get("do_sample") and not set(asked) - FOLLOWED
        if args or set(inputs) != {"input_ids", "attention_mask"} or not plain or model.device.type != "cpu":
            return theirs(*args, generation_config=generation_config, **inputs)
        ids_BT, mask_BT = inputs["input_ids"], inputs["attention_mask"].bool()
        seeds = torch.randint(2**62, (len(ids_BT),)).tolist()
        rows = [
            Row(ids[mask].tolist(), asked["max_new_tokens"], asked.get("temperature", 1.0), random.Random(seed))
            for ids, mask, seed in zip(ids_BT, mask_BT, seeds, strict=True)
        ]
        decode(model, rows, frozenset(asked["eos_token_id"]), lambda: True, adjust=refuse_broken)
        new_BT = pad_sequence([torch.tensor(row.new_ids) for row in rows], batch_first=True, padding_value=asked["pad_token_id"])
        return torch.cat([ids_BT, new_BT], dim=1)

    model.generate = generate
