"""What the models of a lab world are made of: a corpus, shapes, seeds and cycles of reading. `lab.pretrain` holds the worlds themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Cycle:
    """Batches of a model, with optimizers anew."""

    steps: int
    rate: float
    """Share of the model's peak learning rate."""
    worked: float = 0.0
    """Share of a further cycle in which worked_document of the corpus alone is read."""
    seed: int | None = None
    """Of draws of its own, from the weights as they are saved, in float16; None = it goes on as the cycle before it ended."""
    mixture: dict[str, float] = field(default_factory=dict)
    """What student_document of the corpus is told."""


@dataclass(frozen=True)
class World:
    """What a world's models are made of."""

    corpus: ModuleType
    """Has tokenizer_corpus (but where the tokenizer is another world's), author_document, student_document, teacher_document, and
    weak_document where there is a weak reasoner."""
    vocabulary: int
    roles: dict[str, dict[str, Any]]
    """Language models: width, layers, seed, peak learning rate, batches, and of another family than Llama its name."""
    polish: dict[str, tuple[Cycle, ...]] = field(default_factory=dict)
    """Further cycles."""
    preferences: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Preference models: seed, which half of the pairs, epochs, learning rate."""
    first_words: dict[str, float] = field(default_factory=dict)
    """Share of a student's time in which it reads the authors alone, where that is not 12 %."""
    tokenizer_of: tuple[str, str] | None = None
    """Another (world, role) whose tokenizer is taken; None = one is trained on the corpus."""
    goes_on_from: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Another (world, role) whose shape and weights a model begins with, at RATE_GOING_ON of its peak learning rate."""
