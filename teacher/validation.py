"""Which checkpoint is the best: the greedy teacher on validation questions, by the mean value its reward pays; of equal ones the latest.

The mean value, not the share right alone, so that of two equally right teachers the one that keeps silent more wins. Step 0 (after the
warm start) is a candidate, so training never ships something worse than it began with.

Where a preference pays, a second judge watches (`reward.second`): the value takes the mean of both judges' wins, over the questions that
both could judge, so that it means the same at every step. The judges have *parted*
at a step where, against the step that the second one liked best so far, the first one's mean win is not lower and the second one's is, by
its paired 95 % interval: what training still gains then is the first judge's own mistake (Gao, Schulman, Hilton 2023). Training stops
there, and the step is no candidate.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from evaluation.arms import FixedPolicy, run_arm
from evaluation.paired import compare
from exchange.command import RunError
from exchange.protocols import InstructionPolicy, Reward, SamplingParams, StudentClient
from exchange.records import Episode, Example, Score
from rewards.baseline import RawOutcomes, charge_harm, help_and_harm
from rewards.episode import beside, correct, counted, worth
from teacher.policy import TransformersPolicy
from teacher.prompt import TeacherPrompt
from teacher.run_directory import COMPLETE, RunDirectory, mark_complete, write_json
from teacher.silence import MOST, TOLERATED, most_silent

GATES = {"ill_formed", "leakage"}
"""Parts of a score whose value stands whatever the answer is worth."""

Validated = tuple[list[Episode], dict[str, float | None]]
"""A step's episodes, and the raw grade of each question where harm is charged."""


