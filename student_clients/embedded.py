"""The embedded student: any local Hugging Face causal LM in this process, on the CPU. The default student, so that a first run needs no
server, no key and no network.

Requests that arrive together are answered as batches of like length (`micro_batcher`, `embedded_decoding`), as many at a time as there are
cores; equal greedy requests in flight are computed once. The client belongs to no event loop: TRL calls async rewards on a loop of its own
thread, evaluation runs on `asyncio.run`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange.protocols import SamplingParams
from exchange.records import Completion, Message
from lab.weights_folder import context_of, one_at_a_time
from student_clients.embedded_decoding import Row, decode, why_not
from student_clients.errors import StudentBadRequest, StudentUnknownModel, StudentUnreachable
from student_clients.ledger import Ledger
from student_clients.micro_batcher import ClosedError, MicroBatcher

MAX_BATCH_TOKENS = 32_768
"""Prompt tokens of all batches computed at the same time, padding included: bounds the memory of activations (0.6 GB for the widest
layer of a 0.5B model)."""
MOST_THREADS = 8
"""More hardly gain while Python's lock is taken between two operations of a small model."""
WORTH_A_CORE = 32
"""Sequences that a batch keeps at least when many are parted among cores: on the lab's student a batch of 32 costs a third more CPU time a
sequence than one of 64 or 128, smaller ones more."""


@dataclass(frozen=True)
class _Request:
    messages: tuple[Message, ...]
    params: SamplingParams
    sample_index: int

    def key(self) -> tuple[tuple[Message, ...], int] | None:
        """What a greedy answer depends on; None for a sampled one, which is never shared."""
        return None if self.params.temperature else (self.messages, self.params.max_tokens)


@dataclass(frozen=True)
class _Loaded:
    model: Any
    tokenizer: Any
    end_ids: frozenset[int]
    context: int
    threads: int
    cores: ThreadPoolExecutor


class EmbeddedStudent:
    """`model` is a folder or a Hub id of a model with a chat template; it is loaded on first use, in float32.

    Greedy at temperature 0. A seed makes sampled answers repeatable, whatever else is in the batch. `max_tokens` is cut to what the
    context leaves; a prompt that fills the context raises StudentBadRequest, the others of its batch are answered. `completion_tokens`
    counts the end token.
    """

    def __init__(self, model: str | Path, *, name: str | None = None, batch_size: int = 128, threads: int | None = None) -> None:
        """`threads`: batches computed at the same time, each on one core; None = as many as there are cores, MOST_THREADS at most."""
        self.model = str(model)
        self.name = name or self.model
        self.batch_size = batch_size
        self.threads = threads or min(count_cores(), MOST_THREADS)
        self.ledger = Ledger()
        self._loaded: _Loaded | None = None
        self._batcher: MicroBatcher[_Request, Completion] = MicroBatcher(self._answer, thread_name="embedded-student")

    @functools.cached_property
    def identity(self) -> str:
        """A fingerprint of the model: retrained weights under the same name are another student."""
        return f"embedded:{self.name}:{model_fingerprint(self.model)}"

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        started = time.perf_counter()
        requests = [_Request(tuple(messages), params, sample_index + i) for i in range(n)]
        try:
            futures = [self._batcher.submit(request, request.key()) for request in requests]
            answers = await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
        except ClosedError:
            raise StudentUnreachable(f"the embedded student {self.name} was closed; make a new one") from None
        latency_s = time.perf_counter() - started
        return [completion.model_copy(update={"latency_s": latency_s, "cached": shared}) for completion, shared in answers]

    async def check(self) -> None:
        """Load the model. Raises StudentUnknownModel where that is impossible."""
        await self._batcher.call(self._load)

    async def aclose(self) -> None:
        try:
            await self._batcher.aclose()
        finally:
            if self._loaded is not None:
                self._loaded.cores.shutdown(wait=False)

    def _answer(self, requests: Sequence[_Request], wanted: Callable[[], bool]) -> Iterator[tuple[int, Completion | Exception]]:
        """Worker thread: answer many requests, in batches of like length, on the cores' threads."""
        loaded = self._load()
        rows: dict[int, Row] = {}
        for i, request in enumerate(requests):
            try:
                rows[i] = self._row(loaded, request)
            except StudentBadRequest as error:
                yield i, error
        given_up = threading.Event()
        batches = list(_batches(rows, self.batch_size, loaded.threads))
        computing = {
            loaded.cores.submit(
                decode, loaded.model, [rows[i] for i in batch], loaded.end_ids, lambda: wanted() and not given_up.is_set()
            ): batch
            for batch in reversed(batches)  # the longest first: nobody waits for one that began last
        }
        try:
            for computed in as_completed(computing):
                computed.result()
                for i in computing[computed]:
                    yield i, self._completion(loaded, rows[i])
        finally:  # after an error the others would keep the cores from what comes next
            given_up.set()
            for batch in computing:
                batch.cancel()

    def _load(self) -> _Loaded:
        """Worker thread: the model, loaded at the first call."""
        if self._loaded is None:
            self._loaded = self._read()
        return self._loaded

    @one_at_a_time
    def _read(self) -> _Loaded:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        _one_core()  # here too: threads that begin later, a teacher's among them, take over what was set last
        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # it would write into the command's own progress bar
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32).eval()
        except Exception as error:  # tokenizers and safetensors raise plain Exceptions of their own for a damaged file
            reason = str(error).strip().split("\n")[0]
            raise StudentUnknownModel(f"cannot load {self.model}: {reason}; name a folder or a Hub id of a causal language model") from None
        finally:
            if bars:
                transformers_logging.enable_progress_bar()
        if (unfit := why_not(model)) is not None:
            raise StudentUnknownModel(f"cannot answer with {self.model}: {unfit}; serve it, e.g. with vLLM, and name its address")
        if tokenizer.chat_template is None:
            raise StudentUnknownModel(f"{self.model} has no chat template; name an instruct model, or save one with its tokenizer")
        # A model may name several end tokens, e.g. the end of a turn beside the end of a text.
        ends = model.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        end_ids = frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)
        # These write their frequencies into the model at each forward, for one batch at a time.
        alone = any(kind in str(getattr(model.config.get_text_config(), "rope_parameters", "")) for kind in ("longrope", "dynamic"))
        threads = 1 if alone else self.threads
        cores = ThreadPoolExecutor(threads, thread_name_prefix="embedded-student-core", initializer=_one_core)
        return _Loaded(model, tokenizer, end_ids, context_of(model.config, tokenizer), threads, cores)

    def _row(self, loaded: _Loaded, request: _Request) -> Row:
        """The prompt as the model's chat template writes it, and how to go on from it."""
        from jinja2 import TemplateError

        turns = [message.model_dump() for message in request.messages]
        try:
            text = loaded.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise StudentBadRequest(f"the chat template of {self.name} refuses these messages: {error}") from None
        prompt_ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        room = loaded.context - len(prompt_ids)
        if room < 1:
            raise StudentBadRequest(f"a prompt of {len(prompt_ids)} tokens fills the context of {self.name} ({loaded.context}); shorten it")
        params = request.params
        # The prompt is part of the seed: with equal draws for every question an unlucky one would err on all of them together.
        rng = random.Random(None if params.seed is None else f"{params.seed}/{request.sample_index}/{text}")
        return Row(prompt_ids, min(params.max_tokens, room), params.temperature or 0.0, rng)

    def _completion(self, loaded: _Loaded, row: Row) -> Completion:
        if row.finish_reason is None:
            raise ClosedError
        self.ledger.add(calls=1, prompt_tokens=len(row.prompt_ids), completion_tokens=len(row.new_ids))
        return Completion(
            text=loaded.tokenizer.decode([token for token in row.new_ids if token not in loaded.end_ids], skip_special_tokens=True),
            finish_reason=row.finish_reason,
            prompt_tokens=len(row.prompt_ids),
            completion_tokens=len(row.new_ids),
        )


