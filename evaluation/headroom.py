"""What sampled instructions say about a teacher that is not trained yet: how far they move the student, and what could be learnt from it.

Each question was answered raw and under N sampled instructions. Estimates of the gain over raw, none of which trains anything:

    reachable    the share of questions that some instruction of this teacher answers, found or not: counts of hits per question follow
                 a zero-inflated beta-binomial distribution, and the questions of its zero part are out of reach; times what a hit is
                 worth when the same instruction is asked again, against raw asked again. What perfect choice would win.
    predicted    the reachable gain times K / (K + K0), a learning curve over the K questions for which the run will find an instruction
                 that works. K0 is one constant, which `benchmarks.dial` fits on worlds of their own.
    learnable    choose for each question among its own samples and silence by what worked on *similar* pairs of other questions (a
                 kernel average, ten folds), and count what that choice really earned. What a simple learner wins already: a lower bound.

A student that changes its answer at random under any text hits often, and its hits are worth no more than raw when asked again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from exchange.records import Record

FOLDS = 10
RESAMPLES = 200
HALF_LEARNT = 36.0
"""K0: solved questions after which a teacher has learnt half of what is within reach. Least squares over the four worlds of the dial's
calibration (`benchmarks/results/dial.json`); without one of them it is 40, 10, 55 or 27, so its first digit is about all that is known."""
SHARPNESS = 4
"""Power of the cosine similarities in the kernel: texts of one kind weigh much more than loosely related ones."""

Floats = NDArray[np.float64]


class Estimate(Record):
    """A value with its bootstrap interval over questions."""

    value: float
    low: float
    high: float


class Mixture(Record):
    """Hits of a question in n trials: none at all with probability `share`, else BetaBinomial(n, a, b)."""

    share: float
    """π, the share of questions that no instruction hits."""
    a: float
    b: float

    def found(self, trials: int) -> float:
        """The share of all questions that are hit at least once in so many trials."""
        if self.share == 1.0 or not trials:
            return 0.0
        missed = np.exp(special.betaln(self.a, self.b + trials) - special.betaln(self.a, self.b))
        return float((1 - self.share) * (1 - missed))


def minus_log_likelihood(theta: Floats, k: Floats, n: Floats, many: NDArray[np.int64]) -> tuple[float, Floats]:
    """Minus the log likelihood of `many` questions with k hits in n trials, under a weak prior, and its gradient.

    theta = (logit π, ln a, ln b)."""
    share, a, b = special.expit(theta[0]), np.exp(theta[1]), np.exp(theta[2])
    choose = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    log_hit = np.log1p(-share) + choose + special.betaln(k + a, n - k + b) - special.betaln(a, b)
    log_p = np.where(k == 0, np.logaddexp(np.log(share), log_hit), log_hit)
    by_hit = many * np.exp(log_hit - log_p)  # questions that are none of the zero part
    both = special.digamma(a + b) - special.digamma(n + a + b)
    slope = np.array([
        (many - by_hit).sum() - share * many.sum(),
        a * (by_hit * (special.digamma(k + a) - special.digamma(a) + both)).sum(),
        b * (by_hit * (special.digamma(n - k + b) - special.digamma(b) + both)).sum(),
    ])  # fmt: skip
    # The prior keeps a + b finite where all questions are alike.
    return float(-(many * log_p).sum() + 0.005 * (theta**2).sum()), 0.01 * theta - slope


def mixture(hits: Sequence[float] | Floats, trials: Sequence[float] | Floats) -> Mixture:
    """The zero-inflated beta-binomial by maximum likelihood; trials may have ended at the first hit, which leaves it the same.

    The share is 0 where every count is positive, 1 where all are 0. Questions without trials say nothing.
    """
    asked = np.asarray(trials, dtype=float) > 0
    k, n = np.asarray(hits, dtype=float)[asked], np.asarray(trials, dtype=float)[asked]
    if not k.any():
        return Mixture(share=1.0, a=1.0, b=1.0)
    (k, n), many = np.unique(np.stack([k, n]), axis=1, return_counts=True)
    bounds = [(-9, 9), (-4, 6), (-4, 6)]
    starts = [np.array([z, 0.5, 2.0]) for z in (-3.0, 1.0)]
    fits = [
        optimize.minimize(minus_log_likelihood, start, args=(k, n, many), jac=True, method="L-BFGS-B", bounds=bounds) for start in starts
    ]
    z, a, b = min(fits, key=lambda fit: fit.fun).x
    return Mixture(share=0.0 if k.all() else float(special.expit(z)), a=float(np.exp(a)), b=float(np.exp(b)))


def zero_part(hits: Sequence[float] | Floats, trials: Sequence[float] | Floats) -> float:
    """The share of questions that no instruction hits."""
    return mixture(hits, trials).share


def _bootstrap(values: Floats, statistic: Callable[[Floats], float], *, alpha: float, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    draws = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(RESAMPLES)]
    return float(np.quantile(draws, alpha / 2)), float(np.quantile(draws, 1 - alpha / 2))


def reachable(
    raw: Sequence[float], hits: Sequence[int], trials: Sequence[int], *, again: Sequence[float] | None = None,
    repeated: Sequence[float | None] | None = None, alpha: float = 0.05, seed: int = 0,
) -> Estimate:  # fmt: skip
    """Gain over raw if each question got the best instruction that this teacher can write.

    `raw` are grades in [0, 1]; a question that is right raw needs none. `hits` of `trials` sampled instructions were right (no trials:
    asked raw alone). Of a student that samples, `again` is the mean grade of fresh raw answers and `repeated` that of fresh answers under
    the instructions that hit (None: none did), so that luck is not taken for merit; None = a greedy student, whose answers repeat.
    """
    fresh = [np.nan if grade is None else grade for grade in repeated] if repeated is not None else [1.0] * len(raw)
    data = np.column_stack([raw, hits, trials, again if again is not None else [0.0] * len(raw), fresh]).astype(float)

    def gain(rows: Floats) -> float:
        wrong = rows[rows[:, 0] < 0.5]
        hit = wrong[(wrong[:, 1] > 0) & ~np.isnan(wrong[:, 4])]
        if not len(hit):
            return 0.0
        lasting = float((hit[:, 4] - hit[:, 3]).mean())
        return max(0.0, len(wrong) / len(rows) * (1 - zero_part(wrong[:, 1], wrong[:, 2])) * lasting)

    low, high = _bootstrap(data, gain, alpha=alpha, seed=seed)
    return Estimate(value=gain(data), low=low, high=high)


def predicted(could: Estimate, solved: float) -> Estimate:
    """What a run that will solve so many questions gets of the reachable gain."""
    share = solved / (solved + HALF_LEARNT) if solved else 0.0
    return Estimate(value=share * could.value, low=share * could.low, high=share * could.high)


def _tfidf(texts: Sequence[str]) -> Floats:
    """Rows of unit length: TF-IDF over words; a text without words is a row of zeros."""
    words = [re.findall(r"\w+", text.casefold()) for text in texts]
    column = {word: i for i, word in enumerate(sorted({word for row in words for word in row}))}
    counts = np.zeros((len(texts), max(1, len(column))))
    for i, row in enumerate(words):
        for word in row:
            counts[i, column[word]] += 1
    weight = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0)))
    rows = np.log1p(counts) * weight
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float64)


def learnable(
    queries: Sequence[str], raw: Sequence[float], instructions: Sequence[Sequence[str]], grades: Sequence[Sequence[float | None]],
    *, alpha: float = 0.05, seed: int = 0,
) -> Estimate:  # fmt: skip
    """Gain over raw of choosing by similar pairs of other questions; `instructions[q][i]` earned `grades[q][i]` (None: not scored)."""
    questions = len(queries)
    owner = np.array([q for q in range(questions) for text, g in zip(instructions[q], grades[q], strict=True) if g is not None], dtype=int)
    texts = [text for q in range(questions) for text, g in zip(instructions[q], grades[q], strict=True) if g is not None]
    earned = np.array([g for row in grades for g in row if g is not None], dtype=float)
    before = np.asarray(raw, dtype=float)
    fold = np.random.default_rng(seed).permutation(questions) % FOLDS
    rows_q = _tfidf(queries)
    near_q = np.maximum(rows_q @ rows_q.T, 0) ** SHARPNESS
    rows_i = _tfidf(texts) if texts else np.zeros((0, 1))
    near_i = np.maximum(rows_i @ rows_i.T, 0) ** SHARPNESS
    gains = np.zeros(questions)
    for q in range(questions):
        others = fold != fold[q]
        known = others[owner]
        if not known.any():
            continue
        weight_q = near_q[q] * others + 1e-9 * others
        silent = float((weight_q * before).sum() / weight_q.sum())
        prior = float(earned[known].mean())
        mine = np.flatnonzero(owner == q)
        best, best_value = None, silent
        for i in mine:
            weight = near_i[i] * weight_q[owner] * known
            # Shrunk to the mean by one pseudo-observation: a lone lucky neighbour is no evidence.
            value = (weight @ earned + prior) / (weight.sum() + 1)
            if value > best_value:
                best, best_value = i, value
        gains[q] = earned[best] - before[q] if best is not None else 0.0
    low, high = _bootstrap(gains, lambda rows: float(rows.mean()), alpha=alpha, seed=seed)
    return Estimate(value=float(gains.mean()), low=low, high=high)
