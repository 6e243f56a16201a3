"""Misfit of a language model in training: how far it departs from the weak model's texts, before the first step and as it goes.

For texts that were drawn from the weak model, the mean of -log p_student over their tokens is the cross-entropy of the weak model's
distribution against the student's: forward-KL misfit plus the weak model's own entropy, which does not change in training. It needs no
gold. It is not a gain: a language model's class is not convex, and the labels are sampled. What it shows is whether the student still
departs from its teacher (it can be better) or has come to repeat it (it cannot).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lab.weights_folder import resolve_model
from teacher.run_directory import RunDirectory

Row = dict[str, Any]
EVERY, ROWS = 50, 100
"""Steps between two measurements in a training, and weak texts that each is taken on."""
TOKENS_A_BATCH = 4096
"""Padded; their logits are what a measurement needs of memory."""


def text_misfit(model: Any, tokenizer: Any, rows: Sequence[Row]) -> float:
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
    batches: list[list[tuple[list[int], list[int]]]] = [[]]
    for pair in pairs:
        if batches[-1] and (len(batches[-1]) + 1) * (len(pair[0]) + len(pair[1])) > TOKENS_A_BATCH:
            batches.append([])
        batches[-1].append(pair)
    total, tokens = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in batches:
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
            if state.global_step == 0:  # a training that is gone on with has been measured before
                self._measure(0, model)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step % every == 0:
                self._measure(state.global_step, model)

        def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self._measure(state.global_step, model)

    return MisfitCallback()


class Followed:
    """Misfit of one training against the weak model's texts, kept in the run's misfit_NAME.jsonl: a training that is broken off and gone on
    with has one curve. `rows` as of `fine_tuning.rows_of`, of which the first ROWS are taken; `callback` is the trainer's."""

    def __init__(self, directory: RunDirectory, name: str, model: str, rows: Sequence[Row]) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(resolve_model(model))
        texts = [
            {
                "prompt": tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False),
                "completion": row["completion"][0]["content"],
            }
            for row in rows[:ROWS]
        ]
        self._directory, self._file = directory, f"misfit_{name}.jsonl"
        self.callback = misfit_callback(lambda trained: text_misfit(trained, tokenizer, texts), self._record, every=EVERY)

    def _record(self, step: int, misfit: float) -> None:
        self._directory.append(self._file, {"step": step, "misfit": round(misfit, 4)})

    def steps(self) -> list[tuple[int, float]]:
        """(step, nats a token), before the first step and after the last among them."""
        return sorted({line["step"]: line["misfit"] for line in self._directory.lines(self._file)}.items())


def before_and_after(tuned: dict[str, Any]) -> str:
    """Of a fine-tuning's facts, for a table."""
    steps = tuned["misfit"]
    return f"{steps[0][1]:.2f} → {steps[-1][1]:.2f}"
