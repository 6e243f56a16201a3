"""Stage II of weak-to-strong reasoning (arXiv 2407.13647): preference pairs from what the Stage I model is sure of.

The Stage I model answers each question n times. Its majority answer a, with share c of the samples, stands in for the truth:

    c < keep, or the majority is no answer                      nothing
    the weak answer is a, and some sample is not                (weak text  >  a sample that is not a)
    the weak answer is a, and every sample is                   nothing: too easy
    the weak answer is not a, c >= reject_weak                  (a sample that is a  >  weak text)
    else                                                        nothing

The weak text is on one side of every pair. Gold answers have no part in it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from exchange.compose import raw_messages
from exchange.records import PublicExample, Record
from exchange.settings import Settings
from weak_to_strong.agreement import Answer, AnswerKey, Pool, without_gold

Outcome = Literal["chosen", "rejected", "unsure", "no_answer", "too_easy", "disagrees", "weak_missing"]


class StageTwoConfig(Settings):
    """Stage II; thresholds and draws are the authors' code."""

    samples: int = Field(default=10, ge=2)
    """Answers of the Stage I model a question."""
    temperature: float = Field(default=1.0, gt=0)
    """At which they are sampled."""
    keep: float = Field(default=0.6, gt=0, le=1)
    """Least share of the samples that the majority answer must have."""
    reject_weak: float = Field(default=0.8, gt=0, le=1)
    """Least share from which a weak answer that differs is taken for wrong."""
    pairs: int = Field(default=1, ge=1)
    """Pairs a question at most: the authors make 1 on GSM8K and 3 on MATH."""


class Vote(Record):
    """A question's samples: the label of the majority (None = no answer), and its share."""

    label: int | None
    share: float


class Pair(Record):
    """One preference, by place: an index into the samples, or "weak"."""

    chosen: int | Literal["weak"]
    rejected: int | Literal["weak"]


def majority(labels: Sequence[int | None]) -> Vote:
    """The most frequent label; of equals the one seen first. Having no answer is an answer like any other here, and may win."""
    label, count = Counter(labels).most_common(1)[0]
    return Vote(label=label, share=count / len(labels))


def pairs_of(weak: int | None, labels: Sequence[int | None], config: StageTwoConfig, rng: random.Random) -> tuple[list[Pair], Outcome]:
    """The pairs of one question by the rule above, and which line of it applied. `weak` and `labels` come from one answer key."""
    vote = majority(labels)
    # A share is a ratio of counts: 6 / 10 must reach 0.6, whatever their last bits are.
    if vote.share < config.keep - 1e-9:
        return [], "unsure"
    if vote.label is None:
        return [], "no_answer"
    with_it = [i for i, label in enumerate(labels) if label == vote.label]
    without = [i for i, label in enumerate(labels) if label != vote.label]
    if weak == vote.label:
        if not without:
            return [], "too_easy"
        return [Pair(chosen="weak", rejected=i) for i in rng.sample(without, min(config.pairs, len(without)))], "chosen"
    if vote.share >= config.reject_weak - 1e-9:
        return [Pair(chosen=i, rejected="weak") for i in rng.sample(with_it, min(config.pairs, len(with_it)))], "rejected"
    return [], "disagrees"


async def preference_pairs(
    questions: Sequence[PublicExample], weak: Pool, samples: Sequence[Answer], key: AnswerKey, config: StageTwoConfig, *, seed: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(TRL's conversational preference rows with `id` and `weak_side`, how often each line of the rule applied).

    A failed or empty text is never trained on. Raises TypeError for a question with a gold.
    """
    by_id: dict[str, list[Answer]] = {}
    for answer in samples:
        by_id.setdefault(answer.example_id, []).append(answer)
    asked = [question for question in without_gold(questions) if question.id in by_id]
    labelled = await asyncio.gather(*(key.labels(q, [weak.whole(q.id), *(a.whole for a in by_id[q.id])]) for q in asked))
    counts: Counter[str] = Counter(dict.fromkeys(Outcome.__args__, 0))  # type: ignore[attr-defined]
    rng, rows = random.Random(seed), []
    for question, labels in zip(asked, labelled, strict=True):
        weak_text = weak.whole(question.id)
        if weak_text is None:
            counts["weak_missing"] += 1
            continue
        pairs, outcome = pairs_of(labels[0], labels[1:], config, rng)
        counts[outcome] += 1
        texts = [answer.text for answer in by_id[question.id]]
        seen = set()
        for pair in pairs:
            chosen, rejected = (weak_text if side == "weak" else texts[side] for side in (pair.chosen, pair.rejected))
            if not chosen or not rejected or (chosen, rejected) in seen:
                continue
            seen.add((chosen, rejected))
            rows.append(
                {
                    "prompt": [message.model_dump() for message in raw_messages(question)],
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": rejected}],
                    "id": question.id,
                    "weak_side": "chosen" if pair.chosen == "weak" else "rejected",
                }
            )
    return rows, dict(counts)
