"""What sampled instructions say about a teacher that is not trained yet: how far they move the student, and what could be learnt from it.

Questions were answered raw, and half of them under sampled instructions. Estimates of the gain over raw, none of which trains anything:

    reachable    what an instruction that serves a question is worth over raw, over all questions that are wrong raw and that some
                 instruction serves, whether it was sampled or not. What perfect choice would win there.
    predicted    the reachable gain times K / (K + K0 H), a learning curve over the K questions for which the run will find an
                 instruction that works, where it takes H different ones to serve them all. K0 is one constant, which
                 `benchmarks.dial` fits on worlds of their own.
    learnable    choose for each question among its own samples and silence by what worked on *similar* pairs of other questions (a
                 kernel average, ten folds), and count what that choice really earned. What a simple learner wins already: a lower bound.

A student that changes its answer at random under any text hits often, and its hits are worth no more than raw when asked again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from exchange.records import Record

FOLDS = 10
RESAMPLES = 100
HALF_LEARNT = 9.9
"""K0: solved questions for each different instruction after which a teacher has learnt half of what is within reach. Least squares over the
fifteen worlds of the dial's calibration (`benchmarks/results/dial.json`); without one of them it is 7.8 to 14.1. Without borrowed instructions
(`teacher.borrowed`) a teacher learns less from each question and it is 16.6."""
MOST_LESSONS = 50.0
"""H at the most: so rarely does an instruction serve another question that a probe cannot tell how rarely."""
SHARPNESS = 4
"""Power of the cosine similarities in the kernel: texts of one kind weigh much more than loosely related ones."""

Floats = NDArray[np.float64]


class Estimate(Record):
    """A value with its bootstrap interval over questions."""

    value: float
    low: float
    high: float


class Tried(Record):
    """What a probe saw of one question."""

    raw: float
    """The grade of its raw answer, in [0, 1]."""
    trials: int = 0
    """Sampled instructions under which it was answered; trials may have ended at the first hit."""
    hits: int = 0
    """Those under which the answer was right."""
    repeated: int | None = None
    """Those of the hits whose fresh answer was right again; None = a greedy student, whose answers repeat."""
    again: int = 0
    """Fresh raw answers that were right, ..."""
    fresh: int = 0
    """... of so many; none of a greedy student."""
    moved: int = 0
    """Other questions that were wrong raw and right under a hit of this one, ..."""
    moves: int = 0
    """... of those that were asked under it."""


class Mixture(Record):
    """Instructions of a question: with probability `share` none is good, else each is with a rate ~ Beta(a, b). Under a good one an
    answer is right with probability `good`, under another with `luck`."""

    share: float
    """π, the share of questions that no instruction serves."""
    a: float
    b: float
    good: float = 1.0
    luck: float = 0.0

    def found(self, trials: int) -> float:
        """The share of all questions for which so many trials hold a good instruction."""
        if self.share == 1.0 or not trials:
            return 0.0
        return float((1 - self.share) * (1 - np.exp(_log_weights(self.a, self.b)) @ (1 - RATES) ** trials))


_ROOT = (np.arange(100) + 0.5) / 100
RATES = _ROOT**2
"""Where the rate of good instructions is looked at: closest near 0."""


def _log_weights(a: float, b: float) -> Floats:
    """Of Beta(a, b) at RATES; what lies nearer to 0 or 1 than those is counted there."""
    log_w = (a - 1) * np.log(RATES) + (b - 1) * np.log1p(-RATES) + np.log(_ROOT)
    return np.asarray(log_w - special.logsumexp(log_w), dtype=np.float64)


CENTRE, WEIGHT = np.array([0.0, 0.5, 2.0, 1.0, -2.0]), np.array([0.005, 0.02, 0.02, 0.02, 0.02])
"""A weak prior on (logit π, ln a, ln b, logit good, logit luck/good), which keeps them finite where all questions are alike."""
BOUNDS = [(-9, 9), (-4, 6), (-4, 6), (-3, 6), (-6, 3)]
STARTS = ((-3.0, 0.5, 2.0, 1.5, -3.0), (1.0, 0.5, 2.0, 0.0, -1.0))


def minus_log_likelihood(theta: Floats, rows: Floats, many: Floats, *, greedy: bool) -> tuple[float, Floats, Floats]:
    """Minus the log posterior of `many` questions with each of the `rows` (trials, hits, hits that were right again), its gradient, and
    of each row the probability that some instruction serves the question.

    theta = (logit π, ln a, ln b, logit good, logit luck/good); where the student is `greedy`, good = 1 and luck = 0.
    """
    miss, right, wrong = rows[:, 0] - rows[:, 1], rows[:, 2], rows[:, 1] - rows[:, 2]
    none, a, b, part = special.expit(theta[0]), np.exp(theta[1]), np.exp(theta[2]), special.expit(theta[4])
    good = 1.0 if greedy else special.expit(theta[3])
    luck = 0.0 if greedy else good * part
    at = np.concatenate([[0.0], RATES])  # the first: no instruction is good
    log_w = _log_weights(a, b)
    w = np.exp(log_w)
    missed = at * (1 - good) + (1 - at) * (1 - luck)
    lasted = at * good**2 + (1 - at) * luck**2
    lapsed = at * good * (1 - good) + (1 - at) * luck * (1 - luck)
    seen = [(miss, missed), (right, lasted), (wrong, lapsed)]
    log_p = sum(special.xlogy(count[:, None], chance) for count, chance in seen)
    log_some = special.logsumexp(log_p[:, 1:] + log_w, axis=1)
    whole = np.logaddexp(np.log(none) + log_p[:, 0], np.log1p(-none) + log_some)
    some = np.exp(np.log1p(-none) + log_some - whole)
    held = np.exp(log_p[:, 1:] + log_w - log_some[:, None]) * some[:, None]  # joint: served, at this rate
    slope = np.zeros(5)
    slope[0] = many @ (1 - some - none)
    of_a, of_b = np.log(RATES), np.log1p(-RATES)
    slope[1] = a * (many @ (held @ (of_a - w @ of_a)))
    slope[2] = b * (many @ (held @ (of_b - w @ of_b)))
    if not greedy:
        part_of = np.column_stack([1 - some, held])
        per_good = (-at, 2 * at * good, at * (1 - 2 * good))
        per_luck = (at - 1, 2 * (1 - at) * luck, (1 - at) * (1 - 2 * luck))
        to_good, to_luck = (
            sum(
                many @ (part_of * count[:, None] * (change / chance)).sum(axis=1)
                for (count, chance), change in zip(seen, changes, strict=True)
            )
            for changes in (per_good, per_luck)
        )
        slope[3] = to_good * good * (1 - good) + to_luck * luck * (1 - good)
        slope[4] = to_luck * luck * (1 - part)
    off = theta - CENTRE
    return float(-(many @ whole) + WEIGHT @ off**2), 2 * WEIGHT * off - slope, some


class Fit(Record):
    """A mixture, where in its parameters it stands, and of each question the probability that some instruction serves it."""

    mixture: Mixture
    theta: list[float]
    served: list[float]
    loss: float
    """Minus the log posterior."""


def _beta_binomial(right: Floats, wrong: Floats) -> float:
    """Minus the log posterior of answers that are right at one rate a question, which is ~ Beta(a, b)."""

    def loss(theta: Floats) -> float:
        a, b = np.exp(theta)
        return float(-(special.betaln(right + a, wrong + b) - special.betaln(a, b)).sum() + WEIGHT[1:3] @ (theta - CENTRE[1:3]) ** 2)

    return float(optimize.minimize(loss, CENTRE[1:3], method="L-BFGS-B", bounds=BOUNDS[1:3]).fun)


def by_luck(trials: Floats, hits: Floats, repeated: Floats, again: Floats, fresh: Floats, merit: float) -> bool:
    """Whether a student's slips alone explain the counts: all answers to a question, under whatever instruction or none, are right at one
    rate. Against it stands the mixture, whose minus log posterior is `merit`, with raw answers at a rate of their own; the one with the
    smaller Akaike information criterion is believed (two parameters against seven)."""
    slips = _beta_binomial(hits + repeated + again, trials - repeated + fresh - again)
    return slips + 2 <= merit + _beta_binomial(again, fresh - again) + 7


def fit(trials: Floats, hits: Floats, repeated: Floats | None, start: Sequence[float] | None = None) -> Fit:
    """The mixture by maximum likelihood under a weak prior; `repeated` is None of a greedy student. A `start` spares the search.

    The share is 1 where all counts are 0, and of a greedy student 0 where every one is positive.
    """
    if not hits.any():
        return Fit(mixture=Mixture(share=1.0, a=1.0, b=1.0), theta=list(CENTRE), served=[0.0] * len(hits), loss=0.0)
    greedy = repeated is None
    counts = np.column_stack([trials, hits, hits if repeated is None else repeated])
    rows, back, many = np.unique(counts, axis=0, return_inverse=True, return_counts=True)
    weight = many.astype(float)

    def loss(theta: Floats) -> tuple[float, Floats]:
        return minus_log_likelihood(theta, rows, weight, greedy=greedy)[:2]

    found = [optimize.minimize(loss, at, jac=True, method="L-BFGS-B", bounds=BOUNDS) for at in ([start] if start else STARTS)]
    best = min(found, key=lambda one: one.fun)
    served = minus_log_likelihood(best.x, rows, weight, greedy=greedy)[2][back.ravel()]
    (none, good, part), (a, b) = special.expit(best.x[[0, 3, 4]]), np.exp(best.x[[1, 2]])
    if greedy:
        none, good, part, served = (0.0, 1.0, 0.0, np.ones(len(hits))) if hits.all() else (none, 1.0, 0.0, served)
    mixed = Mixture(share=float(none), a=float(a), b=float(b), good=float(good), luck=float(good * part))
    return Fit(mixture=mixed, theta=list(best.x), served=list(served), loss=float(best.fun))


class Outlook(Record):
    """What a probe makes of its counts."""

    reachable: Estimate
    predicted: Estimate
    solved: float
    """K, questions for which the run will find an instruction that works."""
    lessons: float
    """H, how many different instructions serve all that can be served: one over the probability that what serves one question serves
    another (the Hill number of order 2; Hill 1973, Ecology 54(2), https://doi.org/10.2307/1934352)."""
    luck: bool
    """Whether a student's slips alone explain the hits."""


class _Look(NamedTuple):
    reach: float
    told: float
    solved: float
    lessons: float
    luck: bool
    theta: list[float]


def _look(tried: Floats, finds: Sequence[tuple[float, int]], *, greedy: bool, start: list[float] | None = None) -> _Look:
    """What rows of counts say."""
    wrong = tried[tried[:, 0] < 0.5]
    raw, trials, hits, repeated, again, fresh, moved, moves = wrong[wrong[:, 1] > 0].T
    found = fit(trials, hits, None if greedy else repeated, start)
    mixed, share = found.mixture, len(wrong) / len(tried)
    luck = not greedy and bool(hits.any()) and by_luck(trials, hits, repeated, again, fresh, found.loss)
    if luck or mixed.share == 1.0:
        return _Look(0.0, 0.0, 0.0, 1.0, luck, found.theta)
    worth = mixed.good - np.where(fresh > 0, again / np.maximum(1, fresh), raw)
    common, at_least = _common(hits, hits if greedy else repeated, moved, moves, mixed.luck)
    # What one instruction serves is within reach, however rarely it was sampled.
    reach = max(0.0, share * max(float(np.mean(np.array(found.served) * worth)), at_least * float(worth.mean())))
    lessons = min(MOST_LESSONS, max(1.0, max(1 - mixed.share, at_least) / max(common, 1e-9)))
    solved = share * sum(questions * mixed.found(samples) for questions, samples in finds)
    return _Look(reach, reach * solved / (solved + HALF_LEARNT * lessons) if solved else 0.0, solved, lessons, luck, found.theta)


def _common(hits: Floats, repeated: Floats, moved: Floats, moves: Floats, luck: float) -> tuple[float, float]:
    """The probability that what serves one question serves another, and one that it exceeds in 95 of 100 probes.

    A moved instruction is right as often as its hits are a second time where it serves, and by luck where it does not. The bound is that of
    Agresti and Coull (1998, https://doi.org/10.2307/2685469), one-sided, over questions: the moves of one go together.
    """
    moves, moved = moves * (hits > 0), moved * (hits > 0)  # a hit that could not be judged again is none
    if not moves.any():
        return 1.0, 0.0
    own = float((moves * repeated / np.maximum(1, hits)).sum() / moves.sum())
    common = float(np.clip((moved.sum() / moves.sum() - luck) / max(own - luck, 1e-9), 0.0, 1.0))
    n = (moves > 0).sum() + 1.645**2
    centre = ((moves > 0).sum() * common + 1.645**2 / 2) / n
    return common, max(0.0, centre - 1.645 * np.sqrt(centre * (1 - centre) / n))


def outlook(tried: Sequence[Tried], finds: Sequence[tuple[float, int]], *, alpha: float = 0.05, seed: int = 0) -> Outlook:
    """Gain within reach and gain to be reached, over raw; intervals by bootstrap over questions.

    `finds`: (questions, instructions a question) of each of the ways in which the run will look for instructions that work. A question
    that is right raw needs none, so what could be gained there of a student that slips is not counted. The intervals leave out how well
    K0 is known.
    """
    greedy = all(one.repeated is None for one in tried)
    rows = np.array([list(one.model_dump().values()) for one in tried], dtype=float)
    seen = _look(rows, finds, greedy=greedy)
    rng = np.random.default_rng(seed)
    again = [_look(rows[rng.integers(0, len(rows), len(rows))], finds, greedy=greedy, start=seen.theta) for _ in range(RESAMPLES)]
    low, high = np.quantile([(look.reach, look.told) for look in again], [alpha / 2, 1 - alpha / 2], axis=0)
    return Outlook(
        reachable=Estimate(value=seen.reach, low=low[0], high=high[0]), predicted=Estimate(value=seen.told, low=low[1], high=high[1]),
        solved=seen.solved, lessons=seen.lessons, luck=seen.luck,
    )  # fmt: skip


def _bootstrap(values: Floats, statistic: Callable[[Floats], float], *, alpha: float, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    draws = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(RESAMPLES)]
    return float(np.quantile(draws, alpha / 2)), float(np.quantile(draws, 1 - alpha / 2))


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
