"""The search for the best text, the router's texts and the router, on outcomes that are known."""

import asyncio

import numpy as np

from evaluation.router import fit_router
from evaluation.static_search import best_text, cover, rounds_of, routed_texts
from exchange.records import Example

EXAMPLES = [
    Example(id=str(i), task="gsm8k", split="train", query=f"{'share' if i % 2 else 'gather'} {i} apples", gold="1") for i in range(400)
]


def asker(rule):
    """An `ask` that answers by `rule(text, example)` and counts its calls."""
    calls = []

    async def ask(texts, examples):
        calls.append(len(texts) * len(examples))
        return np.array([[rule(text, example) for example in examples] for text in texts], dtype=float)

    return ask, calls


def test_rounds_take_equal_calls_and_only_new_questions():
    found = rounds_of(64, 3000, 4000)
    assert [size for size, _ in found] == [64, 16, 4]
    asked, before = 0, 0
    for size, upto in found:
        asked += size * (upto - before)
        before = upto
    assert 2800 <= asked <= 3200
    assert rounds_of(1, 100, 50) == [(1, 50)]
    assert rounds_of(3, 10, 4000) == [(3, 4)]  # the fewest questions, whatever the calls


def test_the_best_of_many_texts_is_found_and_calls_are_counted():
    rng = np.random.default_rng(0)
    quality = {f"text {i}": i / 70 for i in range(64)}
    ask, calls = asker(lambda text, example: float(rng.random() < quality[text]))
    text, taken = asyncio.run(best_text(list(quality), EXAMPLES, ask, 4000))
    assert quality[text] > 0.8
    assert taken == sum(calls) and 3500 <= taken <= 4500


def test_a_call_that_failed_is_no_wrong_answer():
    ask, _ = asker(lambda text, example: np.nan if int(example.id) % 2 else float(text == "good"))
    assert asyncio.run(best_text(["bad", "good"], EXAMPLES, ask, 100))[0] == "good"


def test_cover_takes_texts_that_add_something():
    outcomes = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, np.nan], [1, 1, 0, 0, 0]], dtype=float)
    assert cover(outcomes, 12) == [1, 2]
    assert cover(outcomes, 1) == [1]


def test_the_router_learns_which_text_fits_which_question():
    def rule(text, example):
        return float(text == ("divide" if "share" in example.query else "add"))

    ask, calls = asker(rule)
    texts, outcomes, taken = asyncio.run(routed_texts(["divide", "add", "useless"], EXAMPLES[:300], ask, 600))
    assert texts[0] == "" and set(texts) == {"", "divide", "add"}
    assert taken == sum(calls) <= 600 and not np.isnan(outcomes).any()
    router = fit_router(texts, EXAMPLES, outcomes)
    written = asyncio.run(router.instruct([example.public() for example in EXAMPLES[300:]]))
    assert all(rule(text.text, example) for text, example in zip(written, EXAMPLES[300:], strict=True))


def test_a_router_over_texts_that_are_always_alike_is_no_error():
    router = fit_router(["", "a"], EXAMPLES, np.array([[0.0] * 10, [1.0] * 10]))
    written = asyncio.run(router.instruct([EXAMPLES[0].public()]))
    assert (written[0].text, written[0].source) == ("a", "static")
