"""An A/B test's report from its log: every arm against the control, on every metric, with what may be claimed.

Intention to treat: a unit counts in the arm it was first assigned to, whatever happened to its requests (fallbacks, later arms, no
outcome). Error levels: each interval and p-value stands for itself at `alpha`, valid at every look; *verdicts* go by Holm's adjustment of
all the p-values of the report together, so the chance of any false "better" or "worse" is at most alpha. An interval may therefore leave
out 0 while the verdict is still "undecided".

A comparison is "invalid", whatever its numbers, where

- the arms do not hold their planned shares of units (sample-ratio p-value <= 0.01): the split or the log is broken;
- the arm or the control has no outcome of the metric;
- the shares of units without an outcome differ between arm and control at an always-valid p-value <= 0.001: the outcomes that are
  missing are then not missing by chance, and their absence alone can make a difference.

The same log gives the same report: units are taken in order of time, and nothing is random.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np

from evaluation.ab_log import AbLog, Ints, MetricTable
from evaluation.assignment import check_weights
from evaluation.sample_ratio import SRM_ALPHA, sample_ratio_p_values
from evaluation.sequences import DEFAULT_PLANNED_N, holm, tuning
from evaluation.two_arms import CAP, Contrast, Excess, Method, Sample, contrast, early_p_value, guardrail, one_value_each, waits_for
from exchange.records import Record

ATTRITION_ALPHA = 0.001
"""Missing outcomes make a comparison invalid at this always-valid p-value: strict, because real arms differ a little in who answers."""

CONTROLS = ("control", "raw")
"""Arms taken for the control where none is named, in this order."""

Verdict = Literal["better", "worse", "undecided", "invalid"]


class SampleRatio(Record):
    """Whether the arms hold the shares of units that were planned."""

    p_value: float
    """Always-valid, for the counts as they are."""
    lowest_p_value: float
    """The lowest that it has been, in order of time: a split that was broken for a while and then mended shows here."""
    ok: bool
    """p_value > 0.01."""
    planned: dict[str, float]
    units: dict[str, int]


class ArmSummary(Record):
    """One arm on one metric."""

    n: int
    """Outcomes (values that are not null)."""
    units: int
    """Units with an outcome."""
    mean: float | None
    """Sum of values / number of values, each unit's weight capped; None without outcomes."""
    exposed: int
    """Units in the arm, with or without an outcome."""
    capped_units: int
    """Units that count with fewer values than they have."""


class ArmComparison(Record):
    """An arm minus the control on one metric."""

    difference: float | None
    """After CUPED where covariates allow it."""
    low: float | None
    high: float | None
    p_value: float
    p_holm: float
    """Adjusted for all comparisons of the report; the verdict goes by it."""
    verdict: Verdict
    method: Method
    missing_p_value: float
    """Always-valid, for equal shares of units without an outcome."""
    covariate_correlation: float | None
    notes: tuple[str, ...]
    """Why it is invalid, and what a reader should know."""


class MetricReport(Record):
    """All arms on one metric."""

    binary: bool
    lower_is_better: bool
    arms: dict[str, ArmSummary]
    vs_control: dict[str, ArmComparison]


class AbReport(Record):
    """What `python -m evaluation.analyze --json` prints."""

    alpha: float
    control: str
    planned_n: int
    """Units in the two arms of a comparison at which its sequence is narrowest."""
    rho: float
    """The sequences' tuning constant, from alpha and planned_n."""
    srm: SampleRatio
    moved_units: int
    forced_lines: int
    metrics: dict[str, MetricReport]


def find_control(arms: Collection[str], named: str | None = None) -> str:
    """The control's name: the named one, else "control", else "raw". Raises ValueError where there is none."""
    if named is not None and named not in arms:
        raise ValueError(f"control {named!r}: no such arm; known: {', '.join(sorted(arms))}")
    for name in CONTROLS if named is None else (named,):
        if name in arms:
            return name
    raise ValueError(f"no arm is called control or raw, so the control must be named; the arms are {', '.join(sorted(arms))}")


