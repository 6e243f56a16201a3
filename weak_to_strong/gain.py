"""Gain, misfit and slack of a student that learnt a weak model's labels, and when "gain >= misfit" is a theorem.

    gain   = error(weak) - error(student)        needs the truth
    misfit = loss of the student against the weak labels, which needs no truth
    slack  = gain - misfit

Charikar et al. (arXiv 2405.15116, theorem 1): where the student is the projection of the weak labels onto a convex class that holds the
truth, in the loss's own geometry, slack >= 0, and = 0 for an affine class; Mulgund and Pabbaraju (arXiv 2501.19105) for Bregman
divergences with the student in the first slot. Outside these conditions misfit is no gain: a student that cannot represent the truth
has gain near -misfit. Nor is an answer-disagreement rate a gain: in accuracy gain is at *most* disagreement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluation.paired import resampled_means
from exchange.records import Record
from exchange.settings import SettingError
from weak_to_strong.divergence import Array, Divergence
from weak_to_strong.heads import Head, HeadConfig, fit_head, mixture_weights

REALIZABLE = 1e-8
"""Relative error of the class's best head against the truth below which the class is taken to hold it: rounding and nothing else."""
NUMERICAL = {"squared": 1e-9, "forward_kl": 1e-6, "reverse_kl": 1e-6}
"""How far below its bound slack may fall by the solvers' own precision, relative to misfit for squared and absolute for KL (nats)."""
DRAWS = 10_000_000
"""Row draws that a bootstrap may take (half a second): 10,000 resamples of up to 1,000 rows, at least 1,000 of more."""


class Interval(Record):
    """A mean with its percentile bootstrap interval (95 %)."""

    value: float
    low: float
    high: float


class Condition(Record):
    """One premise of the theorem. `holds` None = cannot be checked without the truth."""

    name: str
    holds: bool | None
    detail: str


class Misfit(Record):
    """What was measured on n rows. Without the truth only `misfit` is known, which alone is no gain."""

    n: int
    loss: str
    misfit: Interval
    gain: Interval | None = None
    slack: Interval | None = None
    weak_error: Interval | None = None
    student_error: Interval | None = None


class Verdict(Record):
    """Whether the inequality is a theorem here, and whether it holds."""

    theorem: str | None
    """gain = misfit; gain >= misfit; gain >= misfit - allowance; None where a premise fails or cannot be checked."""
    allowance: float | None = None
    """By how much gain may fall short of misfit because the class misses the truth by eps: 2 sqrt(misfit * eps), squared loss."""
    violated: bool | None = None
    """Gain is below misfit by more than rounding; None without the truth."""
    broken: bool = False
    """Below what the theorem allows: the premises are not what they are declared to be."""
    conditions: tuple[Condition, ...] = ()


