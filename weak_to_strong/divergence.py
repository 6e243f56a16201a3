"""How far one model's outputs are from another's: squared loss, KL in both directions, any Bregman divergence.

A projection theorem (Charikar et al., arXiv 2405.15116; Mulgund and Pabbaraju, arXiv 2501.19105) is about a divergence *and* the side on
which the student stands, so a `Divergence` fixes both: which way errors are taken and which way misfit is.

    student first     error(f) = D(truth, f)    misfit = D(student, weak)     squared, reverse_kl, bregman
    student second    error(f) = D(f, truth)    misfit = D(weak, student)     forward_kl: ordinary cross-entropy training
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from exchange.settings import SettingError

Array = NDArray[np.float64]
LossName = Literal["squared", "forward_kl", "reverse_kl"]
SUM_TOLERANCE = 1e-4
"""By how much a row of probabilities may miss 1: float32 outputs of a softmax over many classes do."""


@dataclass(frozen=True)
class Divergence:
    """D(first, second) a row, and the side on which the student stands."""

    name: str
    rows: Callable[[Array, Array], Array]
    """(N, K), (N, K) -> (N,)."""
    student_first: bool = True
    of_probabilities: bool = False
    """Rows must be distributions."""

    def error(self, model: Array, truth: Array) -> Array:
        """(N,) error of a model's outputs (N, K) against the truth."""
        return self.rows(truth, model) if self.student_first else self.rows(model, truth)

    def misfit(self, student: Array, weak: Array) -> Array:
        """(N,) of how the student departs from the labels it was trained on; what its training minimises."""
        return self.rows(student, weak) if self.student_first else self.rows(weak, student)


def _squared(first: Array, second: Array) -> Array:
    return np.asarray(((first - second) ** 2).sum(axis=1))


def _kl(first: Array, second: Array) -> Array:
    """KL(first || second) in nats; inf where the second gives no probability to what the first does."""
    return np.asarray(rel_entr(first, second).sum(axis=1))


def bregman(name: str, phi: Callable[[Array], Array], gradient: Callable[[Array], Array], *, of_probabilities: bool = False) -> Divergence:
    """D(a, b) = phi(a) - phi(b) - <grad phi(b), a - b> of a convex phi (N, K) -> (N,) with gradient (N, K) -> (N, K)."""

    def rows(first: Array, second: Array) -> Array:
        return np.asarray(phi(first) - phi(second) - (gradient(second) * (first - second)).sum(axis=1))

    return Divergence(name, rows, of_probabilities=of_probabilities)


DIVERGENCES: dict[LossName, Divergence] = {
    "squared": Divergence("squared", _squared),
    "forward_kl": Divergence("forward_kl", _kl, student_first=False, of_probabilities=True),
    "reverse_kl": Divergence("reverse_kl", _kl, of_probabilities=True),
}
"""squared is summed over the columns of a row; KL is in nats."""


def as_outputs(values: NDArray[np.generic], name: str, *, probabilities: bool) -> Array:
    """(N,) or (N, K) numbers as (N, K) float64; (N,) probabilities are those of the second of two classes.

    Raises SettingError naming the array where it holds no such numbers.
    """
    data = as_numbers(values, name)
    if data.ndim not in (1, 2) or data.size == 0:
        raise SettingError(f"{name}: has shape {data.shape}; expected (N,) or (N, K) with at least one row")
    if not probabilities:
        return data.reshape(len(data), -1)
    if data.min() < 0 or data.max() > 1:
        raise SettingError(
            f"{name}: holds values from {data.min():g} to {data.max():g}; a KL loss needs probabilities, or take --loss=squared"
        )
    if data.ndim == 1 or data.shape[1] == 1:
        flat = data.reshape(-1)
        return np.stack([1 - flat, flat], axis=1)
    off = np.abs(data.sum(axis=1) - 1)
    if off.max() > SUM_TOLERANCE:
        raise SettingError(f"{name}: row {int(off.argmax())} sums to {data[off.argmax()].sum():g}; a KL loss needs rows that sum to 1")
    return np.asarray(data / data.sum(axis=1, keepdims=True))


def as_numbers(values: NDArray[np.generic], name: str) -> Array:
    """Any real array as float64. Raises SettingError where it holds something else, NaN or infinity."""
    if values.dtype.kind not in "biuf":
        raise SettingError(f"{name}: holds {values.dtype}, not numbers")
    data = np.asarray(values, dtype=np.float64)
    if not np.isfinite(data).all():
        raise SettingError(f"{name}: {int((~np.isfinite(data)).sum())} of {data.size} values are NaN or infinite")
    return data
