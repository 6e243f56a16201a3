"""A running experiment's events, made into the log that `evaluation.ab` analyses, its guardrails, and its report.

The service writes three kinds of events about units (`store.Event`, topic `data_topic(…)`, subject = the unit); `forced` ones are exposures
of units that were put into their arm by hand:

    exposure, forced  {"request_id", "experiment", "unit", "arm", "forced", "propensity", "source", "degraded", "teacher",
                       "covariate", "measured": {metric: value}}
    outcome           {"request_id", "experiment", "unit", "arm", "forced", "metric", "value", "key"}

`analysis_rows` makes lines of `evaluation/ab_log.py` of them: an exposure is a line with the value null, so a unit without outcome counts
as missing; a request that fell back stays in its arm (intention to treat). Guardrails have a log of their own, because each errs by
itself and none should weaken the verdict on the metrics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from evaluation.ab import AbReport, analyse, check_guardrail, samples
from evaluation.ab_log import AbLog, LogBuilder
from evaluation.ab_path import Look, paths
from evaluation.ab_text import headline, sentences
from evaluation.experiment import MEASURED, Experiment
from evaluation.two_arms import Method
from exchange.records import Record
from store import Event

Status = Literal["running", "stopped"]


class ArmStop(Record):
    """Why an arm was stopped."""

    arm: str
    metric: str
    margin: float
    excess: float
    """How much worse the arm was than the control when it was stopped."""
    low: float
    """It is worse by more than this with probability 1 - alpha of the guardrail."""
    binary: bool
    """The figures are shares."""


class ArmTraffic(Record):
    """What the service did in one arm; requests of units that were put there by hand are not counted."""

    requests: int
    fallback_share: float | None
    """Share of requests that got the raw messages although the arm has an instruction; None without requests."""
    stopped: ArmStop | None


class GuardrailReport(Record):
    """One guardrail of one arm."""

    metric: str
    arm: str
    margin: float
    higher_is_worse: bool
    mean: float | None
    control_mean: float | None
    excess: float | None
    low: float | None
    """The excess is larger than this, at every look, with probability 1 - alpha; None before anything can be said."""
    breached: bool
    binary: bool
    method: Method


class OnlineReport(AbReport):
    """The analysis of `evaluation.ab` with what the service knows beside it; `--json` of `evaluation.analyze` and more."""

    experiment: str
    status: Status
    stop_reason: str | None
    hypothesis: str | None
    metric: str
    """The metric that decides."""
    verdict: str
    """One sentence."""
    sentences: tuple[str, ...]
    """What is wrong with the test itself, if anything, then a sentence a comparison."""
    traffic: dict[str, ArmTraffic]
    guardrails: tuple[GuardrailReport, ...]
    paths: dict[str, tuple[Look, ...]]
    """Arm -> how its comparison on the deciding metric came about."""
    lines: int
    lines_sha256: str
    """Over the exported log (`GET /experiments/{id}/log`), from which everything here follows."""


TOPIC = "experiments"
"""The topic of experiments' creations, ramps and stops."""


def data_topic(tenant: str, experiment: str) -> str:
    """The topic of an experiment's exposures and outcomes."""
    return f"experiment/{tenant}/{experiment}"


def text_topic(tenant: str) -> str:
    """The topic of captured texts, and of outcomes of requests outside of experiments."""
    return f"texts/{tenant}"


def analysis_rows(event: Event, experiment: Experiment) -> list[dict[str, Any]]:
    """The lines of the analysed log that an event makes: one, or none where its metric is a guardrail's alone."""
    content = event.content
    if event.kind != "outcome":
        row = {"metric": experiment.metric.name, "value": None, "request_id": content["request_id"], "source": content["source"]}
        if content["degraded"] is not None:
            row["degraded"] = content["degraded"]
        if content["covariate"] is not None:
            row["covariate"] = content["covariate"]
    elif content["metric"] in (metric.name for metric in experiment.all_metrics):
        row = {"metric": content["metric"], "value": content["value"], "request_id": content["request_id"]}
    else:
        return []
    row = {"unit": content["unit"], "arm": content["arm"], **row, "time": event.time}
    return [{**row, "forced": True} if content["forced"] else row]


def guardrail_rows(event: Event, experiment: Experiment) -> list[dict[str, Any]]:
    """The lines of the guardrails' log that an event makes."""
    content = event.content
    if event.kind != "outcome":
        values = {name: value for name, value in content["measured"].items() if value is not None}
    else:
        values = {content["metric"]: content["value"]}
    about = {"unit": content["unit"], "arm": content["arm"], "time": event.time, "forced": content["forced"]}
    watched = [guardrail.metric for guardrail in experiment.guardrails]
    return [{**about, "metric": name, "value": value} for name, value in values.items() if name in watched]