SMALL_FILE = 16 * 2**20


def model_folder(model: str) -> Path | None:
    """Where a model lies on this machine: the folder itself, or the local cache's snapshot of a Hub id; None where it was never fetched."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:  # neither a folder nor what a Hub id can look like
        return None
    return Path(found).parent if isinstance(found, str) else None


def model_fingerprint(model: str) -> str:
    """A hash of a model folder: small files by content, weights by name, size and time. For a Hub id the snapshot's commit where it is in
    the local cache, else the id alone."""
    folder = model_folder(model)
    if folder is None:
        return "unresolved"
    if not Path(model).is_dir():
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} ".encode())
        digest.update(path.read_bytes() if stat.st_size <= SMALL_FILE else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()[:16]


def count_cores() -> int:
    """Those that this process may use, as far as the system says so: a container's share of time is none of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_core() -> None:
    """One OpenMP thread for the calling thread, and for those that begin later: two that share a core with another process spin on each
    other and are ten times slower, while two threads with a batch each do not."""
    import torch

    torch.set_num_threads(1)


def _batches(rows: dict[int, Row], batch_size: int, threads: int) -> Iterator[list[int]]:
    """The rows' indices in batches of like prompt length, the shortest first, at most `batch_size` rows each and MAX_BATCH_TOKENS tokens
    in `threads` of them. As many batches for each thread, where they keep WORTH_A_CORE rows."""
    if not rows:
        return
    even = threads * -(-len(rows) // (threads * batch_size))
    parts = max(-(-len(rows) // batch_size), min(even, len(rows) // WORTH_A_CORE))
    size, most_tokens = -(-len(rows) // parts), MAX_BATCH_TOKENS // threads
    batch: list[int] = []
    for i in sorted(rows, key=lambda i: len(rows[i].prompt_ids)):
        if len(batch) == size or (len(batch) + 1) * len(rows[i].prompt_ids) > most_tokens:
            if batch:
                yield batch
            batch = []
        batch.append(i)
    yield batch
