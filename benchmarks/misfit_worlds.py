"""Worlds in which gain and misfit can be known: random ReLU representations, the weak one a disturbed copy of the strong one.

In the manner of the synthetic study of Charikar et al. (arXiv 2405.15116), the sizes are ours: x ~ N(0, 1), a truth is a random linear
head on a random representation h*; the strong model holds h* (or a disturbed copy), the weak model a more disturbed one. The weak head is
fitted to the truth, the strong head to the weak model's outputs on fresh rows, and both are measured on further rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from weak_to_strong.divergence import DIVERGENCES, Array
from weak_to_strong.gain import Candidate
from weak_to_strong.heads import fit_least_squares

INPUTS, WIDTH, LAYERS = 8, 16, 5
TEST_ROWS = 10_000


def layers(rng: np.random.Generator, *, he: bool = False) -> list[tuple[Array, Array]]:
    """(weights, bias) of each layer: torch's default uniform initialisation, or He's normal one, which conditions features better."""
    sizes = [INPUTS] + [WIDTH] * LAYERS
    made = []
    for into, out in itertools.pairwise(sizes):
        bound = into**-0.5
        weights = rng.normal(scale=(2 / into) ** 0.5, size=(into, out)) if he else rng.uniform(-bound, bound, size=(into, out))
        made.append((weights, rng.uniform(-bound, bound, size=out)))
    return made


def disturbed(network: list[tuple[Array, Array]], sigma: float, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """A copy with Gaussian noise on every weight and bias."""
    return [(w + sigma * rng.normal(size=w.shape), b + sigma * rng.normal(size=b.shape)) for w, b in network]


def represent(network: list[tuple[Array, Array]], rows: Array) -> Array:
    """(N, WIDTH) outputs, ReLU between the layers."""
    for i, (weights, bias) in enumerate(network):
        rows = rows @ weights + bias
        if i + 1 < len(network):
            rows = np.maximum(rows, 0)
    return rows


@dataclass(frozen=True)
class Task:
    """One truth: errors and misfit on the test rows, mean squared."""

    weak_error: float
    student_error: float
    misfit: float

    @property
    def gain(self) -> float:
        return self.weak_error - self.student_error


def study(
    seed: int,
    *,
    tasks: int,
    fitting_rows: int,
    sigma_strong: float = 0.0,
    sigma_weak: float = 0.05,
    he: bool = False,
    on_fitting_rows: bool = False,
) -> list[Task]:
    """Random truths over one world: h*, its strong and its weak copy drawn from `seed`."""
    rng = np.random.default_rng(seed)
    star = layers(rng, he=he)
    strong, weak = disturbed(star, sigma_strong, rng), disturbed(star, sigma_weak, rng)
    weak_rows, fit_rows, test_rows = (rng.normal(size=(n, INPUTS)) for n in (fitting_rows, fitting_rows, TEST_ROWS))
    if on_fitting_rows:
        test_rows = fit_rows
    heads = rng.normal(size=(WIDTH, tasks))
    # One least-squares problem for all truths: the columns do not meet.
    truth = represent(star, test_rows) @ heads
    teacher = fit_least_squares(represent(weak, weak_rows), represent(star, weak_rows) @ heads)
    student = fit_least_squares(represent(strong, fit_rows), teacher.predict(represent(weak, fit_rows)))
    said, learnt = teacher.predict(represent(weak, test_rows)), student.predict(represent(strong, test_rows))
    loss = DIVERGENCES["squared"]
    return [
        Task(*(float(loss.rows(a[:, [i]], b[:, [i]]).mean()) for a, b in ((truth, said), (truth, learnt), (learnt, said))))
        for i in range(tasks)
    ]


def slope(tasks: list[Task]) -> tuple[float, float]:
    """(slope of gain on misfit through the origin, correlation)."""
    gain, misfit = np.array([t.gain for t in tasks]), np.array([t.misfit for t in tasks])
    return float(gain @ misfit / (misfit @ misfit)), float(np.corrcoef(gain, misfit)[0, 1])


TEACHERS = tuple((sigma, labels) for sigma in (0.03, 0.05, 0.08) for labels in (40, 80, 2_000))
"""(noise on the weak representation, labelled rows that the weak head is fitted on)."""


def teachers(seed: int, *, unlabelled: int = 2_000, held_out: int = 500) -> list[Candidate]:
    """Weak teachers of one truth: their error on a hold-out of their own, misfit on unlabelled rows, and the student's error, which the
    rule does not see."""
    rng = np.random.default_rng(seed)
    star = layers(rng, he=True)
    head = rng.normal(size=(WIDTH, 1))
    loss = DIVERGENCES["squared"]
    fit_rows, test_rows = rng.normal(size=(unlabelled, INPUTS)), rng.normal(size=(TEST_ROWS, INPUTS))
    found = []
    for sigma, labels in TEACHERS:
        weak = disturbed(star, sigma, rng)
        own, out = rng.normal(size=(labels, INPUTS)), rng.normal(size=(held_out, INPUTS))
        teacher = fit_least_squares(represent(weak, own), represent(star, own) @ head)
        said = teacher.predict(represent(weak, fit_rows))
        student = fit_least_squares(represent(star, fit_rows), said)
        found.append(
            Candidate(
                name=f"sigma {sigma:g}, {labels} labels",
                weak_error=float(loss.error(teacher.predict(represent(weak, out)), represent(star, out) @ head).mean()),
                misfit=float(loss.misfit(student.predict(represent(star, fit_rows)), said).mean()),
                student_error=float(loss.error(student.predict(represent(star, test_rows)), represent(star, test_rows) @ head).mean()),
            )
        )
    return found
