"""Which arm a unit is in: a pure function of names, so that every replica, restart and offline recount gives the same answer.

    allocation = Allocation(experiment="summaries", weights={"raw": 0.5, "teacher": 0.5}, enrolled=0.1)
    assign(allocation, "user-17")      # Assignment(arm="teacher", forced=False), or arm None: not in the experiment

Three independent hashes of one unit decide three things: whether the experiment's slice of its layer holds the unit (mutual exclusion),
whether the ramp has reached it, and its arm. A larger `enrolled` therefore adds units and moves none. New *weights* do move units:
start a new experiment for those.
"""

from __future__ import annotations

import hashlib
import math

from pydantic import Field, model_validator

from exchange.records import Record

SUM_TOLERANCE = 1e-3
"""How far weights may be from summing to 1: enough for thirds written 0.333."""


class Allocation(Record):
    """How an experiment shares out its units. Frozen from its start on, but for `enrolled`, which may grow."""

    experiment: str = Field(min_length=1)
    weights: dict[str, float]
    """Arm -> share of the enrolled units; they sum to 1."""
    enrolled: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the layer's slice that takes part; the ramp."""
    salt: str = ""
    """The service's own secret or name; the same for all experiments of a layer."""
    layer: str | None = None
    """Experiments of one layer whose slices do not overlap never share a unit. None = a layer of its own."""
    layer_slice: tuple[float, float] = (0.0, 1.0)
    """[from, to) of the layer that this experiment takes."""

    @model_validator(mode="after")
    def _possible(self) -> Allocation:
        check_weights(self.weights)
        low, high = self.layer_slice
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"layer_slice {self.layer_slice}: need 0 <= from < to <= 1")
        return self


class Assignment(Record):
    """Where a unit goes. `arm` None = not in the experiment; `forced` = put there by hand, so no analysis may count it."""

    arm: str | None
    forced: bool = False


def check_weights(weights: dict[str, float]) -> None:
    """Raise ValueError unless there are two or more arms with positive weights that sum to 1."""
    if len(weights) < 2:
        raise ValueError(f"weights name {len(weights)} arm(s); a comparison needs at least two")
    for arm, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0.0):
            raise ValueError(f"weight of {arm!r} is {weight:g}; every weight must be above 0")
    total = math.fsum(weights.values())
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise ValueError(f"weights sum to {total:g}; they must sum to 1")


def position(*names: str) -> float:
    """A number in [0, 1) that is uniform over units and fixed for ever: the first 53 bits of SHA-256 over the names.

    Each name goes in behind its length, so that ("a", "bc") and ("ab", "c") differ.
    """
    digest = hashlib.sha256()
    for name in names:
        data = name.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return float(int.from_bytes(digest.digest()[:8], "big") >> 11) / float(1 << 53)


def assign(allocation: Allocation, unit: str, *, forced: str | None = None) -> Assignment:
    """The unit's arm. `forced` puts it into an arm for a look by hand; ValueError where that arm does not exist."""
    if forced is not None:
        if forced not in allocation.weights:
            raise ValueError(f"{forced!r}: no such arm; known: {', '.join(sorted(allocation.weights))}")
        return Assignment(arm=forced, forced=True)
    salt, experiment = allocation.salt, allocation.experiment
    if allocation.layer is not None:
        low, high = allocation.layer_slice
        if not low <= position(salt, "layer", allocation.layer, unit) < high:
            return Assignment(arm=None)
    if position(salt, "enrolment", experiment, unit) >= allocation.enrolled:
        return Assignment(arm=None)
    return Assignment(arm=_arm_at(position(salt, "arm", experiment, unit), allocation.weights))


def _arm_at(place: float, weights: dict[str, float]) -> str:
    """The arm whose share of [0, 1) holds `place`; shares lie in order of name, so the order in a config file does not matter."""
    arms = sorted(weights)
    reached, total = 0.0, math.fsum(weights.values())
    for arm in arms:
        reached += weights[arm] / total
        if place < reached:
            return arm
    return arms[-1]  # rounding: the shares may sum to a hair under 1
