"""lab-m's models: how they are pretrained and asked, with torch and transformers alone.

A pretraining that is killed goes on from its last checkpoint: what batch k holds depends on the seed and k alone.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.prose_corpus import Document
from lab.shapes import learn, optimizers_of, padded_batches, shape_of

if TYPE_CHECKING:
    import torch

COMPLETE = "complete"


@dataclass(frozen=True)
class Shape:
    """A model and its pretraining."""

    hidden: int
    layers: int
    mlp: int
    seed: int
    lr: float
    steps: int
    tokens_a_batch: int
    documents_a_chunk: int
    """Documents that are drawn, sorted by length and cut into batches together."""
    begins_with: str | None = None
    """Another lab model of this shape, as WORLD/ROLE, whose weights it begins with; None = random ones. Tokens that both vocabularies spell
    alike keep their vectors."""


def save_atomically(data: Any, path: Path) -> None:
    """`torch.save` that leaves the old file or the new one, never half of one."""
    import torch

    torch.save(data, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def save_folder(model: Any, tokenizer: Any, folder: Path) -> None:
    """A Hugging Face folder, its marker last."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / COMPLETE).touch()


def load_folder(folder: Path, device: str) -> Any:
    """A model in float32."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)


def chat(turn: str) -> str:
    """A user's turn and the opening of the answer: what the tokenizer's chat template makes of one message."""
    return f"<|user|>{turn}<|end|><|assistant|>"


def new_model(shape: Shape, tokenizer: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_config(shape_of({"hidden": shape.hidden, "layers": shape.layers, "mlp": shape.mlp}, tokenizer))
    if shape.begins_with is not None:
        folder = Path(__file__).parent / "weights" / shape.begins_with
        state = load_folder(folder, "cpu").state_dict()
        known, vectors_VD = AutoTokenizer.from_pretrained(folder).get_vocab(), model.state_dict()["model.embed_tokens.weight"].clone()
        for token, number in tokenizer.get_vocab().items():
            if token in known:
                vectors_VD[number] = state["model.embed_tokens.weight"][known[token]]
        model.load_state_dict({**state, "model.embed_tokens.weight": vectors_VD, "lm_head.weight": vectors_VD})
    return model


def chunk_batches(
    draw: Callable[[random.Random, int], Document], tokenizer: Any, shape: Shape, chunk: int, *, learn_all: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches (ids_BT, learnt_BT) of one chunk, as padded_batches gives them."""
    rng = random.Random(f"{shape.seed}/{chunk}")
    documents = [draw(rng, chunk) for _ in range(shape.documents_a_chunk)]
    prompts = tokenizer([chat(d.asked) for d in documents])["input_ids"]
    answers = tokenizer([f"{d.answered}<|end|>" for d in documents])["input_ids"]
    rows = [(p + a, 0 if learn_all else len(p)) for p, a in zip(prompts, answers, strict=True)]
    return padded_batches(rows, shape.tokens_a_batch, rng)


def batches(make: Callable[[int], list[Any]], chunk: int, at: int) -> Iterator[tuple[int, int, Any]]:
    """Endless (chunk, place in it, batch) from there on; the next chunk is made while one is learnt."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(make, chunk)
        while True:
            made, coming = coming.result(), worker.submit(make, chunk + 1)
            for i in range(at, len(made)):
                yield chunk, i, made[i]
            chunk, at = chunk + 1, 0


def pretrain(
    name: str,
    shape: Shape,
    tokenizer: Any,
    draw: Callable[[random.Random, int], Document],
    folder: Path,
    device: str,
    *,
    every_s: float = 60,
) -> None:
    """Train a model from random weights on endless documents and leave it in `folder`; goes on from `folder`.pt where that stands.

    A student (its name) learns the answers alone, a teacher the whole text.
    """
    import torch

    if (folder / COMPLETE).exists():
        return
    teacher, saved = name == "teacher", folder.with_suffix(".pt")
    torch.manual_seed(shape.seed)
    model = new_model(shape, tokenizer).to(device)
    optimizers = optimizers_of(model, shape.lr, teacher=teacher)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    done, chunk, at, running, spent = 0, 0, 0, None, 0.0
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, held in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        done, chunk, at, running, spent = (state[key] for key in ("done", "chunk", "at", "running", "cpu_s"))
        print(f"{name}: goes on from step {done}", flush=True)
    make = lambda number: chunk_batches(draw, tokenizer, shape, number, learn_all=teacher)  # noqa: E731
    last, started = time.monotonic(), time.process_time()
    coming = batches(make, chunk, at)
    for step, (chunk, at, (ids_BT, learnt_BT)) in zip(range(done, shape.steps), coming, strict=False):
        # Linear warm-up over a tenth of the steps, 100 at most, then a linear decay to zero over the last two thirds.
        share = min(1.0, (step + 1) / min(100, 1 + shape.steps // 10)) * min(1.0, (1 - step / shape.steps) / 0.67)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share
        loss = learn(model, optimizers, ids_BT.to(device), learnt_BT.to(device))
        running = loss if running is None else 0.98 * running + 0.02 * loss
        if time.monotonic() - last > every_s or step + 1 == shape.steps:
            last = time.monotonic()
            cpu_s = spent + time.process_time() - started
            print(f"{name}: step {step + 1}/{shape.steps} loss {float(running):.4f} cpu {cpu_s:.0f} s", flush=True)
            state = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
            save_atomically({**state, "done": step + 1, "chunk": chunk, "at": at + 1, "running": running, "cpu_s": cpu_s}, saved)
    save_folder(model, tokenizer, folder)


def write(
    model: Any, tokenizer: Any, turns: Sequence[str], *, most: int, batch: int, temperature: float = 0.0
) -> tuple[list[str], list[list[int]]]:
    """(texts, their ids, an end token included) that follow the user's turns, greedy at temperature 0. Equal greedy turns are computed
    once."""
    import torch
    from transformers import GenerationConfig

    distinct = list(dict.fromkeys(turns)) if temperature == 0 else list(turns)
    order = sorted(range(len(distinct)), key=lambda i: len(distinct[i]))
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    end = tokenizer.eos_token_id
    settings = GenerationConfig(max_new_tokens=most, eos_token_id=end, pad_token_id=tokenizer.pad_token_id, **sampling)
    found: list[list[int]] = [[] for _ in distinct]
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer([chat(distinct[i]) for i in rows], return_tensors="pt", padding=True, padding_side="left").to(model.device)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            output = model.generate(**inputs, generation_config=settings)
        for i, ids in zip(rows, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            found[i] = ids[: ids.index(end) + 1] if end in ids else ids
    model.train(was_training)
    texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in found]
    if temperature:
        return texts, found
    at = {turn: i for i, turn in enumerate(distinct)}
    return [texts[at[turn]] for turn in turns], [found[at[turn]] for turn in turns]