def planned_shares(arms: Collection[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Arm -> planned share, equal ones where none are given. Raises ValueError where they do not fit the log."""
    if weights is None:
        return {arm: 1.0 / len(arms) for arm in sorted(arms)}
    for arm in weights:
        if arm not in arms:
            raise ValueError(f"weights name {arm!r}, an arm the log does not hold; it holds {', '.join(sorted(arms))}")
    for arm in sorted(arms):
        if arm not in weights:
            raise ValueError(f"weights leave out {arm!r}, an arm of the log")
    check_weights(dict(weights))
    total = sum(weights.values())
    return {arm: weights[arm] / total for arm in sorted(arms)}


def analyse(
    log: AbLog,
    *,
    control: str | None = None,
    alpha: float = 0.05,
    planned_n: int = DEFAULT_PLANNED_N,
    weights: Mapping[str, float] | None = None,
    lower_is_better: Collection[str] = (),
) -> AbReport:
    """Analyse a log. Raises ValueError for a control, weights or metrics that do not fit it, and for a log of one arm only."""
    control = find_control(log.arms, control)
    if len(log.arms) < 2:
        raise ValueError(f"the log holds one arm only, {control!r}; a comparison needs two")
    unknown = sorted(set(lower_is_better) - set(log.metrics))
    if unknown:
        raise ValueError(f"lower-is-better names {unknown[0]!r}, a metric the log does not hold; it holds {', '.join(log.metrics)}")
    shares = planned_shares(log.arms, weights)
    srm = _sample_ratio(log, shares)
    treated = [arm for arm in log.arms if arm != control]
    found = {name: _metric(log, table, control, alpha=alpha, planned_n=planned_n, shares=shares) for name, table in log.metrics.items()}
    p_values = [found[name][1][arm].p_value for name in found for arm in treated]
    adjusted = iter(holm(p_values))
    metrics = {}
    for name, (summaries, contrasts, missing) in found.items():
        lower = name in lower_is_better
        compared = {
            arm: _judge(contrasts[arm], next(adjusted), missing[arm], srm, (summaries[control], summaries[arm]), alpha=alpha, lower=lower)
            for arm in treated
        }
        ordered = {arm: summaries[arm] for arm in (control, *treated)}
        metrics[name] = MetricReport(binary=log.metrics[name].binary, lower_is_better=lower, arms=ordered, vs_control=compared)
    return AbReport(
        alpha=alpha,
        control=control,
        planned_n=planned_n,
        rho=tuning(alpha, planned_n),
        srm=srm,
        moved_units=log.moved_units,
        forced_lines=log.forced_lines,
        metrics=metrics,
    )


def _sample_ratio(log: AbLog, shares: Mapping[str, float]) -> SampleRatio:
    p_value, lowest = sample_ratio_p_values(log.arm_of, [shares[arm] for arm in log.arms])
    counts = np.bincount(log.arm_of, minlength=len(log.arms)).tolist()
    units = dict(zip(log.arms, counts, strict=True))
    return SampleRatio(p_value=p_value, lowest_p_value=lowest, ok=p_value > SRM_ALPHA, planned=dict(shares), units=units)


def samples(log: AbLog, table: MetricTable) -> dict[str, Sample]:
    """Arm -> its units with an outcome of the metric, each unit's weight capped."""
    if not len(table.unit):
        nothing, no = np.zeros(0), np.zeros(0, dtype=bool)
        return {arm: Sample(nothing, nothing, nothing, no, no) for arm in log.arms}
    count = np.minimum(table.count, CAP * max(1.0, float(np.median(table.count))))
    total = table.total * (count / table.count)
    hit, missed = table.hits > 0, table.hits < table.count
    found = {}
    for index, arm in enumerate(log.arms):
        mine = log.arm_of[table.unit] == index
        found[arm] = Sample(total[mine], count[mine], table.covariate[mine], hit[mine], missed[mine])
    return found


def _metric(
    log: AbLog, table: MetricTable, control: str, *, alpha: float, planned_n: int, shares: Mapping[str, float]
) -> tuple[dict[str, ArmSummary], dict[str, Contrast], dict[str, float]]:
    """(arm summaries, contrasts with the control, p-values of the missing outcomes) of one metric."""
    by_arm = samples(log, table)
    owner = log.arm_of[table.unit]
    exposed = np.bincount(log.arm_of, minlength=len(log.arms))
    summaries, contrasts, missing = {}, {}, {}
    for index, (arm, sample) in enumerate(by_arm.items()):
        raw = table.count[owner == index]
        summaries[arm] = ArmSummary(
            n=int(raw.sum()),
            units=sample.units,
            mean=sample.mean() if sample.units else None,
            exposed=int(exposed[index]),
            capped_units=int((sample.count < raw).sum()),
        )
        if arm != control:
            pair = (shares[control], shares[arm])
            contrasts[arm] = contrast(by_arm[control], sample, binary=table.binary, alpha=alpha, planned_n=planned_n, shares=pair)
            missing[arm] = _missing_p_value(log, table.unit, control, arm, planned_n=planned_n, shares=pair)
    return summaries, contrasts, missing


def _missing_p_value(log: AbLog, answered: Ints, control: str, arm: str, *, planned_n: int, shares: tuple[float, float]) -> float:
    """Always-valid p-value for equal shares of units without an outcome in two arms."""
    absent = np.ones(len(log.arm_of))
    absent[answered] = 0.0
    a, b = (one_value_each(absent[log.arm_of == log.arms.index(name)]) for name in (control, arm))
    if min(a.units, b.units) == 0 or not absent.any():
        return 1.0
    if waits_for(a, b, binary=True) is None:
        return contrast(a, b, binary=True, alpha=ATTRITION_ALPHA, planned_n=planned_n).p_value
    return early_p_value(a, b, shares)


def _judge(
    found: Contrast,
    p_holm: float,
    missing: float,
    srm: SampleRatio,
    arms: tuple[ArmSummary, ArmSummary],
    *,
    alpha: float,
    lower: bool,
) -> ArmComparison:
    """The verdict on one comparison, with its reasons. `arms` are (control, arm)."""
    reasons = []
    if not srm.ok:
        reasons.append(f"the arms do not hold their planned shares of units (p = {srm.p_value:.2g}): the split or the log is broken")
    if min(arms[0].units, arms[1].units) == 0:
        reasons.append("an arm has no outcome of this metric")
    elif missing <= ATTRITION_ALPHA:
        shares = [1.0 - arm.units / arm.exposed for arm in arms]
        reasons.append(
            f"outcomes are missing for {shares[1]:.1%} of the arm's units and {shares[0]:.1%} of the control's (p = {missing:.2g}): "
            "who answers depends on the arm"
        )
    verdict: Verdict = "undecided"
    if reasons:
        verdict = "invalid"
    elif p_holm <= alpha and found.difference is not None:
        verdict = "better" if (found.difference > 0.0) != lower else "worse"
    return ArmComparison(
        difference=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        p_holm=p_holm,
        verdict=verdict,
        method=found.method,
        missing_p_value=missing,
        covariate_correlation=found.correlation,
        notes=(*reasons, *found.notes),
    )


def check_guardrail(
    log: AbLog,
    metric: str,
    arm: str,
    *,
    control: str,
    margin: float,
    alpha: float = 0.05,
    planned_n: int = DEFAULT_PLANNED_N,
    higher_is_worse: bool = True,
    weights: Mapping[str, float] | None = None,
) -> Excess:
    """One guardrail of one arm, asked as often as wanted. A metric without a line so far is not breached. Raises ValueError for weights
    that do not fit the log.

    Each guardrail errs with probability at most alpha by itself: a false stop costs a test, a missed one costs users.
    """
    if metric not in log.metrics or arm not in log.arms or control not in log.arms:
        return Excess(None, None, False, "none")
    table, shares = log.metrics[metric], planned_shares(log.arms, weights)
    by_arm = samples(log, table)
    return guardrail(
        by_arm[control],
        by_arm[arm],
        margin=margin,
        binary=table.binary,
        alpha=alpha,
        planned_n=planned_n,
        higher_is_worse=higher_is_worse,
        shares=(shares[control], shares[arm]),
    )
