"""Heads on frozen features: the class of functions that a student can become, and the member of it that fits given labels best.

    linear    all linear maps with an intercept (under a KL loss, their softmax)
    ridge     the same with a penalty on the weights: a penalised fit is a projection onto no fixed class
    ball      linear maps with weights of at most a given Euclidean norm, by exact projection (squared loss)
    mixture   convex mixtures of experts, which are heads fitted on resampled rows with half of the features each

What is fitted is the loss itself, in the direction that `weak_to_strong.divergence` gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.linalg import svd
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax, softmax

from exchange.settings import SettingError, Settings
from weak_to_strong.divergence import Array, Divergence

HeadKind = Literal["linear", "ridge", "ball", "mixture"]
MAX_CONDITION = 1e4
"""Condition number of the standardised features beyond which least squares is noise: a near-dead feature turned the slope of gain on
misfit from 1 to -0.84."""
LARGEST_LOGIT = 50.0
"""A softmax fit that has gone so far is on its way to infinity: the labels are separable."""
GRADIENT_TOLERANCE = 1e-9

Predict = Callable[[Array], Array]


class HeadConfig(Settings):
    """What the student learns on top of its frozen features."""

    kind: HeadKind = "linear"
    """linear, ridge, ball (weights of bounded norm; squared loss only) or mixture (of experts)."""
    penalty: float = Field(default=1.0, gt=0)
    """ridge: weight of the squared norm of the weights, beside the loss summed over rows."""
    radius: float | None = Field(default=None, gt=0)
    """ball: largest Euclidean norm of the weights (Frobenius over several outputs); needed there."""
    experts: int = Field(default=6, ge=2)
    """mixture: number of experts."""
    max_condition: float = Field(default=MAX_CONDITION, gt=1)
    """linear: largest condition number of the standardised features that is fitted at all."""


@dataclass(frozen=True)
class Head:
    """A fitted head: `predict` takes features (N, D) to outputs (N, K)."""

    predict: Predict
    norm: float = 0.0
    """Euclidean norm of the weights on the features as given; 0 for a mixture."""
    experts: tuple[Predict, ...] = ()
    """mixture: what is mixed."""


@dataclass(frozen=True)
class _Scale:
    """Columns brought to mean 0 and deviation 1. A constant column says nothing beside the intercept and is left out."""

    mean: Array
    deviation: Array
    kept: NDArray[np.intp]

    @classmethod
    def of(cls, features: Array) -> _Scale:
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        kept = np.flatnonzero(deviation > 1e-12 * np.maximum(1.0, np.abs(mean)))
        return cls(mean[kept], deviation[kept], kept)

    def __call__(self, features: Array) -> Array:
        return np.asarray((features[:, self.kept] - self.mean) / self.deviation)


def condition_number(features: Array) -> float:
    """Of the standardised features (N, D), constant columns left out: scale and offset do not matter, near copies do."""
    scaled = _Scale.of(features)(features)
    if scaled.shape[1] == 0:
        return float("inf")
    values = svd(scaled, compute_uv=False)
    return float("inf") if len(values) < scaled.shape[1] or values[-1] == 0 else float(values[0] / values[-1])


def check_features(features: Array, config: HeadConfig) -> float:
    """The condition number. Raises SettingError where a head of this kind cannot be trusted on these features."""
    rows, columns = features.shape
    if not _Scale.of(features).kept.size:
        raise SettingError("features: every column is constant, so no head can tell the rows apart")
    if config.kind == "linear" and rows <= columns + 1:
        raise SettingError(
            f"features: {rows} rows for {columns} columns and an intercept: the head repeats any labels and misfit is 0 whatever they are; "
            "give more rows or fewer columns, or take --head.kind=ridge"
        )
    condition = condition_number(features)
    if config.kind == "linear" and condition > config.max_condition:
        raise SettingError(
            f"features: ill-conditioned, condition number {condition:.2g} after standardising (at most {config.max_condition:g}): columns "
            "are near copies or sums of others; drop those, take principal components, --head.kind=ridge, or raise --head.max_condition"
        )
    return condition


def fit_head(features: Array, labels: Array, loss: Divergence, config: HeadConfig, rng: np.random.Generator) -> Head:
    """The head of the class that fits labels (N, K) best on features (N, D). Raises SettingError where there is none.

    `rng` draws the experts of a mixture and nothing else.
    """
    if config.kind == "mixture":
        experts = fit_experts(features, labels, loss, config, rng)
        weights = mixture_weights(np.stack([expert(features) for expert in experts]), labels, loss)
        return Head(
            lambda rows: np.asarray(np.tensordot(weights, np.stack([expert(rows) for expert in experts]), 1)), experts=tuple(experts)
        )
    if loss.of_probabilities:
        if config.kind == "ball":
            raise SettingError("head.kind='ball': exact projection is for --loss=squared; take linear, ridge or mixture")
        return fit_softmax(features, labels, loss, penalty=config.penalty if config.kind == "ridge" else 0.0)
    if config.kind == "linear":
        return fit_least_squares(features, labels)
    if config.kind == "ridge":
        return fit_shrunken(features, labels, lambda *_: config.penalty)
    if config.radius is None:
        raise SettingError("head.radius: the ball needs a radius")
    return fit_ball(features, labels, config.radius)


def _linear(weights: Array, intercept: Array) -> Head:
    return Head(lambda rows: np.asarray(rows @ weights + intercept), float(np.linalg.norm(weights)))


def fit_least_squares(features: Array, labels: Array) -> Head:
    """Least squares with intercept; of equal fits the one of least norm on standardised columns."""
    scale = _Scale.of(features)
    solved = np.linalg.lstsq(scale(features), labels - labels.mean(axis=0), rcond=None)[0]
    weights = np.zeros((features.shape[1], labels.shape[1]))
    weights[scale.kept] = solved / scale.deviation[:, None]
    return Head(lambda rows: np.asarray(scale(rows) @ solved + labels.mean(axis=0)), float(np.linalg.norm(weights)))


def fit_shrunken(features: Array, labels: Array, penalty_of: Callable[[Array, Array], float]) -> Head:
    """argmin |y - Xw - b|² + penalty |w|², b free; the penalty is chosen from (singular values (R,), rotated labels (R, K)) of the centred
    problem, in which the weights are values * rotated / (values² + penalty)."""
    mean = features.mean(axis=0)
    left, values, right = svd(features - mean, full_matrices=False)
    used = values > values[0] * 1e-12
    left, values, right = left[:, used], values[used], right[used]
    rotated = left.T @ (labels - labels.mean(axis=0))
    penalty = penalty_of(values, rotated)
    weights = right.T @ (values[:, None] * rotated / (values[:, None] ** 2 + penalty))
    return _linear(weights, labels.mean(axis=0) - mean @ weights)


def fit_ball(features: Array, labels: Array, radius: float) -> Head:
    """argmin |y - Xw - b|² over |w| <= radius, b free: the penalty at which the norm is the radius, found on the secular equation."""

    def penalty_of(values: Array, rotated: Array) -> float:
        def excess(penalty: float) -> float:
            return float(np.linalg.norm(values[:, None] * rotated / (values[:, None] ** 2 + penalty)) - radius)

        if excess(0.0) <= 0:
            return 0.0
        most = values[0] * float(np.linalg.norm(rotated)) / radius  # |w| <= |X'y| / penalty
        return float(brentq(excess, 0.0, most, xtol=1e-14 * max(1.0, most), rtol=1e-15))

    return fit_shrunken(features, labels, penalty_of)


def fit_softmax(features: Array, labels: Array, loss: Divergence, *, penalty: float = 0.0) -> Head:
    """The linear softmax head of least misfit against label distributions (N, K), by L-BFGS; the last class is the reference.

    Against forward KL this is convex (cross-entropy on soft labels); against reverse KL it is not, and a local optimum is what there is.
    Raises SettingError where the labels are separable, since then no head is the best one.
    """
    scale = _Scale.of(features)
    design = np.hstack([scale(features), np.ones((len(features), 1))])
    log_labels = np.log(np.maximum(labels, 1e-300))
    shape = (design.shape[1], labels.shape[1] - 1)
    per_row = penalty / len(features)

    def objective(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(shape)
        logits = np.hstack([design @ weights, np.zeros((len(design), 1))])
        log_student, student = log_softmax(logits, axis=1), softmax(logits, axis=1)
        if loss.student_first:
            ratio = log_student - log_labels
            value = (student * ratio).sum(axis=1)
            slope = student * (ratio - value[:, None])
        else:
            value = loss.misfit(student, labels) if student.min() > 0 else (labels * (log_labels - log_student)).sum(axis=1)
            slope = student - labels
        decay = weights / scale_of_weights
        gradient = design.T @ slope[:, :-1] / len(design) + 2 * per_row * decay / scale_of_weights
        return float(value.mean() + per_row * (decay**2).sum()), gradient.reshape(-1)

    # The penalty is on the weights of the features as given, and leaves the intercept alone.
    scale_of_weights = np.append(scale.deviation, np.inf)[:, None]
    done = minimize(
        objective, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "gtol": GRADIENT_TOLERANCE, "ftol": 0.0, "maxcor": 30},
    )  # fmt: skip
    weights = done.x.reshape(shape)
    if not penalty and np.abs(design @ weights).max() > LARGEST_LOGIT:
        raise SettingError(
            "weak: the features separate its classes, so cross-entropy has no minimum; give soft labels or take --head.kind=ridge"
        )

    def predict(rows: Array) -> Array:
        logits = np.hstack([scale(rows) @ weights[:-1] + weights[-1], np.zeros((len(rows), 1))])
        return np.asarray(softmax(logits, axis=1))

    return Head(predict, float(np.linalg.norm(weights[:-1] / scale.deviation[:, None])))


def fit_experts(features: Array, labels: Array, loss: Divergence, config: HeadConfig, rng: np.random.Generator) -> list[Predict]:
    """Heads that differ: each is fitted on resampled rows and a random half of the columns."""
    experts: list[Predict] = []
    for _ in range(config.experts):
        rows = rng.integers(len(features), size=len(features))
        columns = np.sort(rng.choice(features.shape[1], size=-(-features.shape[1] // 2), replace=False))
        part = features[np.ix_(rows, columns)]
        head = fit_softmax(part, labels[rows], loss, penalty=1e-3) if loss.of_probabilities else fit_least_squares(part, labels[rows])
        experts.append(_on_columns(head, columns))
    return experts


def _on_columns(head: Head, columns: NDArray[np.intp]) -> Predict:
    return lambda rows: head.predict(rows[:, columns])


def mixture_weights(experts: Array, labels: Array, loss: Divergence) -> Array:
    """(E,) weights on the simplex of the mixture of experts (E, N, K) with the least misfit against labels (N, K).

    Convex for all three losses. Solved by SLSQP.
    """
    log_labels = np.log(np.maximum(labels, 1e-300))

    def objective(weights: Array) -> tuple[float, Array]:
        student = np.tensordot(weights, experts, 1)
        if not loss.of_probabilities:
            slope = 2 * (student - labels)
        elif loss.student_first:
            slope = np.log(np.maximum(student, 1e-300)) - log_labels + 1
        else:
            slope = -labels / np.maximum(student, 1e-300)
        return float(loss.misfit(student, labels).mean()), np.asarray((experts * slope).sum(axis=2).mean(axis=1))

    count = len(experts)
    constraint = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)}
    done = minimize(
        objective, np.full(count, 1 / count), jac=True, method="SLSQP", bounds=[(0, 1)] * count, constraints=[constraint],
        options={"maxiter": 500, "ftol": 1e-15},
    )  # fmt: skip
    weights = np.clip(done.x, 0, None)
    return np.asarray(weights / weights.sum())
