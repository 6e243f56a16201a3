"""The exact test for small samples: the two-proportion e-value, valid at every look from the first unit on.

It says something true about 0/1 outcomes before the asymptotic sequence may be looked at, and is much weaker than that one later.
scipy and statsmodels hold no e-values.

Sources: Turner, Ly, Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional stopping", Journal of
Statistical Planning and Inference 230, 2024 (equation 2, Beta(0.18, 0.18) priors); Turner, Grünwald, "Exact anytime-valid confidence
intervals for contingency tables and beyond", Statistics & Probability Letters 198, 2023, for the interval of the difference; the projection
on a fixed difference is Farrington, Manning, Statistics in Medicine 9, 1990, equation A1.

Units enter in blocks of `n_a` of one arm and `n_b` of the other, in order of arrival. For values inside [0, 1] (a unit's mean over several
0/1 outcomes) each factor stays an e-variable, since c^y d^(1-y) <= y c + (1-y) d.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

PRIOR = 0.18
"""Both parameters of the Beta prior on each rate, which Turner and colleagues found to lose least against the best in hindsight."""

LARGEST_BLOCK = 20
"""At splits more uneven than 20 to 1 some units of the large arm are left out of the test."""

Floats = NDArray[np.float64]


def block_sizes(weight_a: float, weight_b: float) -> tuple[int, int]:
    """(units of a, units of b) in a block, from the planned shares: (1, 1) for an even split. Fixed before any outcome is seen."""
    ratio = weight_b / weight_a
    if ratio >= 1.0:
        return 1, min(LARGEST_BLOCK, round(ratio))
    return min(LARGEST_BLOCK, round(1.0 / ratio)), 1


class SafeTest:
    """Two arms' values in [0, 1], in order of arrival, summed by block."""

    def __init__(self, a: Floats, b: Floats, *, blocks: tuple[int, int] = (1, 1)) -> None:
        self.size_a, self.size_b = blocks
        count = min(len(a) // self.size_a, len(b) // self.size_b)
        self.sum_a = a[: count * self.size_a].reshape(count, self.size_a).sum(axis=1)
        self.sum_b = b[: count * self.size_b].reshape(count, self.size_b).sum(axis=1)
        self.rate_a = _learned(self.sum_a, self.size_a)
        self.rate_b = _learned(self.sum_b, self.size_b)
        self.log_alternative = self._log_likelihoods(self.rate_a, self.rate_b)

    def _log_likelihoods(self, rate_a: Floats, rate_b: Floats) -> Floats:
        """(blocks,) ln of each block's likelihood at the rates given for it; 0 ln 0 counts as 0."""
        terms = (
            (self.sum_a, rate_a),
            (self.size_a - self.sum_a, 1.0 - rate_a),
            (self.sum_b, rate_b),
            (self.size_b - self.sum_b, 1.0 - rate_b),
        )
        return np.asarray(np.sum([special.xlogy(count, rate) for count, rate in terms], axis=0), dtype=float)

    def log_e_values(self, difference: float = 0.0) -> Floats:
        """(blocks,) ln of the e-process against "rate b - rate a = difference" after each block.

        The alternative is the rates learned from earlier blocks; the null the point on the line that is nearest to them in relative
        entropy. For difference 0 that is their mean weighted by block size.
        """
        null_a = _project(self.rate_a, self.rate_b, self.size_a, self.size_b, difference)
        return np.cumsum(self.log_alternative - self._log_likelihoods(null_a, null_a + difference))

    def p_value(self) -> float:
        """1 / e-value now, at most 1: always valid (Ville's inequality)."""
        scores = self.log_e_values()
        return float(min(1.0, math.exp(-scores[-1]))) if len(scores) else 1.0

    def interval(self, alpha: float) -> tuple[float, float]:
        """The differences in [-1, 1] whose e-value is under 1/alpha, as the smallest interval that holds them all.

        Where the e-value for 0 is under 1/alpha, 0 lies inside. (-1, 1) before the first block.
        """
        if not len(self.sum_a):
            return -1.0, 1.0
        limit = math.log(1.0 / alpha)

        def kept(difference: float) -> bool:
            return float(self.log_e_values(difference)[-1]) < limit

        middle = float(np.clip(self.sum_b.mean() / self.size_b - self.sum_a.mean() / self.size_a, -1.0, 1.0))
        grid = sorted({-1.0, 0.0, 1.0, middle, *np.linspace(-0.95, 0.95, 39).tolist()})
        inside = [i for i, difference in enumerate(grid) if kept(difference)]
        if not inside:  # no multiple of 5 points fits any more; the rates changed on the way
            return middle, middle
        first, last = inside[0], inside[-1]
        low = grid[first] if first == 0 else _edge(kept, grid[first - 1], grid[first])
        high = grid[last] if last == len(grid) - 1 else _edge(kept, grid[last + 1], grid[last])
        return low, high


def _edge(kept: Callable[[float], bool], outside: float, inside: float) -> float:
    """Bisect to where the e-value crosses; the end that is kept out is returned, so the interval errs on the wide side."""
    for _ in range(30):
        middle = (outside + inside) / 2.0
        outside, inside = (outside, middle) if kept(middle) else (middle, inside)
    return outside


def _learned(sums: Floats, size: int) -> Floats:
    """(blocks,) the posterior mean of a rate before each block."""
    before = np.concatenate([[0.0], np.cumsum(sums)[:-1]]) if len(sums) else sums
    return (before + PRIOR) / (np.arange(len(sums)) * size + 2.0 * PRIOR)


def _project(a: Floats, b: Floats, size_a: int, size_b: int, difference: float) -> Floats:
    """(blocks,) rate t of arm a that minimises size_a KL(a, t) + size_b KL(b, t + difference).

    Setting the derivative to 0 gives a cubic with one root where both rates are possible; Farrington and Manning's closed form of it.
    """
    if difference == 0.0:
        return (size_a * a + size_b * b) / (size_a + size_b)
    low, high = max(0.0, -difference), min(1.0, 1.0 - difference)
    # Farrington-Manning with their rate 1 = ours of b, rate 2 = ours of a, s0 = difference, theta = size_a / size_b.
    theta, s = size_a / size_b, difference
    c3 = 1.0 + theta
    c2 = -(1.0 + theta + b + theta * a + s * (theta + 2.0))
    c1 = s * s + s * (2.0 * b + theta + 1.0) + b + theta * a
    c0 = -b * s * (1.0 + s)
    third, c3x3 = c2 / (3.0 * c3), 3.0 * c3
    square = third * third  # products: numpy's third power takes ten times as long
    v = square * third - c1 * c2 / (2.0 * c3x3 * c3) + c0 / (2.0 * c3)
    u = np.copysign(np.sqrt(np.maximum(square - c1 / c3x3, 0.0)), v)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.where(u == 0.0, 0.0, np.clip(v / (u * u * u), -1.0, 1.0))
    angle = (math.pi + np.arccos(cosine)) / 3.0
    return np.clip(2.0 * u * np.cos(angle) - third - s, low, high)
