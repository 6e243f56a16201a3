"""A reward model in this process: any Hugging Face sequence-classification model with one label, its logit the reward.

It reads the conversation as the app would send it and the answer, never the instruction: an answer is not better for having been advised.
Requests that arrive together are scored as batches of like length on one thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from exchange.records import Message
from exchange.settings import SettingError
from lab.weights_folder import resolve_model
from student_clients.micro_batcher import MicroBatcher

MAX_BATCH_TOKENS = 32_768
"""Tokens of a batch at most, padding included."""
_LOADING = threading.Lock()
"""Two judges load on a thread each, and transformers' lazy imports fail where two threads make them at once."""


class Judged(NamedTuple):
    """A conversation and its answer."""

    messages: tuple[Message, ...]
    answer: str


def conversation_ids(tokenizer: Any, messages: Sequence[Message], answer: str, max_tokens: int) -> list[int]:
    """The token ids of a conversation with its answer: by the chat template where the tokenizer has one, else as HH-RLHF writes dialogues.
    What is too long loses its beginning: the answer is what is judged."""
    if tokenizer.chat_template is not None:
        turns = [message.model_dump() for message in (*messages, Message(role="assistant", content=answer))]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    else:
        named = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
        text = "".join(f"\n\n{named[message.role]}{message.content}" for message in messages)
        text += f"\n\nAssistant: {answer}{tokenizer.eos_token or ''}"
    ids: list[int] = tokenizer(text, add_special_tokens=tokenizer.chat_template is None)["input_ids"]
    return ids[-max_tokens:]


def load_reward_model(name: str) -> tuple[Any, Any]:
    """(model, tokenizer), on the GPU where there is one. Raises SettingError where `name` is no reward model or cannot be loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = resolve_model(name)
    try:
        config = AutoConfig.from_pretrained(path)
        is_classifier = any("SequenceClassification" in architecture for architecture in config.architectures or ())
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32) if is_classifier else None
    except Exception as error:  # tokenizers and safetensors raise plain Exceptions of their own for a damaged file
        raise SettingError(f"reward model {name!r} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    if model is None:
        raise SettingError(f"reward model {name!r} has no classification head; train one with `python -m rewards.train_preference`")
    if config.num_labels != 1:
        raise SettingError(f"reward model {name!r} has {config.num_labels} labels; a reward model has one, whose logit is the reward")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


class RewardModel:
    """Scores answers with a model loaded at the first call."""

    def __init__(self, name: str, *, batch_size: int, max_tokens: int) -> None:
        self.name = name
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self._loaded: tuple[Any, Any] | None = None
        self._batcher: MicroBatcher[Judged, float] = MicroBatcher(self._run, thread_name="reward-model")

    async def score(self, messages: Sequence[Message], answer: str) -> float:
        """The reward of one answer, a logit."""
        judged = Judged(tuple(messages), answer)
        reward, _ = await asyncio.wrap_future(self._batcher.submit(judged, judged))
        return reward

    async def check(self) -> None:
        """Load the model. Raises SettingError."""
        await self._batcher.call(self._load)

    async def aclose(self) -> None:
        await self._batcher.aclose()

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch

            # Of this thread and of those that begin later; a second one spins where another process wants the core.
            torch.set_num_threads(1)
            with _LOADING:
                self._loaded = load_reward_model(self.name)
        return self._loaded

    def _run(self, items: Sequence[Judged], wanted: Callable[[], bool]) -> Iterator[tuple[int, float | Exception]]:
        model, tokenizer = self._load()
        ids = [conversation_ids(tokenizer, item.messages, item.answer, self.max_tokens) for item in items]
        for batch in batches([len(row) for row in ids], self.batch_size):
            yield from zip(batch, rewards_of(model, tokenizer, [ids[i] for i in batch]), strict=True)


def batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of like length, at most `batch_size` and MAX_BATCH_TOKENS each."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[i] > MAX_BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def rewards_of(model: Any, tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[float]:
    """The logits of one batch of token ids, padded on the right."""
    import torch

    width = max(len(row) for row in ids)
    input_BT = torch.full((len(ids), width), tokenizer.pad_token_id)
    mask_BT = torch.zeros(len(ids), width, dtype=torch.long)
    for i, row in enumerate(ids):
        input_BT[i, : len(row)] = torch.tensor(row)
        mask_BT[i, : len(row)] = 1
    with torch.inference_mode():
        logits = model(input_ids=input_BT.to(model.device), attention_mask=mask_BT.to(model.device)).logits
    return [float(value) for value in logits[:, 0].float().cpu()]
