"""How sure a teacher must be that it is needed: a bias towards silence, chosen on validation.

Where a question is unlike those of training a teacher is in doubt whether to speak, and greedy decoding speaks as soon as that is a hair
more likely. Yet the two mistakes cost unlike sums: what it loses is a right answer, what it misses is only the chance of one. So the
threshold between the two is not where the probabilities are equal (Elkan 2001, "The Foundations of Cost-Sensitive Learning"), and it is
set by what either is worth on questions that training has not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, groupby

MOST = 5.0
"""The largest bias that is looked at, in logits: odds of 150 to 1."""


def best_bias(hesitant: Iterable[tuple[float, float]]) -> float:
    """The bias in [0, MOST] under which the summed value is highest, the middle of its range: as far from the questions that it should
    silence as from those that it should not. Of several such ranges the widest; 0 without questions.

    `hesitant`: of each question that is spoken on, the bias from which on it is silent (0 < bias < MOST), and how much more silence is
    worth there than the instruction.
    """
    ordered = sorted(hesitant)
    if not ordered:
        return 0.0
    bounds = [0.0, *(bias for bias, _ in ordered), MOST]
    totals = [round(total, 9) for total in accumulate((gain for _, gain in ordered), initial=0.0)]
    highest = max(totals)
    ranges = []
    for total, of in groupby(range(len(totals)), key=lambda k: totals[k]):
        if total == highest:
            of_equal = list(of)
            ranges.append((bounds[of_equal[0]], bounds[of_equal[-1] + 1]))
    low, high = max(ranges, key=lambda found: found[1] - found[0])
    return round((low + high) / 2, 2)
