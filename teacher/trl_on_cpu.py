"""What TRL's trainers leave undone on a CPU."""

from __future__ import annotations

from types import MethodType
from typing import Any

from student_clients.embedded_decoding import decode, drawn_rows
from teacher.policy import refuse_broken

NEUTRAL = {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "disable_compile": True}
"""Settings of TRL's that change nothing, at these values."""
UNUSED = ("bos_token_id", "transformers_version")


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
    model.generate = MethodType(_generate, model)


def _generate(self: Any, *args: Any, generation_config: Any = None, **inputs: Any) -> Any:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    asked = _plain(generation_config)
    if args or set(inputs) != {"input_ids", "attention_mask"} or inputs["input_ids"].device.type != "cpu" or asked is None:
        return type(self).generate(self, *args, generation_config=generation_config, **inputs)
    most, temperature, ends, padding = asked
    prompts = [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)]
    rows = drawn_rows(prompts, most, temperature)
    decode(self, rows, frozenset(ends), lambda: True, adjust=refuse_broken, learns=True)
    new_BT = pad_sequence([torch.tensor(row.new_ids) for row in rows], batch_first=True, padding_value=padding)
    return torch.cat([inputs["input_ids"], new_BT], dim=1)


def _plain(generation_config: Any) -> tuple[int, float, list[int], int] | None:
    """(new tokens at most, temperature, end tokens, padding) where the settings ask for nothing but these, and are as TRL writes them."""
    if generation_config is None:
        return None
    settings = generation_config.to_diff_dict().items()
    asked = {name: value for name, value in settings if name not in UNUSED and value != NEUTRAL.get(name)}
    match asked:
        case {
            "do_sample": True,
            "max_new_tokens": int(most),
            "temperature": float() | int() as temperature,
            "eos_token_id": list(ends),
            "pad_token_id": int(padding),
            **others,
        } if not others and temperature > 0:
            return most, temperature, ends, padding
    return None
