"""Misfit of a language model in training: how far it departs from the weak model's texts, before the first step and as it goes.

For texts that were drawn from the weak model, the mean of -log p_student over their tokens is the cross-entropy of the weak model's
distribution against the student's: forward-KL misfit plus the weak model's own entropy, which does not change in training. It needs no
gold. It is not a gain: a language model's class is not convex, and the labels are sampled. What it shows is whether the student still
departs from its teacher (it can be better) or has come to repeat it (it cannot).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


def text_misfit(model: Any, tokenizer: Any, rows: Sequence[Row], *, batch_size: int = 16) -> float:
    """Mean nats a token of the weak completions {"prompt": str, "completion": str} under the model, end token included.

    Raises ValueError where no row has a completion.
    """
    import torch

    end = [tokenizer.eos_token_id]
    pairs = [
        (
            tokenizer(row["prompt"], add_special_tokens=False)["input_ids"],
            tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + end,
        )
        for row in rows
    ]
    if not pairs:
        raise ValueError("no weak completions to measure misfit on")
    pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    total, tokens = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            width = max(len(prompt) + len(text) for prompt, text in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            labels = torch.full((len(batch), width), -100)
            mask = torch.zeros(len(batch), width, dtype=torch.long)
            for i, (prompt, text) in enumerate(batch):
                length = len(prompt) + len(text)
                ids[i, :length] = torch.tensor(prompt + text)
                labels[i, len(prompt) : length] = torch.tensor(text)
                mask[i, :length] = 1
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1]
            total += float(
                torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten().to(logits.device), reduction="sum")
            )
            tokens += int((labels[:, 1:] != -100).sum())
    model.train(was_training)
    return total / tokens


def misfit_callback(measure: Callable[[Any], float], record: Callable[[int, float], None], *, every: int) -> Any:
    """A TrainerCallback that calls `measure(model)` before the first step, after every `every` steps and after the last, and hands
    (step, misfit) to `record`. `measure` may be `text_misfit` bound to its rows, or a loss of `weak_to_strong.divergence` on the outputs
    of a classifier."""
    from transformers import TrainerCallback

    class MisfitCallback(TrainerCallback):
        def __init__(self) -> None:
            self.last = -1

        def _measure(self, step: int, model: Any) -> None:
            if step != self.last:
                self.last = step
                record(step, measure(model))

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self._measure(state.global_step, model)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step % every == 0:
                self._measure(state.global_step, model)

        def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self._measure(state.global_step, model)

    return MisfitCallback()
