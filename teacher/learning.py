"""The phase of a run that is RL: from the warm start, or the last whole checkpoint, to the last step or whatever ends it before."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange.command import RunError
from exchange.records import Example
from rewards.baseline import RawOutcomes
from teacher.alarms import Alarms, diverged
from teacher.algorithms import build_trainer, questions_a_batch, trl_config
from teacher.config import TrainConfig
from teacher.parts import COUNTED_AS, Parts
from teacher.policy import BrokenWeights, end_ids, load_model
from teacher.processes import Processes
from teacher.query_filter import choose, settled
from teacher.rewarder import Follower, Rewarder
from teacher.run_directory import RunDirectory, unsaved_weights
from teacher.validation import Validator


@dataclass(frozen=True)
class Task:
    """What the main process tells the others, once there is something to learn."""

    config: TrainConfig
    run: Path
    start: Path
    checkpoint: Path | None
    rows: list[dict[str, Any]]


def follow(processes: Processes) -> None:
    """All that a process other than the main one does of a run: learn with it, when it comes to that."""
    task: Task | None = processes.share(None)
    if task is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # from here on the main process, which gets them too, stops all with a checkpoint
    model, tokenizer = load_model(str(task.start))
    follower = Follower(processes)
    build_trainer(
        task.config, RunDirectory(task.run), model, tokenizer, start=task.start, rows=task.rows, reward=follower.score,
        begin=follower.begin, on_step=lambda *_: None, on_validate=lambda *_: None, on_saved=lambda *_: None, stop=bool,
        processes=processes,
    ).train(resume_from_checkpoint=str(task.checkpoint) if task.checkpoint else None)  # fmt: skip


class Learning:
    """One process's part of it. `start` is the folder of the weights that it begins from."""

    def __init__(self, parts: Parts, start: Path) -> None:
        config = parts.config
        self.parts = parts
        self.start = start
        self.model, self.tokenizer = load_model(str(start))
        self.alarms = Alarms(config.alarms)
        price = config.reward.harm_penalty
        samples = config.student.samples
        raw = raw_seen = RawOutcomes(student=parts.student, params=parts.params, reward=parts.reward, samples=samples) if price else None
        seen = parts.measuring
        if price and seen.student is not parts.student:
            raw_seen = RawOutcomes(student=seen.student, params=seen.params, reward=seen.reward, samples=seen.config.student.samples)
        self.validator = Validator(
            parts.run, parts.validation, self.tokenizer, parts.prompt, max_instruction_tokens=config.teacher.max_instruction_tokens or 1,
            student=seen.student, params=seen.params, reward=seen.reward.observed, watched=config.reward.watched, raw=raw_seen,
            harm_penalty=price, samples=seen.config.student.samples, asked=parts.ledger.asked,
        )  # fmt: skip
        self.rewarder = Rewarder(
            parts.train, self.tokenizer, end_ids(self.model, self.tokenizer), student=parts.student, params=parts.params,
            reward=parts.reward, raw=raw, harm_penalty=price, samples=samples, record=parts.record, processes=parts.processes,
        )  # fmt: skip

    def __call__(self) -> Validator:
        """Learn, and return what validated it. A signal ends it with a checkpoint.

        Raises RunError where it cannot go on; the last checkpoint stands then.
        """
        parts, run = self.parts, self.parts.run
        checkpoint = run.last_checkpoint()
        done = checkpoint[0] if checkpoint else 0
        run.drop_after(done)
        if not run.lines("validation.jsonl"):
            self._on_validate(0, self.model)
        if (self.validator.parted or self._no_better()) and not run.ended:
            self._note_the_end()
        if done >= (parts.config.max_steps or 0) or run.ended:
            parts.processes.share(None)
            return self.validator  # a Trainer that resumes at its last step would take one more
        rows = [
            {"prompt": [message.model_dump() for message in parts.prompt.messages(example.public())], "example_id": example.id}
            for example in self._questions()
        ]
        parts.processes.share(Task(parts.config, run.path, self.start, checkpoint[1] if checkpoint else None, rows))
        trainer = build_trainer(
            parts.config, run, self.model, self.tokenizer, start=self.start, rows=rows, reward=self.rewarder.score,
            begin=self.rewarder.begin, on_step=self._on_step, on_validate=self._on_validate, on_saved=self.validator.prune,
            stop=lambda: bool(parts.stop.number) or self._at_an_end(), processes=parts.processes,
        )  # fmt: skip
        # While student calls are in flight on the trainer's loop, all others go there too: they share the limit on concurrency.
        self.validator.run_async = lambda asked: asyncio.run_coroutine_threadsafe(asked, trainer.async_loop).result()
        parts.stop.graceful = True
        try:
            with self._errors_in_words():
                trainer.train(resume_from_checkpoint=str(checkpoint[1]) if checkpoint else None)
        except BaseException:
            self.rewarder.drop()
            raise
        self.rewarder.settle()
        self.validator.run_async = asyncio.run  # the other one keeps the trainer, and with it a card's memory
        parts.stop.graceful = False
        if not parts.stop.number:
            self._note_the_end()
        return self.validator

    def _questions(self) -> list[Example]:
        """The training questions that the filter leaves; what it left out stands in the run's directory."""
        parts = self.parts
        kinds = settled(line for line in parts.run.lines("episodes.jsonl") if line["step"] == 0)
        batch = questions_a_batch(trl_config(parts.config, parts.run.checkpoints))
        kept, counts = choose(parts.train, kinds, parts.config.filter, seed=parts.config.seed, at_least=batch)
        parts.run.note_filter(counts)
        if len(kept) < len(parts.train):
            parts.progress.say(
                f"RL on {len(kept)} of {len(parts.train)} questions; left out: {counts['raw_right_left_out']} of {counts['raw_right']} "
                f"that are right raw, {counts['hopeless_left_out']} of {counts['hopeless']} that no instruction made right"
            )
        return kept

    def _on_step(self, step: int, logs: dict[str, float]) -> None:
        parts = self.parts
        if name := diverged(logs):
            raise self._lost(f"step {step}: {name} is {logs[name]}")
        generated = "reward" in logs  # an update that learns once more from a batch has nothing new to be watched
        for line in self.alarms.step(logs) if generated else ():
            parts.progress.say(f"step {step}: {line}")
            parts.run.append("alarms.jsonl", {"step": step, "alarm": line})
        parts.run.append("metrics.jsonl", {"step": step, **{k: v for k, v in logs.items() if isinstance(v, int | float)}})
        if not generated:
            return
        right, silent = logs.get("right_rate", 0.0), logs.get("silence_rate", 0.0)
        distinct, entropy = logs.get("distinct_rate", 0.0), logs.get("entropy", 0.0)
        counted = COUNTED_AS[parts.config.reward.kind]
        parts.progress.step(step, f"{counted} {right:.0%} silent {silent:.0%} distinct {distinct:.0%} entropy {entropy:.2f}")

    def _on_validate(self, step: int, trained: Any) -> None:
        try:
            right = self.validator(step, trained)
        except BrokenWeights:
            raise self._lost(f"validation at step {step}: scores are not finite") from None
        line = self.parts.run.lines("validation.jsonl")[-1]
        second = f", second judge {line['second']:.1%}" if "second" in line else ""
        self.parts.progress.say(f"step {step}: validation {right:.1%}{second}")
        self.parts.ledger.save()

    def _no_better(self) -> bool:
        patience = self.parts.config.eval.patience
        return patience is not None and self.validator.without_gain() >= patience

    def _at_an_end(self) -> bool:
        return self.alarms.no_signal or self._no_better() or self.validator.parted

    def _note_the_end(self) -> None:
        """Write down why learning ended before its last step, where it did; a run in which nothing could be learnt is an error."""
        config, run = self.parts.config, self.parts.run
        if self.alarms.no_signal:
            rate, counted = run.lines("metrics.jsonl")[-1]["right_rate"], COUNTED_AS[config.reward.kind]
            if rate < 0.99:
                raise RunError(
                    f"in {config.alarms.no_signal} steps no group had rewards that differ ({counted} {rate:.0%}), so nothing could be "
                    "learnt; a longer warm start, easier questions or another reward may change that. To go on all the same: "
                    f"--resume={run.path}"
                )
            run.end(f"{counted} {rate:.0%} for {config.alarms.no_signal} steps: nothing is left to learn")
        elif self.validator.parted:
            run.end("the judges part: the one that pays still gains, the second one loses")
        elif self._no_better():
            run.end(f"no better in {config.eval.patience} validations")
        if run.ended:
            self.parts.progress.say(f"step {run.last_step()} of {config.max_steps}: {run.ended}; learning ends here")

    def _lost(self, what: str) -> RunError:
        run = self.parts.run
        return RunError(
            f"{what}: the weights are lost; start anew with a lower trl.learning_rate, or go on from step {run.last_step()} with "
            f"--resume={run.path}"
        )

    def _not_saved(self, reason: str) -> RunError:
        run = self.parts.run
        return RunError(
            f"a checkpoint in {run.checkpoints} cannot be read or written ({reason}); free space, delete it where it is damaged, and go on "
            f"from step {run.last_step()} with --resume={run.path}"
        )

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise RunError(
                f"training stopped: {' '.join(str(error).split())}; the last checkpoint stands in {self.parts.run.checkpoints}, "
                "delete it where it is damaged and go on from the one before"
            ) from None
        except Exception as error:
            if isinstance(error, BrokenWeights) or "probability tensor contains" in str(error):
                raise self._lost("no token can be sampled") from None
            if (reason := unsaved_weights(error)) is not None:
                raise self._not_saved(reason) from None
            raise
