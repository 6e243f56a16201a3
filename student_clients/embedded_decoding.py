"""The decoding loop of models in this process, the embedded student and teachers: left-padded batches whose finished rows are dropped.

Transformers' `generate` keeps every row until the last one ends and runs its processors at every token; this loop takes two thirds of its
time on the lab's student (256 prompts of 68 tokens, 20 new ones each, batches of 64, one thread of a contended EPYC: 0.9-1.0 s of CPU
against 1.4-1.5 s, 2026-11-20, before its cache had room to grow) and half of it on a trained lab teacher (1,024 prompts, 13 new tokens in
the mean and 40 at most, batches of 128: 1.8 s against 3.7 to 4.1). What is left is matrix products and attention: prefilling in smaller
batches than decoding gained 3 %, bfloat16 weights 5 %; neither was worth its lines.

Greedy and plain temperature sampling only: a model's own `generation_config` (repetition penalty, top-p, top-k) is not applied.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KEEP_SHARE = 0.75
"""Finished rows are dropped once at most this share is left: dropping copies the cache, so not at every end. 0.5 to 0.95 were tried."""
ROOM = 32
"""Tokens that a cache grows by."""


@dataclass
class Row:
    """One sequence to continue. `new_ids` and `finish_reason` are what comes of it."""

    prompt_ids: list[int]
    max_new_tokens: int
    temperature: float
    rng: random.Random
    """Where the row's draws come from: its own, so that a seeded answer does not depend on what else is in the batch."""
    new_ids: list[int] = field(default_factory=list)
    """What was generated, an end token included."""
    finish_reason: str | None = None

    def take(self, token: int, end_ids: frozenset[int]) -> None:
        if self.finish_reason is None:
            self.new_ids.append(token)
            if token in end_ids:
                self.finish_reason = "stop"
            elif len(self.new_ids) == self.max_new_tokens:
                self.finish_reason = "length"


def drawn_rows(prompts: Sequence[list[int]], most: int, temperature: float) -> list[Row]:
    """Rows to go on from the prompts' ids by `most` tokens at most. Their draws come from torch's generator, which a run seeds, saves and
    restores; greedy ones leave it as it is."""
    import torch

    seeds = torch.randint(2**62, (len(prompts),)).tolist() if temperature > 0 else [0] * len(prompts)
    return [Row(ids, most, temperature, random.Random(seed)) for ids, seed in zip(prompts, seeds, strict=True)]


def why_not(model: Any) -> str | None:
    """Why `decode` cannot compute a model, whose state it would not carry on from token to token or lose with a row; None = it can."""
    kind = model.config.model_type
    known = any(name in _accepted(model) for name in ("cache_params", "past_key_values"))
    if known and kind != "recurrent_gemma" and getattr(model, "_supports_default_dynamic_cache", lambda: True)():
        return None
    return f"its kind of model ({kind}) keeps a state of its own between tokens"


