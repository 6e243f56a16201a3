"""Right or wrong against the gold, for tasks whose answer is one number (gsm8k, lab_arithmetic)."""

from __future__ import annotations

from exchange.records import Completion, Example, Score
from tasks.gsm8k_answer import equal, extract, gold_number


def grade_number(example: Example, completion: Completion) -> Score:
    """1.0 where the extracted number equals the gold, 0.0 where it does not or there is none.

    `value` is None where nothing can be decided: the completion failed, or the example has no usable gold.
    """
    gold = gold_number(example.gold) if example.gold is not None else None
    if completion.text is None or gold is None:
        return Score(value=None)
    extracted = extract(completion.text)
    right = extracted is not None and equal(extracted, gold)
    return Score(value=float(right), extracted=extracted)
