"""What a run of RL is watched for: signs of collapse said aloud, and the ends that no further step can mend.

Small teachers collapse in known ways: one instruction for all questions, gibberish, repetition, or groups whose answers are all alike so
that nothing can be learnt. Each alarm is raised once when its sign has held for `over` steps, and again only after it was gone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from pydantic import Field

from exchange.settings import Settings


class AlarmConfig(Settings):
    """Thresholds of the alarms; null turns one off."""

    over: int = Field(default=10, ge=1)
    """Steps in a row that a sign must hold. 10: single batches of a healthy run cross every threshold now and then."""
    entropy: float | None = Field(default=0.02, ge=0)
    """Mean entropy a token, in nats, below which the teacher no longer explores."""
    distinct: float | None = Field(default=0.05, ge=0, le=1)
    """Share of a step's instructions that differ, below which all questions get the same few; silence aside."""
    kl: float | None = Field(default=1.0, ge=0)
    """KL to the start a token, in nats, above which the teacher writes another language; where `trl.beta` > 0."""
    repetition: float | None = Field(default=0.3, ge=0, le=1)
    """Share of repeated three-word runs above which instructions go in circles."""
    zero_variance: float | None = Field(default=0.9, ge=0, le=1)
    """Share of groups whose rewards are all alike, above which most calls teach nothing. A group is a question's instructions; under PPO,
    whose critic compares across questions, it is the whole batch."""
    no_signal: int | None = Field(default=50, ge=1)
    """Steps in a row without a single group whose rewards differ, after which the run ends."""


MEANING = {
    "entropy": "the teacher explores no longer; raise trl.temperature or trl.entropy_coef, or lower trl.learning_rate",
    "distinct": "one instruction serves nearly all questions; check that the best one depends on the question, or raise trl.beta",
    "kl": "the teacher is far from where it began; raise trl.beta or lower trl.learning_rate",
    "repetition": "instructions repeat themselves; set reward.repetition_penalty",
    "zero_variance": "in most groups every instruction earns the same; take questions on which the instruction matters, sample more widely "
    "(trl.temperature), or take a larger trl.num_generations",
}


def signs(config: AlarmConfig, logs: Mapping[str, float]) -> dict[str, float]:
    """The values of a step that lie beyond their thresholds, by alarm."""

    def below(name: str, key: str, limit: float | None) -> dict[str, float]:
        return {name: logs[key]} if limit is not None and key in logs and logs[key] < limit else {}

    def above(name: str, key: str, limit: float | None) -> dict[str, float]:
        return {name: logs[key]} if limit is not None and key in logs and logs[key] > limit else {}

    spoken = logs.get("silence_rate", 0.0) < 0.5  # a teacher that mostly keeps silent has few instructions to tell apart
    return {
        **below("entropy", "entropy", config.entropy),
        **(below("distinct", "distinct_rate", config.distinct) if spoken else {}),
        **above("kl", "kl", config.kl),
        **above("repetition", "repetition_rate", config.repetition),
        **above("zero_variance", "frac_reward_zero_std", config.zero_variance),
    }


class Alarms:
    """Follows the steps of one process."""

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self.held: dict[str, int] = defaultdict(int)
        self.without_signal = 0

    def step(self, logs: Mapping[str, float]) -> list[str]:
        """The alarms that this step raises, one line each."""
        found = signs(self.config, logs)
        lines = []
        for name in MEANING:
            self.held[name] = self.held[name] + 1 if name in found else 0
            if self.held[name] == self.config.over:
                lines.append(f"alarm: {name} {found[name]:.3g} for {self.config.over} steps: {MEANING[name]}")
        self.without_signal = self.without_signal + 1 if logs.get("frac_reward_zero_std", 0.0) >= 1.0 else 0
        return lines

    @property
    def no_signal(self) -> bool:
        """Whether so many steps in a row taught nothing that the run should end."""
        return self.config.no_signal is not None and self.without_signal >= self.config.no_signal


def diverged(logs: Mapping[str, float]) -> str | None:
    """The name of the first value of a step that is not finite; None where all are."""
    return next((name for name in ("loss", "grad_norm", "entropy") if name in logs and not math.isfinite(logs[name])), None)