def _accepted(model: Any) -> Mapping[str, inspect.Parameter]:
    """What the model's forward takes; an adapter's hides it."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inspect.signature(whole.forward).parameters


def decode(
    model: Any,
    rows: Sequence[Row],
    end_ids: frozenset[int],
    go_on: Callable[[], bool],
    *,
    adjust: Callable[[Any], None] | None = None,
    learns: bool = False,
) -> None:
    """Fill every row's `new_ids` and `finish_reason`, as one batch. `go_on()` is asked at every token; False leaves the rest undone.
    `adjust` may change the logits (rows that go on x vocabulary, float32) of a token before it is chosen; the first are those of all
    rows. `learns`: the model is in training, where tensors of inference mode that stay in its buffers would end it."""
    import torch

    accepted = _accepted(model)
    # State-space models call it so, and swallow a key-value cache in **kwargs: every token would then be computed without those before.
    state = "cache_params" if "cache_params" in accepted else "past_key_values"
    with torch.no_grad() if learns else torch.inference_mode():
        cache = _cache(model.config)
        input_BT, mask_BT = (part.to(model.device) for part in _left_padded(rows))
        position_BT = (mask_BT.cumsum(-1) - 1).clamp_(min=0)
        live = list(rows)
        while True:
            # Not every model numbers positions or can leave out the logits of the prompt.
            optional = {"position_ids": position_BT, "logits_to_keep": 1}
            wanted = {name: value for name, value in optional.items() if name in accepted}
            # A state holds no padding once the prompt is read; there the mask is of the tokens that come, not of those before.
            mask = None if state == "cache_params" and input_BT.shape[1] == 1 < mask_BT.shape[1] else mask_BT
            output = model(input_ids=input_BT, attention_mask=mask, **{state: cache}, use_cache=True, **wanted)
            logits_BV = output.logits[:, -1].float()
            if adjust is not None:
                adjust(logits_BV)
            next_B = _next_tokens(logits_BV, live)
            for row, token in zip(live, next_B.tolist(), strict=True):
                row.take(token, end_ids)
            unfinished = [i for i, row in enumerate(live) if row.finish_reason is None]
            if not unfinished or not go_on():
                return
            last_B = position_BT[:, -1]
            if len(unfinished) <= KEEP_SHARE * len(live):
                keep = torch.tensor(unfinished, device=model.device)
                cache.reorder_cache(keep)
                mask_BT, next_B, last_B = mask_BT[keep], next_B[keep], last_B[keep]
                live = [live[i] for i in unfinished]
            input_BT, position_BT = next_B[:, None], last_B[:, None] + 1
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(live), 1)], dim=1)


def _cache(config: Any) -> Any:
    """The model's own kind of cache, its layers of full attention with room to grow."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=config)
    cache.layers = [_with_room()() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@functools.cache
def _with_room() -> Any:
    """A DynamicLayer that copies what it holds once in ROOM tokens, not at each: a seventh of the loop's time on the lab's student."""
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):
        keys: torch.Tensor
        values: torch.Tensor
        room: tuple[torch.Tensor, torch.Tensor] | None = None

        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            held = self.get_seq_length()
            length = held + key_states.shape[-2]
            if self.room is None or self.room[0].shape[-2] < length or self.room[0].shape[0] != key_states.shape[0]:
                rooms = [new.new_empty(*new.shape[:2], length + ROOM, new.shape[-1]) for new in (key_states, value_states)]
                for room, old in zip(rooms, (self.keys, self.values), strict=True):
                    if held:
                        room[..., :held, :] = old
                self.room = rooms[0], rooms[1]
            for room, new in zip(self.room, (key_states, value_states), strict=True):
                room[..., held:length, :] = new
            self.keys = self.room[0][..., :length, :]
            self.values = self.room[1][..., :length, :]
            return self.keys, self.values

        def reorder_cache(self, beam_idx: torch.Tensor) -> None:
            super().reorder_cache(beam_idx)
            self.room = None

    return Layer


def _left_padded(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BT, mask_BT); padding is token 0, which the mask hides."""
    import torch

    width = max(len(row.prompt_ids) for row in rows)
    ids = [[0] * (width - len(row.prompt_ids)) + row.prompt_ids for row in rows]
    mask = [[0] * (width - len(row.prompt_ids)) + [1] * len(row.prompt_ids) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def _next_tokens(logits_BV: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """The most likely token of each row, or a drawn one where the row has a temperature."""
    import torch

    next_B = logits_BV.argmax(-1)
    drawn = [i for i, row in enumerate(rows) if row.temperature > 0]
    if drawn:
        temperature_D1 = torch.tensor([[rows[i].temperature] for i in drawn], dtype=torch.float64, device=logits_BV.device)
        cumulative_DV = (logits_BV[drawn].double() / temperature_D1).softmax(-1).cumsum(-1)
        uniform_D1 = torch.tensor([[rows[i].rng.random()] for i in drawn], dtype=torch.float64, device=logits_BV.device)
        token_D1 = torch.searchsorted(cumulative_DV, uniform_D1 * cumulative_DV[:, -1:], right=True)
        next_B[drawn] = token_D1[:, 0].clamp_(max=logits_BV.shape[-1] - 1)
    return next_B