class Validator:
    """Validates the teacher in training and keeps the best weights under `checkpoints/best-STEP`."""

    def __init__(
        self,
        run: RunDirectory,
        examples: Sequence[Example],
        tokenizer: Any,
        prompt: TeacherPrompt,
        *,
        max_instruction_tokens: int,
        student: StudentClient,
        params: SamplingParams,
        reward: Reward,
        watched: bool = False,
        raw: RawOutcomes | None = None,
        harm_penalty: float = 0.0,
        samples: int = 1,
        asked: Callable[[], dict[str, int]] = dict,
    ) -> None:
        """`watched`: a preference pays and a second judge reads each answer, whose win stands in the scores' `beside`. `asked`: what the
        run has asked of its student so far, for the step's line."""
        self.run = run
        self.examples = examples
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_instruction_tokens = max_instruction_tokens
        self.student = student
        self.params = params
        self.reward = reward
        self.watched = watched
        self.raw = raw
        self.harm_penalty = harm_penalty
        self.samples = samples
        self.asked = asked
        self.run_async: Callable[[Coroutine[Any, Any, Validated]], Validated] = asyncio.run

    def __call__(self, step: int, model: Any) -> float:
        """Validate `model` at `step`, keep it where it is the best so far, return the mean value.

        Raises RunError where no validation question could be scored, by either judge.
        """
        episodes, raw = self.run_async(self._episodes(self._policy(model), self.examples))
        scored = [e for e in episodes if worth(e) is not None]
        values = [value for e in scored if (value := self._worth(e)) is not None]
        if not values:
            unwatched = "the second judge gave no verdict" if scored else "no answer could be judged"
            reason = next((e.error for e in episodes if e.error), unwatched)
            raise RunError(f"validation at step {step}: not one question could be scored ({reason}); go on with --resume={self.run.path}")
        value = statistics.fmean(values)
        right = statistics.fmean(grade for e in episodes if (grade := correct(e)) is not None)
        line: dict[str, Any] = {"step": step, "value": value, "right": right, "n": len(values)}
        golds = [grade for e in episodes if (grade := beside(e, "correct")) is not None]
        if golds:
            line["gold"] = statistics.fmean(golds)
        line.update(self._second(episodes))
        best = self.best()
        if not line.get("parted") and (best is None or line["value"] >= best[0]):  # what is learnt beyond validation is kept
            folder = self.run.checkpoints / f"best-{step}"
            if folder.exists():
                shutil.rmtree(folder)
            model.save_pretrained(folder)
            mark_complete(folder)
        self.run.append("validation.jsonl", {**line, **help_and_harm(episodes, raw), **self.asked()})
        return right

    def silence_bias(self, model: Any) -> float:
        """The bias towards silence for `model`, the best one, as the run's `silence.json` has it; chosen where that is not there yet.

        By what the instruction and silence are worth on the questions that a bias can silence. All questions are asked once more under the
        bias, which holds at every token: where their mean value falls by more than TOLERATED there is none. Nor is there for a teacher that
        never thinks of silence. Raises RunError where the student gives no answer.
        """
        best = self.best()
        assert best is not None, "step 0 is always validated"
        path = self.run.path / "silence.json"
        noted: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if noted.get("step") != best[1]:
            noted = {"step": best[1], **self._choose_bias(model, best[0])}
            write_json(path, noted)
        return float(noted["bias"])

    def _choose_bias(self, model: Any, without: float) -> dict[str, Any]:
        """`without`: the mean value of `model` without a bias."""
        policy = self._policy(model)
        margins = policy.silence_margins(self.examples)
        hesitant = [(-m, example) for m, example in zip(margins, self.examples, strict=True) if m is not None and -MOST <= m < 0]
        if not any(m is not None and m >= -MOST for m in margins):
            return {"bias": 0.0, "hesitant": 0}
        asked = [example for _, example in hesitant]
        spoken, silent = (self._worths(way, asked) for way in (policy, FixedPolicy("")))
        pairs = zip(hesitant, spoken, silent, strict=True)
        gains = [(needed, quiet - loud) for (needed, _), loud, quiet in pairs if loud is not None and quiet is not None]
        self._refuse_where_none(gains, hesitant)
        bias = most_silent(gains, len(self.examples))
        found = {"bias": bias, "hesitant": len(hesitant), "judged": len(gains), "chosen": bias}
        if bias:
            values = [value for value in self._worths(self._policy(model, bias), self.examples) if value is not None]
            self._refuse_where_none(values, self.examples)
            found |= {"value": statistics.fmean(values), "value_without": without}
            found["bias"] = bias if found["value"] >= without - TOLERATED else 0.0
        return found

    def _refuse_where_none(self, judged: Sequence[Any], asked: Sequence[Any]) -> None:
        if asked and not judged:
            raise RunError(f"choosing the bias towards silence: no answer could be scored; go on with --resume={self.run.path}")

    def _worths(self, policy: InstructionPolicy, examples: Sequence[Example]) -> list[float | None]:
        return [self._worth(episode) for episode in asyncio.run(self._episodes(policy, examples))[0]]

    def _policy(self, model: Any, bias: float = 0.0) -> TransformersPolicy:
        return TransformersPolicy(model, self.tokenizer, self.prompt, max_instruction_tokens=self.max_instruction_tokens, silence_bias=bias)

    def _worth(self, episode: Episode) -> float | None:
        """What an instruction is worth: the mean value of its answers, by the mean of both judges where a second one watches; None where
        either gave no verdict."""
        if not self.watched:
            return worth(episode)
        values = [value for score in episode.scores if (value := self._by_both(score)) is not None]
        return statistics.fmean(values) if values else None

    def _by_both(self, score: Score) -> float | None:
        if score.value is None or GATES & set(score.parts):  # what a gate refused is worth that, whatever a judge says
            return score.value
        second = score.beside.get("second")
        return None if second is None else score.value + (second - score.parts[counted(score)]) / 2

    async def _episodes(self, policy: InstructionPolicy, examples: Sequence[Example]) -> Validated:
        raw = await self.raw(examples) if self.raw is not None else {}
        episodes = await run_arm(
            "validation", policy, examples, student=self.student, params=self.params, reward=self.reward, samples=self.samples
        )
        return charge_harm(episodes, raw, self.harm_penalty), raw

    def _second(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """What the second judge adds to the step's line: its mean win, both judges' wins by question, whether they have parted."""
        wins = {
            judge: [None if win is None else round(win, 4) for win in of]  # as the step's line keeps them, which later steps compare with
            for judge, of in (("first", [correct(e) for e in episodes]), ("second", [beside(e, "second") for e in episodes]))
        }
        known = [win for win in wins["second"] if win is not None]
        if not known:
            return {}
        before = max((line for line in self.run.lines("validation.jsonl") if "wins" in line), key=lambda line: line["second"], default=None)
        parted = False
        if before and any(a is not None and b is not None for a, b in zip(wins["second"], before["wins"]["second"], strict=True)):
            first, second = (compare(wins[judge], before["wins"][judge]) for judge in ("first", "second"))
            parted = first.difference >= 0 and second.high < 0
        return {"second": statistics.fmean(known), "parted": parted and self.watched, "wins": wins}

    @property
    def parted(self) -> bool:
        """Whether the judges have parted at the last validated step."""
        lines = self.run.lines("validation.jsonl")
        return bool(lines) and lines[-1].get("parted", False)

    def best(self) -> tuple[float, int, Path] | None:
        """(value, step, folder) of the best validated step whose weights are kept; None before the first."""
        candidates = [
            (line["value"], line["step"], self.run.checkpoints / f"best-{line['step']}")
            for line in self.run.lines("validation.jsonl")
            if not line.get("parted")
        ]
        kept = [best for best in sorted(candidates, reverse=True) if (best[2] / COMPLETE).exists()]
        return kept[0] if kept else None

    def without_gain(self) -> int:
        """Validations since the best value was first reached."""
        values = [line["value"] for line in self.run.lines("validation.jsonl")]
        return len(values) - 1 - values.index(max(values)) if values else 0

    def prune(self, checkpoint_step: int) -> None:
        """Drop kept weights that no resume can need: all but the best up to the last whole checkpoint, and later ones."""
        best = self.best()
        upto = [
            line
            for line in self.run.lines("validation.jsonl")
            if line["step"] <= checkpoint_step
            and not line.get("parted")
            and (self.run.checkpoints / f"best-{line['step']}" / COMPLETE).exists()  # of equal values an older one alone may have been kept
        ]
        needed = {best[1]} if best else set()
        if upto:
            needed.add(max(upto, key=lambda line: (line["value"], line["step"]))["step"])
        for folder in self.run.checkpoints.glob("best-*"):
            step = int(folder.name.rpartition("-")[2])
            if step not in needed and step < checkpoint_step:
                shutil.rmtree(folder)
