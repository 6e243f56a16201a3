"""What a run's models take on a card, computed from their shapes, for `--dry-run`. Nothing here is measured.

A teacher of 0.5B is small, its vocabulary is not: 8 instructions of 128 tokens over 152k words are 2 GiB of logits and their gradients,
more than its weights. That is why the estimate goes by part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.weights_folder import resolve_model
from student_clients import StudentConfig
from student_clients.embedded import model_folder
from teacher.config import TrainConfig

FLOAT = 4
TRAINED = 12
"""Bytes beside a trained float32 weight: gradient and AdamW's two moments."""
AUTOCAST = 2
"""Bytes of a weight's copy in bfloat16 while a step runs."""
LOGIT = 14
"""Bytes a logit of the loss: bfloat16 as the head gives it, float32 as accelerate hands it on, its log-softmax, its gradient."""
CONTEXTS_GIB = 1.0
"""CUDA's own memory of two processes, about half a GiB each."""
VLLM_SHARE = 0.9
"""The share of the card that vLLM takes unless `--gpu-memory-utilization` says another."""


@dataclass(frozen=True)
class Shape:
    """A decoder's widths, as its config.json has them."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def parameters(self) -> int:
        """Weights; biases and norms, well under a thousandth, are left out."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        head = self.vocabulary * self.hidden
        return head * (1 if self.tied else 2) + self.layers * (attention + 3 * self.hidden * self.intermediate)

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA adapter on every linear layer but the head."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * ends

    @property
    def activation_bytes(self) -> int:
        """Kept for the backward pass, a token and layer: a float32 residual stream (as autocast leaves it), bfloat16 elsewhere."""
        return 26 * self.hidden + 6 * self.kv_heads * self.head_dim + 8 * self.intermediate

    @property
    def cache_bytes(self) -> int:
        """Keys and values of a token in all layers, float32 as the teacher generates."""
        return 2 * self.layers * self.kv_heads * self.head_dim * FLOAT


SHAPES = {
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(24, 896, 4864, 14, 2, 64, 151_936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(28, 1536, 8960, 12, 2, 128, 151_936, tied=True),
    "Qwen/Qwen2.5-3B-Instruct": Shape(36, 2048, 11_008, 16, 2, 128, 151_936, tied=True),
}
"""Of the models that the shipped configs name, from their published config.json: a dry run fetches nothing."""


def shape_of(model: str) -> Shape | None:
    """The shape of a model that is known or lies on this machine, else None."""
    if model in SHAPES:
        return SHAPES[model]
    folder = model_folder(resolve_model(model))
    path = folder / "config.json" if folder is not None else None
    if path is None or not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    try:
        heads = found["num_attention_heads"]
        return Shape(
            found["num_hidden_layers"], found["hidden_size"], found["intermediate_size"], heads, found.get("num_key_value_heads") or heads,
            found.get("head_dim") or found["hidden_size"] // heads, found["vocab_size"], tied=bool(found.get("tie_word_embeddings", True)),
        )  # fmt: skip
    except KeyError:  # an architecture with other names
        return None


def training_gib(config: TrainConfig, shape: Shape, prompt_tokens: int) -> dict[str, float]:
    """GiB by part of a teacher that trains, in the phase that takes most. `prompt_tokens`: the longest prompt of the teacher."""
    trl, lora = config.trl, config.teacher.lora
    answer = config.teacher.max_instruction_tokens or 1
    rows = int(trl.get("per_device_train_batch_size", 8))
    kept_for = shape.hidden * FLOAT if trl.get("activation_checkpointing") or trl.get("gradient_checkpointing") else shape.activation_bytes
    generated = int(
        trl.get("generation_batch_size") or rows * (trl.get("steps_per_generation") or trl.get("gradient_accumulation_steps", 1))
    )
    trained = shape.adapter(lora.r) if lora is not None else shape.parameters
    copies = 2 if trl.get("beta") and lora is None else 1  # the reference; an adapter's is the model without it
    logits = rows * (answer + 1) * shape.vocabulary * LOGIT
    activations = rows * (prompt_tokens + answer) * shape.layers * kept_for
    cache = generated * (prompt_tokens + answer) * shape.cache_bytes
    warm = config.teacher.warm_start
    warm_rows = warm.batch_size if warm is not None and (warm.questions or warm.file) else 0
    warm_activations = warm_rows * (prompt_tokens + answer) * shape.layers * shape.activation_bytes
    parts = {
        "weights": shape.parameters * (copies * FLOAT + AUTOCAST),
        "optimizer": trained * TRAINED,
        "logits": logits,
        "activations": activations,
        # Not at the same time as a step of RL: the cache of what it generates, a step of the warm start (TRL's loss keeps no logits there).
        "other_phases": max(0, max(cache, warm_activations) - logits - activations),
    }
    if config.algorithm == "ppo" and config.max_steps:  # trained in full, also beside an adapter
        parts["critic"] = shape.parameters * (FLOAT + TRAINED)
    return {name: round(count / 2**30, 3) for name, count in parts.items()}


def vllm_share(student: StudentConfig) -> float | None:
    """The share of the card that a launched vLLM takes; None where none is launched here."""
    if student.kind != "vllm" or not student.vllm.launch:
        return None
    return float(_argument(student.vllm.args, "--gpu-memory-utilization") or VLLM_SHARE)


def _argument(args: Sequence[str], name: str) -> str | None:
    for i, text in enumerate(args):
        if text.startswith(f"{name}="):
            return text.partition("=")[2]
        if text == name and i + 1 < len(args):
            return args[i + 1]
    return None


def card_gib(config: TrainConfig) -> float | None:
    """The card's memory: `run.gpu_gib`, else that of the card that is seen; None where there is none."""
    if config.run.gpu_gib is not None:
        return config.run.gpu_gib
    import torch

    return round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if torch.cuda.is_available() else None


def weights_gib(model: str) -> float | None:
    """GiB of a model that only computes, in float32; None where its shape is not known."""
    shape = shape_of(model)
    return None if shape is None else round(shape.parameters * FLOAT / 2**30, 3)


def memory(config: TrainConfig, *, trains: bool, prompt_tokens: int) -> dict[str, Any]:
    """GiB by role and part. `fits` says whether all of it goes onto one card, where there is one; None = cannot be told."""
    shape = shape_of(config.teacher.model)
    if not trains:
        found: dict[str, Any] = {"teacher": weights_gib(config.teacher.model)}
        return {**found, **({"student": weights_gib(config.student.model)} if config.student.kind == "embedded" else {})}
    parts = training_gib(config, shape, prompt_tokens) if shape is not None else None
    total = round(sum(parts.values()), 2) if parts is not None else None
    found = {"teacher": total, **({"teacher_parts": parts} if parts is not None else {})}
    student = weights_gib(config.student.model) if config.student.kind == "embedded" else 0.0
    if config.student.kind == "embedded":
        found["student"] = student
    card, share = card_gib(config), vllm_share(config.student)
    if card is None:
        return found
    if share is not None:
        student = round(card * share, 2)
        found["student_vllm"] = student
    whole = None if total is None or student is None else round(total + student + CONTEXTS_GIB, 2)
    return {**found, "total": whole, "card": card, "fits": None if whole is None else whole <= card}