def _resamples(rows: int) -> int:
    return int(min(10_000, max(1_000, DRAWS // rows)))


def measure(student: Array, weak: Array, truth: Array | None, loss: Divergence, *, seed: int = 0) -> Misfit:
    """Gain, misfit and slack over rows (N, K) that all three outputs stand on.

    Intervals resample rows and hold the student fixed: they say how far these rows tell, not how another fit would come out. Raises
    ValueError where shapes differ, SettingError where a divergence is infinite.
    """
    for name, other in (("weak", weak), ("truth", truth)):
        if other is not None and other.shape != student.shape:
            raise ValueError(f"student has shape {student.shape} and {name} {other.shape}; all must be outputs on the same rows")
    columns = {"misfit": loss.misfit(student, weak)}
    if truth is not None:
        columns |= {"weak_error": loss.error(weak, truth), "student_error": loss.error(student, truth)}
        columns["gain"] = columns["weak_error"] - columns["student_error"]
        columns["slack"] = columns["gain"] - columns["misfit"]
    for name, values in columns.items():
        if not np.isfinite(values).all():
            endless = int((~np.isfinite(values)).sum())
            raise SettingError(
                f"{name}: {loss.name} is infinite on {endless} of {len(values)} rows, where one side gives probability 0 to what the other "
                "does not; soften hard 0/1 labels (say to 0.01 and 0.99), or take the other direction or --loss=squared"
            )
    table = np.stack(list(columns.values()), axis=1)
    drawn = resampled_means(table, seed=seed, resamples=_resamples(len(table)))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    found = {name: Interval(value=float(table[:, i].mean()), low=low[i], high=high[i]) for i, name in enumerate(columns)}
    return Misfit(n=len(table), loss=loss.name, **found)


def judge(
    found: Misfit,
    features: Array,
    truth: Array | None,
    loss: Divergence,
    config: HeadConfig,
    head: Head,
    *,
    in_sample: bool,
    condition: float,
) -> Verdict:
    """Check each premise on the rows of `found` (features (N, D), truth (N, K)) and say what follows. `head` is the student's, `condition`
    the condition number of its features."""
    premises = [_geometry(loss, config)]
    premises.append(
        Condition(name="fitting rows", holds=in_sample, detail="measured on the rows that were fitted" if in_sample else HELD_OUT)
    )
    eps = None
    if truth is None:
        premises.append(Condition(name="realizable", holds=None, detail="unknown: there is no truth to fit"))
    else:
        eps = class_error(features, truth, loss, config, head)
        spread = float(loss.error(np.broadcast_to(truth.mean(axis=0), truth.shape), truth).mean())
        relative = eps / spread if spread else 0.0
        detail = f"the class's best head misses the truth by {eps:.3g}, {relative:.2g} of its spread"
        premises.append(Condition(name="realizable", holds=relative <= REALIZABLE, detail=detail))
    detail = f"condition number of the standardised features {condition:.3g}"
    premises.append(Condition(name="conditioning", holds=condition <= config.max_condition, detail=detail))
    if found.slack is None:
        return Verdict(theorem=None, conditions=tuple(premises))
    tolerance = NUMERICAL[loss.name] * (max(found.misfit.value, 1e-300) if loss.name == "squared" else 1.0)
    violated = found.slack.value < -tolerance
    if not in_sample or not premises[0].holds or eps is None:
        return Verdict(theorem=None, violated=violated, conditions=tuple(premises))
    if premises[2].holds:
        # A point mixture of experts is convex and not affine; a linear head's class is affine in the loss's own coordinates.
        equal = config.kind == "linear"
        broken = violated or (equal and found.slack.value > tolerance)
        return Verdict(
            theorem="gain = misfit" if equal else "gain >= misfit",
            allowance=0.0,
            violated=violated,
            broken=broken,
            conditions=tuple(premises),
        )
    if loss.name != "squared":
        return Verdict(theorem=None, violated=violated, conditions=tuple(premises))
    # slack = 2 <weak - student, student - truth>; the projection takes care of all but the part in which the class misses the truth.
    allowance = 2 * math.sqrt(found.misfit.value * eps)
    broken = found.slack.value < -allowance - tolerance
    return Verdict(theorem="gain >= misfit - allowance", allowance=allowance, violated=violated, broken=broken, conditions=tuple(premises))


HELD_OUT = "measured on rows that were not fitted: the inequality holds up to a sampling error that shrinks with the fitting rows"
_CONVEX = {
    ("squared", "linear"): "least squares over all linear heads, an affine class",
    ("squared", "ball"): "exact projection onto the ball of heads, a convex class",
    ("squared", "mixture"): "least squares over mixtures of fixed experts, a convex class",
    ("reverse_kl", "mixture"): "reverse KL over mixtures of fixed experts, a class that is convex in probabilities",
    ("forward_kl", "linear"): "cross-entropy over linear softmax heads, an exponential family",
}
_NOT_CONVEX = {
    "ridge": "a penalised fit is no projection onto a fixed class",
    "linear": "softmax heads are not convex in probabilities, as reverse KL needs; take --head.kind=mixture",
    "mixture": "mixtures are not convex in logits, as forward KL needs; take --head.kind=linear",
}


def _geometry(loss: Divergence, config: HeadConfig) -> Condition:
    convex = _CONVEX.get((loss.name, config.kind))
    return Condition(name="projection onto a convex class", holds=convex is not None, detail=convex or _NOT_CONVEX[config.kind])


def class_error(features: Array, truth: Array, loss: Divergence, config: HeadConfig, head: Head) -> float:
    """eps: the error that is left where the class is fitted to the truth itself; for a mixture the class is that of the student's experts.
    A softmax head that the truth separates comes as near as one likes, so eps is 0 there."""
    if config.kind == "mixture":
        outputs = np.stack([expert(features) for expert in head.experts])
        best = np.tensordot(mixture_weights(outputs, truth, loss), outputs, 1)
    else:
        try:
            best = fit_head(features, truth, loss, config, np.random.default_rng(0)).predict(features)
        except SettingError:
            return 0.0
    return float(loss.misfit(best, truth).mean())


class Candidate(Record):
    """A weak teacher before the student is trained: how wrong it is on its own hold-out, and how far the student departs from it."""

    name: str
    weak_error: float
    misfit: float
    student_error: float | None = None
    """Where it is known after all, to see how well the rule ranked."""

    @property
    def predicted(self) -> float:
        """The student's error if gain = misfit."""
        return self.weak_error - self.misfit


def choose_teacher(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, the one with the least weak error - misfit first (Charikar et al.), ties by weak error.

    For students that imitate labels, and only there. Both terms must be of one loss. Look at both columns: with labels on the student's
    own inputs the student can simply be measured; the rule is for a weak error known from elsewhere and misfit on unlabelled inputs.
    """
    if not candidates:
        raise ValueError("no candidates to choose from")
    return sorted(candidates, key=lambda one: (one.predicted, one.weak_error))


def accuracy_gain(student: Sequence[bool], weak: Sequence[bool], same: Sequence[bool]) -> dict[str, float]:
    """The exact accounting of accuracy: acc_s - acc_w = disagreement - 2 P(only weak right) - P(both wrong and different).

    So disagreement bounds the gain in accuracy from above, where misfit bounds the gain in loss from below. `same`: equal answers.
    """
    rows = list(zip(student, weak, same, strict=True))
    share = 1 / len(rows)
    disagreement = sum(not equal for *_, equal in rows) * share
    lost = sum(w and not s for s, w, _ in rows) * share
    both_wrong = sum(not s and not w and not equal for s, w, equal in rows) * share
    return {
        "gain": disagreement - 2 * lost - both_wrong,
        "disagreement": disagreement,
        "lost": lost,
        "both_wrong_and_different": both_wrong,
    }
