"""The worlds of the dial: mixes of question families x students. `benchmarks.dial` runs them.

A mix says how many questions are right raw and how many procedures the others need; a student, how strong its habit is and how often it
slips. `lab:dial/student` is one model that is many by its header (`lab.dial_corpus`), sampled at temperature 1; `student`, `student_b` and
`student_c` of the arithmetic world are trained from scratch, each from a seed of its own, and are greedy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from lab.dial_corpus import HABIT, NOISE, header
from tasks.lab_arithmetic import RIGHT_RAW, family_weights

SUBTRACT_FIRST = {"left/first": 0.5, "missing/first": 0.5}
"""Questions that one procedure fits: subtract, the first number first."""


def mix(right_raw: float, shared: float) -> dict[str, float]:
    """`right_raw` of the questions are right raw; of the others `shared` need one procedure, and the rest the families of dial 1."""
    weights = {key: round(weight * right_raw, 4) for key, weight in family_weights(0.0).items() if weight}
    others = {key: weight for key, weight in family_weights(1.0).items() if key not in RIGHT_RAW}
    for key, weight in SUBTRACT_FIRST.items():
        weights[key] = round((1 - right_raw) * shared * weight, 4)
    for key, weight in others.items():
        weights[key] = round((1 - right_raw) * (1 - shared) * weight / sum(others.values()), 4)
    return {key: weight for key, weight in weights.items() if weight}


MIXES: dict[str, dict[str, float]] = {
    "full": mix(0.36, 0.0),
    "half": mix(0.68, 0.0),
    "none": mix(1.0, 0.0),
    "shared": mix(0.36, 1.0),
    "mostly": mix(0.2, 0.6),
    "one": mix(0.0, 1.0),
}
"""Of the mixes only `full`, `half` and `mostly` need an instruction that depends on which procedure fits; `shared` needs it for some
questions and silence for the others, `one` is served by one text, `none` by silence."""
CALIBRATION_MIXES: dict[str, dict[str, float]] = {
    "quarter": mix(0.5, 0.25), "most": mix(0.1, 0.3), "third": mix(0.3, 0.7), "few": mix(0.6, 0.1), "nearly": mix(0.15, 0.9),
}  # fmt: skip
"""Of the worlds on which the probe's one constant is fitted; none of them is a world of the dial."""


@dataclass(frozen=True)
class Dialled:
    """A world: a mix of questions and a student."""

    mix: str
    student: str
    habit: int | None = None
    noise: int | None = None

    @property
    def name(self) -> str:
        return f"{self.mix}-{self.student}" if self.habit is None else f"{self.mix}-h{self.habit}n{self.noise}"

    @property
    def families(self) -> dict[str, float]:
        return {**MIXES, **CALIBRATION_MIXES}[self.mix]

    @property
    def null(self) -> bool:
        """Whether there is no head-room by construction: no instruction is followed, or every question is right raw."""
        return self.mix == "none" or (self.habit is not None and HABIT[self.habit] == 1.0)

    @property
    def ceiling(self) -> float | None:
        """The gain of a perfect teacher with a student that is exactly what its header says; None where there is no header."""
        if self.habit is None or self.noise is None:
            return None
        wrong = sum(weight for key, weight in self.families.items() if key not in RIGHT_RAW) / sum(self.families.values())
        return wrong * (1 - HABIT[self.habit]) * (1 - NOISE[self.noise])

    def flags(self) -> list[str]:
        """What makes it this world, as flags of `teacher.train`."""
        flags = ["--task.families=" + json.dumps(self.families)]
        if self.habit is None or self.noise is None:
            return [*flags, f"--student.model=lab:arithmetic/{self.student}"]
        return [
            *flags, "--student.model=lab:dial/student", f"--task.header={header(self.habit, self.noise)}", "--student.temperature=1.0",
            "--student.seed=0",
        ]  # fmt: skip


def _headed(mix: str, pairs: str) -> list[Dialled]:
    return [Dialled(mix, "dial", int(pair[0]), int(pair[1])) for pair in pairs.split()]


WORLDS: list[Dialled] = [
    *_headed("full", "00 11 22 30 02 20 10 01 12 21 31 32"),
    *_headed("shared", "00 11 20 01 10 21"),
    *_headed("one", "00 11 10 01"),
    *_headed("mostly", "00 11 20"),
    *_headed("half", "00 11 10"),
    *_headed("none", "00 11"),
    *(Dialled(mix, "student") for mix in ("full", "none", "shared", "half", "one", "mostly")),
    *(Dialled(mix, "student_b") for mix in ("full", "none", "shared")),
    *(Dialled(mix, "student_c") for mix in ("full", "none", "half")),
]
CALIBRATION: list[Dialled] = [
    *_headed("quarter", "00 20"),
    *_headed("third", "00 11"),
    *_headed("most", "01 12 21"),
    *_headed("few", "00"),
    *_headed("nearly", "10"),
    *(Dialled(mix, "student") for mix in ("most", "third", "few", "nearly")),
    Dialled("quarter", "student_b"),
    Dialled("third", "student_c"),
]


def evenly(worlds: list[Dialled]) -> list[Dialled]:
    """The worlds in an order whose every beginning is an even sample of the mixes and students: one of each group in turn."""
    groups: dict[tuple[str, bool], list[Dialled]] = {}
    for world in worlds:
        groups.setdefault((world.mix, world.habit is None), []).append(world)
    order: list[Dialled] = []
    while any(groups.values()):
        order += [group.pop(0) for group in groups.values() if group]
    return order
