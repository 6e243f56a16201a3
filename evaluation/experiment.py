"""What an online experiment is: arms, metrics, guardrails, and the checks a definition passes before the first unit enters.

A definition is frozen from its start on, but for `enrolled` (the ramp), which may grow. The service makes one by `POST /experiments`:

    {"id": "advice-1", "arms": [{"name": "raw", "raw": true, "weight": 0.5}, {"name": "teacher", "teacher": "d3b07384…", "weight": 0.5}],
     "control": "raw", "metric": {"name": "resolved", "kind": "binary"}, "planned_n": 4000,
     "guardrails": [{"metric": "fallback", "margin": 0.05}]}
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from evaluation.ab_log import LARGEST_VALUE
from evaluation.assignment import Allocation, check_weights
from evaluation.sequences import DEFAULT_PLANNED_N
from exchange.guard import guard
from exchange.records import Instruction, Record

MEASURED = {
    "fallback": "share of requests that got the raw messages because the teacher was late, failed or was guarded away",
    "latency_ms": "milliseconds from the request to the instruction",
    "injection": "share of requests whose instruction the guard refuses for what an injected text would carry",
}
"""Guardrail metrics that the service measures itself at every exposure; nobody reports them."""


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return name


Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""Stands in addresses and file names."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_printable)]


class Arm(Record):
    """One treatment: a teacher, a fixed text, or the raw messages; exactly one of the three."""

    name: Name
    weight: float = Field(gt=0.0, le=1.0)
    """Share of the enrolled units; all arms' together are 1."""
    teacher: str | None = None
    """sha256 of a teacher that the service has loaded; its first 8 digits or its id do on creation."""
    text: str | None = None
    """An instruction that is the same for every query."""
    raw: bool = False

    @model_validator(mode="after")
    def _one_treatment(self) -> Arm:
        if sum((self.teacher is not None, self.text is not None, self.raw)) != 1:
            raise ValueError('an arm is exactly one of "teacher", "text" and "raw": true')
        if self.text is not None:
            found = guard(Instruction(text=self.text, source="static"))
            if found.refused is not None:
                raise ValueError(f"the guard refuses this text ({found.refused})")
            if not found.instruction.text:
                raise ValueError('the text is empty; write "raw": true for an arm without instruction')
        return self


class Metric(Record):
    """What outcomes are taken of."""

    name: Name
    kind: Literal["binary", "bounded", "real"] = "real"
    """binary: 0 or 1. bounded: inside [low, high]. real: any number, between low and high where these are given."""
    low: float | None = Field(default=None, allow_inf_nan=False)
    high: float | None = Field(default=None, allow_inf_nan=False)
    lower_is_better: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Metric:
        if self.kind == "bounded" and (self.low is None or self.high is None):
            raise ValueError("a bounded metric needs low and high")
        if self.kind == "binary" and not (self.low is None and self.high is None):
            raise ValueError("a binary metric is 0 or 1; it takes no low and high")
        low, high = self.range
        if not low < high:
            raise ValueError(f"low {low:g} must be below high {high:g}")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that is taken."""
        if self.kind == "binary":
            return 0.0, 1.0
        return max(-LARGEST_VALUE, -math.inf if self.low is None else self.low), min(
            LARGEST_VALUE, math.inf if self.high is None else self.high
        )

    def refusal(self, value: float) -> str | None:
        """Why a value is none of this metric's; None where it is."""
        low, high = self.range
        if self.kind == "binary" and value not in (0.0, 1.0):
            return f"{self.name} is a binary metric; its values are 0 and 1"
        return None if low <= value <= high else f"{self.name} is taken from {low:g} to {high:g}"


class Guardrail(Record):
    """A metric on which an arm may not be worse than the control by more than `margin`; else the arm is stopped."""

    metric: Name
    """One that the service measures (fallback, latency_ms, injection), or any that outcomes are reported of, such as errors or cost_usd."""
    margin: float = Field(ge=0.0, allow_inf_nan=False)
    """In the metric's own units: 0.02 are two points of a share, 500 half a second of latency_ms."""
    higher_is_worse: bool = True
    alpha: float = Field(default=0.05, gt=0.0, le=0.5)
    """Probability at most of stopping an arm that is no worse than the margin, however often it is checked."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Experiment(Record):
    """A definition. Raises ValueError (pydantic's) with what is wrong."""

    id: Identifier
    arms: tuple[Arm, ...] = Field(min_length=2, max_length=20)
    control: Name
    """The arm that the others are compared with."""
    metric: Annotated[Metric, BeforeValidator(_named)]
    """The metric that decides; a name alone is a real-valued metric."""
    metrics: tuple[Annotated[Metric, BeforeValidator(_named)], ...] = Field(default=(), max_length=20)
    """Further metrics; each takes part in the adjustment for many comparisons."""
    planned_n: int = Field(default=DEFAULT_PLANNED_N, ge=2, le=1_000_000_000)
    """Units in two arms at which a comparison's interval is narrowest; `python -m evaluation.plan` says how many."""
    alpha: float = Field(default=0.05, ge=1e-9, le=0.5)
    """Probability of any false verdict."""
    guardrails: tuple[Guardrail, ...] = Field(default=(), max_length=20)
    enrolled: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the units that take part at the start; it may grow later and moves nobody."""
    attribution_window_s: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """Seconds from a request to what it may still be given credit for: an outcome of a request that happened later is refused, and so is
    one of a unit that happened so long after its first request. None = there is no such limit."""
    layer: Name | None = None
    """Experiments of one layer never share a unit; each has its slice."""
    layer_slice: tuple[float, float] = (0.0, 1.0)
    """[from, to) of the layer."""
    hypothesis: str | None = Field(default=None, max_length=2000)
    """For readers of the report."""

    @model_validator(mode="after")
    def _sound(self) -> Experiment:
        names = [arm.name for arm in self.arms]
        _no_doubles("arms", names)
        check_weights({arm.name: arm.weight for arm in self.arms})
        if self.control not in names:
            raise ValueError(f"control {self.control!r}: no such arm; known: {', '.join(names)}")
        _no_doubles("metrics", [metric.name for metric in self.all_metrics])
        _no_doubles("guardrails", [guardrail.metric for guardrail in self.guardrails])
        for metric in self.all_metrics:
            if metric.name in MEASURED:
                raise ValueError(f"{metric.name!r} is measured by the service and may only be a guardrail's metric")
        self.allocation()
        return self

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        return (self.metric, *self.metrics)

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def allocation(self, *, enrolled: float | None = None, salt: str = "") -> Allocation:
        """How units are shared out, at the start's share of units or at a later one."""
        return Allocation(
            experiment=self.id,
            weights={arm.name: arm.weight for arm in self.arms},
            enrolled=self.enrolled if enrolled is None else enrolled,
            salt=salt,
            layer=self.layer,
            layer_slice=self.layer_slice,
        )

    def reported_metric(self, name: str) -> Metric | None:
        """The metric that outcomes of this name belong to; None where none are taken."""
        for metric in self.all_metrics:
            if metric.name == name:
                return metric
        if name not in MEASURED and any(guardrail.metric == name for guardrail in self.guardrails):
            return Metric(name=name)
        return None

    def reported_names(self) -> list[str]:
        """Metrics that outcomes are taken of."""
        guards = [guardrail.metric for guardrail in self.guardrails if guardrail.metric not in MEASURED]
        return list(dict.fromkeys([*(metric.name for metric in self.all_metrics), *guards]))


def _no_doubles(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} name {name!r} twice")
