"""How sure a teacher must be that it is needed: a bias towards silence, chosen on validation.

On a question unlike those of training a teacher is in doubt whether to speak, and greedy decoding speaks as soon as that is a hair more
likely: there it does harm. Validation questions are nearer to training than a user's are, so they say little of that harm and much of
what silence costs. Hence the one-standard-error rule (Breiman, Friedman, Olshen, Stone 1984, "Classification and Regression Trees", 3.4.3):
of all thresholds that validation cannot tell from the best one, the most silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST = 2.0
"""The largest bias that is looked at, in logits: odds of 7 to 1. Beyond it a bias only cost where it was tried (docs/log.md)."""
GRID = tuple(tenth / 10 for tenth in range(int(10 * MOST) + 1))
TOLERATED = 0.01
"""What the bias may cost on validation at most, in mean value a question, however large its standard error is."""


def most_silent(hesitant: Sequence[tuple[float, float]], questions: int) -> float:
    """The largest bias of GRID whose summed value is within one standard error of the best one's, and no less than TOLERATED below it.

    `hesitant`: of each of the `questions` that is spoken on and that a bias can silence, the bias from which on it is silent, and how much
    more silence is worth there than the instruction.
    """
    best = max(GRID, key=lambda bias: (round(sum(gain for needed, gain in hesitant if needed <= bias), 9), bias))
    chosen = best
    for bias in GRID[GRID.index(best) + 1 :]:
        gains = [gain for needed, gain in hesitant if best < needed <= bias]
        error = math.sqrt(sum(gain * gain for gain in gains))  # of a sum of paired differences that are mostly 0
        if -sum(gains) > min(error, TOLERATED * questions):
            break
        chosen = bias
    return chosen
