"""The length-controlled win rate (AlpacaEval 2 LC; Dubois, Galambosi, Liang, Hashimoto 2024, arXiv 2404.04475, eq. 2).

Judges and reward models like long answers. A logistic regression explains each win over the raw answer by which arm answered and by the
difference in length; the win rate is what it says at a difference of zero:

    P(win) = sigmoid(theta + phi * tanh((len(answer) - len(raw)) / sd)),   win rate = sigmoid(theta)

Departures: the paper's term for each question's difficulty is left out, since it is fitted on many models' answers to the same questions
and there is one here; lengths are characters; phi has a weak prior (ridge) so that equal lengths give the plain win rate; and where nearly
all answers are longer than raw, or nearly all shorter, there is no figure: the regression would extrapolate to lengths that it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exchange.records import Record

RESAMPLES = 2000
RIDGE = 0.05
NEWTON_STEPS = 30
OVERLAP = 0.05
"""Share of questions that must lie on either side of equal length, or at it."""
MOST = 12.0
"""Bound on the coefficients: where every answer wins there is no finite fit."""


class Rate(Record):
    """A rate in [0, 1] with its interval."""

    mean: float
    low: float
    high: float
    n: int


def _fit(wins_N: NDArray[np.float64], length_N: NDArray[np.float64], weight_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """theta of R weighted fits by Newton's method; wins may be fractions."""
    theta, phi = np.zeros(len(weight_RN)), np.zeros(len(weight_RN))
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(theta[:, None] + phi[:, None] * length_N)))
        error, curve = weight_RN * (wins_N - p), weight_RN * p * (1 - p)
        g0, g1 = error.sum(1), (error * length_N).sum(1) - RIDGE * phi
        a, b, c = curve.sum(1) + 1e-9, (curve * length_N).sum(1), (curve * length_N**2).sum(1) + RIDGE
        scale = a * c - b * b
        # Damped, so that a fit without a finite optimum walks to the bound instead of jumping.
        step0, step1 = np.clip((c * g0 - b * g1) / scale, -1, 1), np.clip((a * g1 - b * g0) / scale, -1, 1)
        theta, phi = np.clip(theta + step0, -MOST, MOST), np.clip(phi + step1, -MOST, MOST)
        if max(np.abs(step0).max(), np.abs(step1).max()) < 1e-8:
            break
    return theta


def length_controlled(
    wins: Sequence[float], lengths: Sequence[int], raw_lengths: Sequence[int], *, alpha: float = 0.05, seed: int = 0
) -> Rate | None:
    """The win rate over raw at equal lengths, with a percentile bootstrap interval over questions; None where lengths do not overlap.

    `wins` in [0, 1] and both lengths by question, N of each. Raises ValueError where they differ in number or there are none.
    """
    if not wins or not len(wins) == len(lengths) == len(raw_lengths):
        raise ValueError(f"{len(wins)} wins, {len(lengths)} and {len(raw_lengths)} lengths; one of each a question is needed")
    wins_N = np.asarray(wins, dtype=float)
    longer_N = np.asarray(lengths, dtype=float) - np.asarray(raw_lengths, dtype=float)
    if not np.quantile(longer_N, OVERLAP) <= 0 <= np.quantile(longer_N, 1 - OVERLAP):
        return None
    spread = longer_N.std()
    length_N = np.tanh(longer_N / spread) if spread else np.zeros_like(longer_N)
    n = len(wins_N)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    mean = 1 / (1 + np.exp(-_fit(wins_N, length_N, np.ones((1, n)))[0]))
    # In parts, so that a thousand questions do not take a gigabyte.
    thetas = np.concatenate([_fit(wins_N, length_N, part) for part in np.array_split(draws, 20)])
    low, high = np.quantile(1 / (1 + np.exp(-thetas)), [alpha / 2, 1 - alpha / 2])
    return Rate(mean=float(mean), low=float(low), high=float(high), n=n)
