"""The pairing rule of Stage II, case by case, and what becomes of the texts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from exchange.records import Example, PublicExample
from weak_to_strong.agreement import Answer, Pool, TaskKey
from weak_to_strong.stage_two import StageTwoConfig, majority, pairs_of, preference_pairs

CONFIG = StageTwoConfig()


def samples(**counts: int) -> list[str]:
    """18 times 7 and 20 times 3 is samples(_18=7, _20=3); `none` has no answer."""
    return [("" if name == "none" else name.removeprefix("_")) for name, count in counts.items() for _ in range(count)]


def labelled(weak: str, drawn: Sequence[str]) -> tuple[int | None, list[int | None]]:
    known = [text for text in dict.fromkeys([weak, *drawn]) if text]
    label = {text: i for i, text in enumerate(known)}
    return label.get(weak), [label.get(text) for text in drawn]


@pytest.mark.parametrize(
    ("weak", "drawn", "outcome"),
    [
        ("18", samples(_18=7, _20=3), "chosen"),
        ("18", samples(_18=10), "too_easy"),
        ("18", samples(_18=5, _20=5), "unsure"),
        ("7", samples(_18=8, _20=2), "rejected"),
        ("7", samples(_18=7, _20=3), "disagrees"),
        ("18", samples(none=7, _18=3), "no_answer"),
        ("18", samples(_18=6, _20=4), "chosen"),
        ("7", samples(_18=6, _20=4), "disagrees"),
        ("", samples(_18=9, _20=1), "rejected"),
    ],
)
def test_the_rule(weak: str, drawn: list[str], outcome: str) -> None:
    weak_label, labels = labelled(weak, drawn)
    pairs, found = pairs_of(weak_label, labels, CONFIG, random.Random(0))
    assert found == outcome
    if outcome == "chosen":
        assert [pair.chosen for pair in pairs] == ["weak"]
        assert all(labels[pair.rejected] != weak_label for pair in pairs if isinstance(pair.rejected, int))
    elif outcome == "rejected":
        assert [pair.rejected for pair in pairs] == ["weak"]
        assert all(drawn[pair.chosen] == "18" for pair in pairs if isinstance(pair.chosen, int))
    else:
        assert pairs == []


def test_up_to_three_pairs_take_different_samples() -> None:
    weak, labels = labelled("18", samples(_18=7, _20=3))
    pairs, _ = pairs_of(weak, labels, StageTwoConfig(pairs=3), random.Random(0))
    assert sorted(pair.rejected for pair in pairs) == [7, 8, 9]
    weak, labels = labelled("7", samples(_18=9, _20=1))
    pairs, _ = pairs_of(weak, labels, StageTwoConfig(pairs=3), random.Random(0))
    assert len({pair.chosen for pair in pairs}) == 3 and all(pair.rejected == "weak" for pair in pairs)


def test_of_equal_counts_the_first_seen_wins() -> None:
    assert majority([1, 0, 0, 1]).label == 1
    assert majority([None, 0, 0, None]).label is None
    assert majority([0, 0, 1]).share == pytest.approx(2 / 3)


def question(number: int) -> PublicExample:
    return PublicExample(id=f"q{number}", task="gsm8k", split="train", query=f"What is {number} + 1?")


def test_texts_are_weak_on_one_side_of_every_pair() -> None:
    questions = [question(i) for i in range(3)]
    weak = Pool.of([Answer(example_id="q0", text="#### 18"), Answer(example_id="q1", text="#### 7"), Answer(example_id="q2")])
    drawn = [
        Answer(example_id=q.id, text=text, finish_reason="stop", sample_index=i)
        for q in questions
        for i, text in enumerate(["so #### 18"] * 8 + ["so #### 20"] * 2)
    ]
    rows, counts = asyncio.run(preference_pairs(questions, weak, drawn, TaskKey(), CONFIG, seed=42))
    assert [(row["id"], row["weak_side"]) for row in rows] == [("q0", "chosen"), ("q1", "rejected")]
    assert rows[0]["chosen"][0]["content"] == "#### 18" and rows[0]["rejected"][0]["content"] == "so #### 20"
    assert rows[1]["chosen"][0]["content"] == "so #### 18" and rows[1]["rejected"][0]["content"] == "#### 7"
    assert counts["weak_missing"] == 1 and counts["chosen"] == counts["rejected"] == 1
    again, _ = asyncio.run(preference_pairs(questions, weak, drawn, TaskKey(), CONFIG, seed=42))
    assert again == rows


def test_a_question_with_a_gold_is_refused_by_type() -> None:
    told = Example(id="q0", task="gsm8k", split="train", query="What is 1 + 1?", gold="2")
    with pytest.raises(TypeError, match="may hold a gold answer"):
        asyncio.run(preference_pairs([told], Pool.of([]), [Answer(example_id="q0")], TaskKey(), CONFIG, seed=0))
