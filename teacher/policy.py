"""A causal language model as instruction policy.

Generation is plain batches in worker threads: on CPU they are several times faster than transformers' continuous batching.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from exchange.command import RunError
from exchange.records import Instruction, PublicExample
from exchange.settings import SettingError
from lab.weights_folder import context_of, one_at_a_time, resolve_model
from student_clients.embedded_decoding import Row, decode, drawn_rows, why_not
from teacher.prompt import TeacherPrompt

Fitting = TypeVar("Fitting", bound=PublicExample)
Found = TypeVar("Found")


@one_at_a_time
def load_model(name: str, *, called: str = "teacher model") -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face folder or Hub id, on the GPU where there is one; left padding.

    Of its generation config the token ids alone are kept: what else a model ships (repetition penalty, top-p, a trained teacher's bias)
    fills what callers of `generate` leave open, and would bend what is sampled in training.

    The weights are float32 also on a GPU: at a learning rate of 1e-6 an update is smaller than bfloat16 can hold, so TRL's autocast does
    the mixed precision. Raises SettingError, in which the model is `called` so, where it cannot be loaded or its tokenizer has no chat
    template.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for a model of one file says nothing
    tokenizer = load_tokenizer(name, called=called)
    try:
        model = AutoModelForCausalLM.from_pretrained(resolve_model(name), dtype=torch.float32)
    except Exception as error:  # safetensors raises plain Exceptions of its own for a damaged file
        raise _not_loaded(name, called, error) from None
    if (reason := why_not(model)) is not None:
        raise SettingError(f"{called} {name!r} cannot write here: {reason}; take a model of another kind")
    shipped = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=shipped.bos_token_id, eos_token_id=shipped.eos_token_id, pad_token_id=shipped.pad_token_id
    )
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


@one_at_a_time
def load_tokenizer(name: str, *, called: str) -> Any:
    """The tokenizer of `load_model`, without reading weights. Raises SettingError as that does."""
    from transformers import AutoTokenizer

    path = resolve_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    except Exception as error:  # tokenizers raises plain Exceptions of its own
        raise _not_loaded(name, called, error) from None
    if tokenizer.chat_template is None:
        raise SettingError(f"{called} {name!r}: its tokenizer has no chat template; use an instruct model or add one")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _not_loaded(name: str, called: str, error: Exception) -> SettingError:
    path = name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir()  # transformers takes it for a malformed Hub id
    reason = "there is no such folder" if path else str(error).strip().splitlines()[0]
    return SettingError(f"{called} {name!r} cannot be loaded: {reason}")


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a text: the model's own list, as TRL uses it in training, and the tokenizer's."""
    listed = model.generation_config.eos_token_id
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def with_room(examples: Sequence[Fitting], name: str, prompt: TeacherPrompt, *, max_instruction_tokens: int, needed: int) -> list[Fitting]:
    """Those whose prompt leaves room for an instruction in the context of the model `name`: the others could never be taught.

    Raises SettingError where fewer than `needed` are left.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = resolve_model(name)
    tokenizer = AutoTokenizer.from_pretrained(path)
    context = context_of(AutoConfig.from_pretrained(path), tokenizer)
    turns = [[message.model_dump() for message in prompt.messages(example)] for example in examples]
    texts = [tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) for turn in turns]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
    kept = [example for example, length in zip(examples, lengths, strict=True) if length + max_instruction_tokens <= context]
    if len(kept) < needed:
        raise SettingError(
            f"teacher.model={name!r}: the prompts of {len(examples) - len(kept)} of {len(examples)} questions leave no room for "
            f"{max_instruction_tokens} tokens of instruction in its context of {context} (the longest takes {max(lengths, default=0)}), "
            f"and a batch needs {needed}; take a teacher with a longer context, a shorter teacher.template or questions, or lower "
            "teacher.max_instruction_tokens"
        )
    return kept


class TransformersPolicy:
    """Writes instructions with a causal LM. Greedy at temperature 0."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: TeacherPrompt,
        *,
        max_instruction_tokens: int,
        temperature: float = 0.0,
        silence_bias: float = 0.0,
        batch_size: int = 128,
        sha256: str | None = None,
        threads: int = 1,
    ) -> None:
        """`silence_bias`: added to the logits of end tokens. `threads`: calls that are worked on at the same time; each takes `batch_size`
        rows of memory."""
        self.model = model
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_instruction_tokens = max_instruction_tokens
        self.temperature = temperature
        self.silence_bias = silence_bias
        self.batch_size = batch_size
        self.sha256 = sha256
        self._threads = threads
        self._worker = ThreadPoolExecutor(threads, thread_name_prefix="teacher")

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        """One instruction an example. A query that leaves no room for one in the model's context gets none (source
        "passthrough"), and so does one without a draft where the prompt shows one. Raises BrokenWeights.

        Who cancels it stops the writing within a token, and is not held up where the model hangs: the next call has new threads.
        """
        given_up = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._instruct, list(examples), given_up)
        except asyncio.CancelledError:
            given_up.set()
            self._worker.shutdown(wait=False)
            self._worker = ThreadPoolExecutor(self._threads, thread_name_prefix="teacher")
            raise

    def silence_margins(self, examples: Sequence[PublicExample]) -> list[float | None]:
        """By how much the best end token leads all other tokens at an instruction's first, in logits and without the bias; negative where
        the teacher speaks, None where its context leaves no room. Blocks. Raises BrokenWeights."""
        return self._in_batches(examples, self._margins)

    def _instruct(self, examples: Sequence[PublicExample], given_up: threading.Event) -> list[Instruction]:
        written = self._in_batches(examples, lambda prompts: self._written(prompts, given_up))
        return [found or Instruction(text="", source="passthrough", teacher_sha256=self.sha256) for found in written]

    def _in_batches(self, examples: Sequence[PublicExample], of: Callable[[list[list[int]]], list[Found]]) -> list[Found | None]:
        """What `of` finds for each prompt; None for a query that leaves no room in the model's context or lacks its draft."""
        prompts = [
            self.tokenizer.apply_chat_template(
                [message.model_dump() for message in self.prompt.messages(example)], add_generation_prompt=True, tokenize=False
            )
            for example in examples
        ]
        found: list[Found | None] = [None] * len(prompts)
        ids = self.tokenizer(prompts, add_special_tokens=False)["input_ids"] if prompts else []
        room = context_of(self.model.config, self.tokenizer) - self.max_instruction_tokens
        # Longest first: rows of like length share a batch, and a batch that does not fit in memory fails at once.
        answered = [i for i in range(len(prompts)) if len(ids[i]) <= room and (examples[i].draft is not None or not self.prompt.drafts)]
        order = sorted(answered, key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for row, one in zip(rows, of([ids[i] for i in rows]), strict=True):
                found[row] = one
        return found

    def _written(self, prompts: list[list[int]], given_up: threading.Event) -> list[Instruction]:
        ends = end_ids(self.model, self.tokenizer)
        listed = sorted(ends)

        def biased(logits_BV: Any) -> None:
            refuse_broken(logits_BV)
            if self.silence_bias:
                logits_BV[:, listed] += self.silence_bias

        rows = drawn_rows(prompts, self.max_instruction_tokens, self.temperature)
        self._decode(rows, ends, biased, lambda: not given_up.is_set())
        if given_up.is_set():
            raise GivenUpError
        return [as_instruction(row.new_ids, self.tokenizer, ends, sha256=self.sha256) for row in rows]

    def _margins(self, prompts: list[list[int]]) -> list[float]:
        ends = end_ids(self.model, self.tokenizer)
        listed, margins = sorted(ends), list[float]()

        def look(logits_BV: Any) -> None:
            refuse_broken(logits_BV)
            ending = logits_BV[:, listed].amax(dim=1)
            logits_BV[:, listed] = -float("inf")
            margins.extend((ending - logits_BV.amax(dim=1)).tolist())

        self._decode(drawn_rows(prompts, 1, 0.0), ends, look, lambda: True)
        return margins

    def _decode(self, rows: list[Row], ends: frozenset[int], adjust: Callable[[Any], None], go_on: Callable[[], bool]) -> None:
        was_training = self.model.training
        self.model.eval()
        try:
            decode(self.model, rows, ends, go_on, adjust=adjust)
        finally:
            self.model.train(was_training)


class GivenUpError(Exception):
    """Nobody waits for this text any more."""


class BrokenWeights(RunError):
    """A teacher that computes no numbers."""


def refuse_broken(logits_BV: Any) -> None:
    """Raises BrokenWeights where scores are no numbers: the choice among them is the same token over and over, which reads as a text or as
    silence and not as a failure."""
    if not logits_BV.amax(dim=-1).isfinite().all():
        raise BrokenWeights("the teacher's scores are not finite, so its weights are broken: name another teacher, or train it anew")


def as_instruction(ids: list[int], tokenizer: Any, ends: frozenset[int], *, sha256: str | None = None) -> Instruction:
    """Generated token ids as an Instruction: cut at the first of the end tokens, thinking left to the guard; empty text is silence."""
    end = next((i for i, token in enumerate(ids) if token in ends), None)
    kept, ended = ids[:end], end is not None
    text = tokenizer.decode(kept, skip_special_tokens=True).strip()
    return Instruction(text=text, source="teacher" if text else "silence", teacher_sha256=sha256, num_tokens=len(kept), truncated=not ended)
