"""Run arms on the same held-out questions with the same student and the same grader, and sum them up.

An arm is an instruction policy under a name. Raw is the policy that keeps silent. Failed calls are excluded and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from evaluation.beside import Beside, measured_beside, print_beside
from evaluation.paired import ArmResult, Comparison, arm_result, compare, verdict
from exchange.protocols import InstructionPolicy, Reward, SamplingParams, StudentClient
from exchange.records import Episode, Example, Instruction, PublicExample, Record
from exchange.settings import Settings
from rewards.episode import all_of, correct, run_episode

RESERVED_ARMS = ("raw", "static", "best_static", "untrained", "trained", "oracle")
"""Arms that an evaluation makes itself; `eval.arms` cannot name one anew."""


class ArmConfig(Settings):
    """One extra arm; give exactly one of these."""

    text: str | None = None
    """A static instruction for every question."""
    file: str | None = None
    """A file that holds a static instruction."""
    run: str | None = None
    """A run directory whose trained teacher instructs."""
    model: str | None = None
    """A Hugging Face folder or Hub id that instructs untrained."""


class EvalConfig(Settings):
    """How a teacher is measured."""

    n: int = Field(default=500, ge=2)
    """Held-out questions; 500 give about +-4 points at 60 %."""
    arms: dict[str, ArmConfig] = Field(default_factory=dict)
    """Extra arms by name, beside raw, static, untrained, trained and, in the lab, oracle."""
    every: int = Field(default=25, ge=1)
    """Training steps between validations; also between checkpoints."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Error level of every interval."""


class EvalSummary(Record):
    """The `eval` block of summary.json."""

    n: int
    split: str
    alpha: float
    """Error level of every interval below."""
    arms: dict[str, ArmResult]
    vs_raw: dict[str, Comparison]
    verdict: str | None = None
    """"gain", "harm" or "no gain" for the trained arm against raw; None where it was not measured. With a second judge it is a gain only
    where both see one, and a harm where either does."""
    beside: Beside = Beside()
    """What was measured beside: second judge, gold, length-controlled win rate, guardrails, problems."""


class FixedPolicy:
    """The same text for every question; the empty text is silence (the raw arm)."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        return [Instruction(text=self.text, source="static" if self.text else "silence")] * len(examples)


class OraclePolicy:
    """The right instruction for each question, where a synthetic world knows it. Built from the examples, asked by id."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.texts = {example.id: example.oracle for example in examples}

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        return [Instruction(text=self.texts[example.id] or "", source="oracle") for example in examples]


async def run_arm(
    name: str,
    policy: InstructionPolicy,
    examples: Sequence[Example],
    *,
    student: StudentClient,
    params: SamplingParams,
    reward: Reward,
) -> list[Episode]:
    """One episode a question, in order; the student is asked for all of them at once (its client bounds the concurrency)."""
    instructions = await policy.instruct([example.public() for example in examples])
    pairs = zip(examples, instructions, strict=True)
    return await all_of(run_episode(example, text, arm=name, student=student, params=params, reward=reward) for example, text in pairs)


def summarise(
    episodes: Mapping[str, Sequence[Episode]], *, split: str, alpha: float = 0.05, examples: Sequence[Example] = ()
) -> EvalSummary:
    """The `eval` block: every arm with its interval, every arm against raw, paired by question. What stands beside needs the examples."""
    scores = {name: [correct(episode) for episode in run] for name, run in episodes.items()}
    arms = {
        name: arm_result(values, alpha=alpha, silence_rate=sum(not e.instruction.text for e in episodes[name]) / len(values))
        for name, values in scores.items()
    }
    vs_raw: dict[str, Comparison] = {}
    for name, values in scores.items():
        if name != "raw" and any(a is not None and b is not None for a, b in zip(values, scores["raw"], strict=True)):
            vs_raw[name] = compare(values, scores["raw"], alpha=alpha)
    found = measured_beside(episodes, examples, alpha=alpha) if examples else Beside()
    outcome = verdict(vs_raw["trained"]) if "trained" in vs_raw else None
    if outcome is not None and "second" in found.watched and "trained" in found.watched["second"].vs_raw:
        both = {outcome, verdict(found.watched["second"].vs_raw["trained"])}
        outcome = both.pop() if len(both) == 1 else "harm" if "harm" in both else "no gain"
    return EvalSummary(n=len(scores["raw"]), split=split, alpha=alpha, arms=arms, vs_raw=vs_raw, verdict=outcome, beside=found)


def print_table(summary: EvalSummary, *, title: str) -> None:
    """The arms as a table on the terminal, the verdict under it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    interval = f"{1 - summary.alpha:.0%} interval"
    head = {"correct": "right", "win": "win rate", "agreement": "agrees"}[summary.beside.counted]
    for column in ("arm", head, interval, "vs raw", interval, "p", "helps", "harms", "silent", "failed"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, arm in summary.arms.items():
        row: list[Any] = [name, f"{arm.mean:.1%}", f"{arm.low:.1%} .. {arm.high:.1%}"]
        if name in summary.vs_raw:
            pair = summary.vs_raw[name]
            row += [f"{pair.difference:+.1%}", f"{pair.low:+.1%} .. {pair.high:+.1%}", f"{pair.p_value:.2g}"]
            row += [f"{pair.help_rate:.1%}", f"{pair.harm_rate:.1%}"]
        else:
            row += ["", "", "", "", ""]
        table.add_row(*row, f"{arm.silence_rate:.0%}", str(arm.failed))
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    print_beside(summary.beside, list(summary.arms))
    if summary.verdict is not None:
        pair = summary.vs_raw["trained"]
        console.print(
            f"verdict: {summary.verdict} (trained - raw {pair.difference:+.1%}, interval {pair.low:+.1%} .. {pair.high:+.1%}, "
            f"n = {pair.n} questions)"
        )
