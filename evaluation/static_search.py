"""What one text for all questions can do at best, and what a choice among a few of them can: searched on training questions only.

Without these two controls a table mistakes "a better prompt" for "an instruction for each query". Both read one matrix of outcomes:

- `best_static`: successive halving (Karnin, Koren, Somekh 2013; Jamieson and Talwalkar, arXiv 1502.07943): all texts on a few
  questions, the better quarter on four times as many, until one is left.
- the router's texts: those that together solve most (greedy maximum coverage, Nemhauser, Wolsey, Fisher 1978), then a classifier from the
  question to the text (`evaluation.router`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from exchange.records import Example

KEEP = 4
"""The better 1 / KEEP of the texts go on to the next round."""
ROUTED = 12
"""Texts that a router chooses among at most, silence included."""
FEWEST = 4
"""Questions that every text is asked at least."""

Outcomes = NDArray[np.float64]
"""(texts, questions): the grade in [0, 1], NaN where a call failed or could not be judged."""
Ask = Callable[[Sequence[str], Sequence[Example]], Awaitable[Outcomes]]
"""Asks the student every question under every text."""


def rounds_of(texts: int, calls: int, questions: int) -> list[tuple[int, int]]:
    """(texts, questions) of each round, about `calls` in all, equally many a round. Questions add up: a round asks only what is new."""
    sizes = [texts]
    while sizes[-1] > 1:
        sizes.append(max(1, sizes[-1] // KEEP))
    if len(sizes) > 1:
        sizes.pop()  # the last one needs no round of its own
    share, asked, found = calls // len(sizes), 0, []
    for size in sizes:
        asked = min(questions, asked + max(FEWEST, share // size))
        found.append((size, asked))
    return found


def means(outcomes: Outcomes) -> Outcomes:
    """(texts,) share right of what could be judged; 0 where nothing could."""
    known = ~np.isnan(outcomes)
    return np.asarray(np.where(known, outcomes, 0.0).sum(axis=1) / np.maximum(1, known.sum(axis=1)))


async def best_text(texts: Sequence[str], examples: Sequence[Example], ask: Ask, calls: int) -> tuple[str, int]:
    """(the best text, student calls taken) by successive halving; ties go to the text that stands first."""
    left, outcomes, taken = list(range(len(texts))), np.empty((len(texts), 0)), 0
    for size, upto in rounds_of(len(texts), calls, len(examples)):
        order = np.argsort(-means(outcomes), kind="stable")[:size] if outcomes.shape[1] else np.arange(len(left))
        order = np.sort(order)
        left, outcomes = [left[i] for i in order], outcomes[order]
        new = examples[outcomes.shape[1] : upto]
        if new:
            outcomes = np.concatenate([outcomes, await ask([texts[i] for i in left], new)], axis=1)
            taken += len(left) * len(new)
    return texts[left[int(np.argmax(means(outcomes)))]], taken


def cover(outcomes: Outcomes, most: int) -> list[int]:
    """Rows that together solve most questions, by greedy coverage; ends where no further text adds anything."""
    solved = np.zeros(outcomes.shape[1])
    chosen: list[int] = []
    known = np.nan_to_num(outcomes, nan=0.0)
    while len(chosen) < most:
        gains = np.maximum(known - solved, 0.0).sum(axis=1)
        best = int(np.argmax(gains))
        if gains[best] <= 0.0:
            break
        chosen.append(best)
        solved = np.maximum(solved, known[best])
    return chosen


async def routed_texts(texts: Sequence[str], examples: Sequence[Example], ask: Ask, calls: int) -> tuple[list[str], Outcomes, int]:
    """(texts to choose among, their outcomes on the first questions, student calls taken) at about `calls`.

    A third of the calls shows which texts solve what others do not; the rest goes to the chosen ones alone. The first text is silence.
    """
    candidates = list(dict.fromkeys(("", *texts)))
    screened = min(len(examples), max(FEWEST, calls // 3 // len(candidates)))
    first = await ask(candidates, examples[:screened])
    chosen = cover(first, ROUTED)
    chosen = [0, *(i for i in chosen if i != 0)][:ROUTED]
    kept, taken = [candidates[i] for i in chosen], len(candidates) * screened
    more = min(len(examples) - screened, max(0, calls - taken) // len(kept))
    if not more:
        return kept, first[chosen], taken
    rest = await ask(kept, examples[screened : screened + more])
    return kept, np.concatenate([first[chosen], rest], axis=1), taken + len(kept) * more
