"""Which training questions RL spends its calls on: those that the warm start left open, and few of those that it settled.

A group whose answers are all right or all wrong teaches nothing and costs as much as any other (Polaris, DAPO's dynamic sampling, arXiv
2503.14476, leave such groups out after paying for them). The warm start has asked its questions before RL begins: what was right raw, and
what no instruction of N made right, is known for nothing. Of both only a share stays in the batches: some, since silence where raw is right
has to be kept up, and since N misses do not prove a question hopeless. Questions that were never asked all stay.

The choice hangs on the run's log and seed alone, so that a resumed run makes it again.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from exchange.records import Episode, Example
from teacher.config import FilterConfig
from teacher.warm_start import pays


def settled(lines: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """`raw_right` or `hopeless` by example id, from a run's logged episodes of the warm start.

    A question with a call that failed, and so may have been right, is never hopeless.
    """
    found: dict[str, list[Episode]] = defaultdict(list)
    for line in lines:
        if line["arm"] == "warm_start":
            found[line["example_id"]].append(Episode.model_validate({key: value for key, value in line.items() if key != "step"}))
    kinds = {}
    for name, episodes in found.items():
        if any(pays(episode) and not episode.instruction.text for episode in episodes):
            kinds[name] = "raw_right"
        elif len(episodes) > 1 and not any(pays(episode) or not episode.scores for episode in episodes):
            kinds[name] = "hopeless"
    return kinds


def choose(
    examples: list[Example], kinds: Mapping[str, str], config: FilterConfig, *, seed: int, at_least: int
) -> tuple[list[Example], dict[str, int]]:
    """(questions for RL in their order, counts by kind). Where fewer than `at_least`, a batch, would be left nothing is left out."""
    rng = random.Random(f"{seed}/filter")
    share = {"raw_right": config.raw_right, "hopeless": config.hopeless}
    dropped: set[str] = set()
    counts: dict[str, int] = {"questions": len(examples)}
    for kind in share:
        names = [example.id for example in examples if kinds.get(example.id) == kind]
        out = rng.sample(names, len(names) - round(share[kind] * len(names)))
        counts |= {kind: len(names), f"{kind}_left_out": len(out)}
        dropped.update(out)
    kept = [example for example in examples if example.id not in dropped]
    if len(kept) < at_least:
        return examples, {**counts, "raw_right_left_out": 0, "hopeless_left_out": 0}
    return kept, counts