def exported(events: Sequence[Event], experiment: Experiment) -> bytes:
    """The log as JSON lines, as `python -m evaluation.analyze` reads it. `events` in order of time."""
    rows = (row for event in events for row in analysis_rows(event, experiment))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class GuardrailWatch:
    """Takes an experiment's events as they come and says which arms are to be stopped."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._log = LogBuilder(arm.name for arm in experiment.arms)

    @property
    def units(self) -> int:
        """Units of which any of the guardrails' metrics was seen."""
        return len(self._log.units)

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            for row in guardrail_rows(event, self.experiment):
                self._log.add(row)

    def reports(self) -> list[GuardrailReport]:
        """Every guardrail of every arm but the control."""
        built = self._log.build() if self._log.units else None
        arms = [arm.name for arm in self.experiment.arms if arm.name != self.experiment.control]
        return [_guardrail(built, self.experiment, index, arm) for index in range(len(self.experiment.guardrails)) for arm in arms]

    def breaches(self) -> list[ArmStop]:
        """The arms that are surely worse than their margins allow, with the first guardrail that says so."""
        found: dict[str, ArmStop] = {}
        for report in self.reports():
            if report.breached and report.excess is not None and report.low is not None:
                # Rounded as a report is, whose figures it becomes.
                figures = {name: float(f"{value:.10g}") for name, value in (("excess", report.excess), ("low", report.low))}
                facts = {"arm": report.arm, "metric": report.metric, "margin": report.margin, "binary": report.binary}
                found.setdefault(report.arm, ArmStop(**facts, **figures))
        return list(found.values())


def _guardrail(log: AbLog | None, experiment: Experiment, index: int, arm: str) -> GuardrailReport:
    rule, weights = experiment.guardrails[index], {arm.name: arm.weight for arm in experiment.arms}
    facts: dict[str, Any] = {"metric": rule.metric, "arm": arm, "margin": rule.margin, "higher_is_worse": rule.higher_is_worse}
    if log is None or rule.metric not in log.metrics:
        binary = rule.metric in MEASURED and rule.metric != "latency_ms"
        nothing = dict.fromkeys(("mean", "control_mean", "excess", "low"))
        return GuardrailReport(**facts, **nothing, breached=False, binary=binary, method="none")
    table = log.metrics[rule.metric]
    found = check_guardrail(
        log,
        rule.metric,
        arm,
        control=experiment.control,
        margin=rule.margin,
        alpha=rule.alpha,
        planned_n=experiment.planned_n,
        higher_is_worse=rule.higher_is_worse,
        weights=weights,
    )
    means = {name: sample.mean() if sample.units else None for name, sample in samples(log, table).items()}
    facts |= {"mean": means[arm], "control_mean": means[experiment.control]}
    return GuardrailReport(**facts, excess=found.excess, low=found.low, breached=found.breached, binary=table.binary, method=found.method)


def report(
    events: Sequence[Event],
    experiment: Experiment,
    *,
    status: Status = "running",
    stop_reason: str | None = None,
    stopped: Mapping[str, ArmStop] | None = None,
) -> OnlineReport:
    """The report from an experiment's events in order of time: the same events give the same report.

    Raises ValueError where there is no exposure yet that counts.
    """
    stopped = stopped or {}
    log, watch = LogBuilder(arm.name for arm in experiment.arms), GuardrailWatch(experiment)
    for event in events:
        for row in analysis_rows(event, experiment):
            log.add(row)
    watch.add(events)
    lines = exported(events, experiment)
    weights = {arm.name: arm.weight for arm in experiment.arms}
    shape: dict[str, Any] = {"alpha": experiment.alpha, "planned_n": experiment.planned_n, "weights": weights}
    found = analyse(
        log.build(),
        control=experiment.control,
        **shape,
        lower_is_better=[metric.name for metric in experiment.all_metrics if metric.lower_is_better and metric.name in log.metrics],
    )
    return OnlineReport(
        **{name: getattr(found, name) for name in AbReport.model_fields},
        experiment=experiment.id,
        status=status,
        stop_reason=stop_reason,
        hypothesis=experiment.hypothesis,
        metric=experiment.metric.name,
        verdict=headline(found, experiment.metric.name, {arm: stop_sentence(stop, experiment.control) for arm, stop in stopped.items()}),
        sentences=tuple(sentences(found)),
        traffic=_traffic(events, experiment, stopped),
        guardrails=tuple(watch.reports()),
        paths=paths(log, experiment.metric.name, experiment.control, **shape),
        lines=lines.count(b"\n"),
        lines_sha256=hashlib.sha256(lines).hexdigest(),
    )


def _traffic(events: Sequence[Event], experiment: Experiment, stopped: Mapping[str, ArmStop]) -> dict[str, ArmTraffic]:
    requests, fallbacks = ({arm.name: 0 for arm in experiment.arms} for _ in range(2))
    for event in events:
        if event.kind == "exposure":
            requests[event.content["arm"]] += 1
            fallbacks[event.content["arm"]] += event.content["degraded"] is not None
    return {
        arm: ArmTraffic(requests=n, fallback_share=fallbacks[arm] / n if n else None, stopped=stopped.get(arm))
        for arm, n in requests.items()
    }


def stop_sentence(stop: ArmStop, control: str) -> str:
    """Why an arm was stopped, as a product owner would say it."""
    low, excess, margin = (f"{100 * x:.3g} points" if stop.binary else f"{x:.4g}" for x in (stop.low, stop.excess, stop.margin))
    return (
        f"{stop.arm} was stopped by its guardrail: on {stop.metric} it was worse than {control} by more than {low} for sure "
        f"({excess} as measured), where {margin} are allowed."
    )
