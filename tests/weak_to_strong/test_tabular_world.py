"""What W2SR claims, in a world small enough to be solved: reference A6.

A state in Z_K, L operations o_t, gold = s + sum(o) mod K. The teacher errs in a step with probability eps, to a uniform wrong value, and
goes on from there. A student that imitates chains converges to the step table P(next | state, operation). The chains pass through the
project's own grading and choice of variants; only the worlds and the tables are made here.
"""

import numpy as np
import pytest

from exchange.records import Example
from weak_to_strong.traces import HygieneConfig, Trace, clean, graded, of_variant

N = 20_000


def teacher_chains(rng, n, length, size, eps, *, systematic=False):
    """(ops (n, length), states (n, length + 1)); systematic: operation 7 is always one too much, and nothing else is wrong."""
    ops = rng.integers(0, size, (n, length))
    states = np.empty((n, length + 1), dtype=int)
    states[:, 0] = rng.integers(0, size, n)
    for t in range(length):
        right = (states[:, t] + ops[:, t]) % size
        if systematic:
            slip = (ops[:, t] == 7).astype(int)
        else:
            slip = np.where(rng.random(n) < eps, rng.integers(1, size, n), 0)
        states[:, t + 1] = (right + slip) % size
    return ops, states


def partition(ops, states, size):
    """Boolean masks of the variants, made by the project's grader and filter from the chains as texts."""
    import asyncio

    traces, examples = [], []
    for i, (row, path) in enumerate(zip(ops, states, strict=True)):
        gold = (path[0] + row.sum()) % size
        text = "\n".join([*(f"{path[t]} + {row[t]} = {path[t + 1]}" for t in range(len(row))), f"#### {path[-1]}"])
        examples.append(Example(id=str(i), task="gsm8k", split="train", query="?", gold=str(gold)))
        traces.append(Trace(example_id=str(i), completion=text, finish_reason="stop"))
    marked = asyncio.run(graded(traces, examples))
    kept, dropped = clean(marked, {example.id: "?" for example in examples}, HygieneConfig(loop_words=200))
    assert sum(dropped.values()) == 0
    masks = {}
    for variant in ("all", "positive", "negative"):
        masks[variant] = np.zeros(len(ops), dtype=bool)
        masks[variant][[int(trace.example_id) for trace in of_variant(kept, variant)]] = True
    return masks


def table(ops, states, size):
    """counts[state, op, next]"""
    counts = np.zeros((size, size, size))
    np.add.at(counts, (states[:, :-1].ravel(), ops.ravel(), states[:, 1:].ravel()), 1)
    return counts


def step_rate(ops, states, size):
    return float(((states[:, :-1] + ops) % size == states[:, 1:]).mean())


def answered(rng, counts, ops, start, size, temperature):
    """Final states of a student with this table, greedy at temperature 0."""
    state = start.copy()
    for t in range(ops.shape[1]):
        rows = counts[state, ops[:, t]]
        if temperature == 0:
            state = rows.argmax(1)
        else:
            shares = rows ** (1 / temperature)
            shares /= shares.sum(1, keepdims=True)
            state = (shares.cumsum(1) > rng.random((len(ops), 1))).argmax(1)
    return state


def theory(length, size, eps):
    q = np.full(size, eps / (size - 1))
    q[0] = 1 - eps

    def power(k):
        found = np.zeros(size)
        found[0] = 1.0
        for _ in range(k):
            found = np.array([sum(found[j] * q[(i - j) % size] for j in range(size)) for i in range(size)])
        return found[0]

    right, before = power(length), power(length - 1)
    return right, (1 - eps) * before / right, (1 - eps) * (1 - before) / (1 - right)


@pytest.mark.parametrize(
    ("length", "size", "eps", "accuracy", "p_step", "n_step", "sampled"),
    [
        (4, 10, 0.2, 0.4294, 0.9753, 0.6681, (0.43, 0.91, 0.24)),
        (4, 10, 0.3, 0.2778, 0.9240, 0.6138, (0.28, 0.73, 0.19)),
        (6, 10, 0.3, 0.1790, 0.8545, 0.6663, (0.18, 0.42, 0.15)),
    ],
)
def test_the_student_passes_its_teacher_also_from_wrong_chains(length, size, eps, accuracy, p_step, n_step, sampled):
    assert theory(length, size, eps) == pytest.approx((accuracy, p_step, n_step), abs=6e-5)
    rng = np.random.default_rng(0)
    ops, states = teacher_chains(rng, N, length, size, eps)
    masks = partition(ops, states, size)
    assert masks["positive"].mean() == pytest.approx(accuracy, abs=0.01)
    assert (masks["positive"] ^ masks["negative"]).all() and masks["all"].all()
    steps = {name: step_rate(ops[mask], states[mask], size) for name, mask in masks.items()}
    assert steps == pytest.approx({"all": 1 - eps, "positive": p_step, "negative": n_step}, abs=0.01)
    asked = rng.integers(0, size, (N, length))
    start = rng.integers(0, size, N)
    gold = (start + asked.sum(1)) % size
    for name, expected in zip(masks, sampled, strict=True):
        counts = table(ops[masks[name]], states[masks[name]], size)
        assert (answered(rng, counts, asked, start, size, 0) == gold).all(), name  # greedy: exactly 1.0
        assert (answered(rng, counts, asked, start, size, 1.0) == gold).mean() == pytest.approx(expected, abs=0.015), name


def test_sampling_at_a_low_temperature_seeks_the_mode():
    rng = np.random.default_rng(1)
    ops, states = teacher_chains(rng, N, 4, 10, 0.3)
    counts = table(ops, states, 10)
    share = 0.7 ** (1 / 0.6) / (0.7 ** (1 / 0.6) + 9 * (0.3 / 9) ** (1 / 0.6))
    assert share == pytest.approx(0.9467, abs=5e-5)
    start = rng.integers(0, 10, N)
    right = answered(rng, counts, ops, start, 10, 0.6) == (start + ops.sum(1)) % 10
    assert right.mean() == pytest.approx(0.8050, abs=0.01)


def test_a_systematic_error_is_copied():
    rng = np.random.default_rng(2)
    ops, states = teacher_chains(rng, N, 4, 10, 0.0, systematic=True)
    masks = partition(ops, states, 10)
    assert masks["positive"].mean() == pytest.approx(0.6561, abs=0.01)
    asked, start = rng.integers(0, 10, (N, 4)), rng.integers(0, 10, N)
    gold = (start + asked.sum(1)) % 10
    for name in ("all", "negative"):
        counts = table(ops[masks[name]], states[masks[name]], 10)
        assert (answered(rng, counts, asked, start, 10, 0) == gold).mean() == pytest.approx(0.6561, abs=0.01)
    assert table(ops[masks["positive"]], states[masks["positive"]], 10)[:, 7].sum() == 0  # never sees the operation
