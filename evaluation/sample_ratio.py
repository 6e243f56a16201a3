"""The sequential sample-ratio check: do the arms hold the shares of units that they were meant to?

A broken split (a crash in one arm, a cache in front of it, an exposure logged twice) makes every other number of an A/B test wrong, and a
chi-square test looked at every hour finds one where there is none. scipy has no sequential form.

Source: Lindon, Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022: the Bayes factor of a Dirichlet mixture over the
shares against the planned ones is a martingale under the planned ones, so the chance that it ever reaches 1/alpha is at most alpha.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DEVIATION = 0.01
"""Departure from a planned share that the check is tuned to catch: one point."""

SRM_ALPHA = 0.01
"""The check alarms at a p-value at or under this; so one sound experiment in a hundred at most is ever called broken."""


def concentration(weights: Sequence[float], deviation: float = DEVIATION) -> float:
    """kappa, the sum of the Dirichlet prior's parameters: the widest share then has a prior standard deviation of `deviation`.

    The share of an arm with weight w varies by w (1 - w) / (kappa + 1) under Dirichlet(kappa * weights); 2,499 for halves and one point.
    """
    return max(w * (1.0 - w) for w in weights) / deviation**2 - 1.0


def log_bayes_factors(arms: NDArray[np.int64], weights: Sequence[float], deviation: float = DEVIATION) -> NDArray[np.float64]:
    """(N,) ln of the Bayes factor after each of the N units, `arms` being their arms in order of arrival, as indices into `weights`.

    By the chain rule each unit multiplies it by the mixture's predictive share of its arm over the planned share:
    (kappa w_j + S_j) / (kappa + n) / w_j, with S_j of the n earlier units in arm j (equation 6 of the paper, written as a product).
    """
    kappa = concentration(weights, deviation)
    steps = -np.log(kappa + np.arange(len(arms), dtype=float))
    for arm, weight in enumerate(weights):
        mine = np.flatnonzero(arms == arm)
        steps[mine] += np.log(kappa * weight + np.arange(len(mine), dtype=float)) - np.log(weight)
    return np.cumsum(steps)


def sample_ratio_p_values(arms: NDArray[np.int64], weights: Sequence[float], deviation: float = DEVIATION) -> tuple[float, float]:
    """(now, lowest so far): 1 / Bayes factor after the last unit and its minimum over all units, each at most 1.

    Both are always valid. The first depends on the counts alone, not on the order of the log; the second keeps an alarm that later units
    have drowned.
    """
    if len(arms) == 0:
        return 1.0, 1.0
    scores = log_bayes_factors(arms, weights, deviation)
    return float(np.exp(-max(0.0, scores[-1]))), float(np.exp(-max(0.0, scores.max())))
