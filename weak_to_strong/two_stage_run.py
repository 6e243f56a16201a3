"""A two-stage run, phase by phase: weak answers, rounds of Stage I, samples, pairs, Stage II, the arms beside them, measurement.

The run holds the questions' golds, because arms and tables need them; what it hands to `stage_one` and `stage_two` are `PublicExample`s.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from exchange.command import RunError
from exchange.records import Completion, PublicExample
from rewards.correctness import Grader, grade_answer
from student_clients import StudentConfig, sampling
from tasks import has_gold
from weak_to_strong.agreement import Answer, AnswerKey, JudgeKey, Pool, TaskKey
from weak_to_strong.cost import Cost, asked
from weak_to_strong.fine_tuning import fine_tune
from weak_to_strong.misfit_callback import Followed
from weak_to_strong.preference_tuning import prefer
from weak_to_strong.run import Run
from weak_to_strong.stage_one import SETS, SetName, ask, demonstrated, goes_on, select_consistent, training_rows
from weak_to_strong.stage_two import preference_pairs
from weak_to_strong.traces import NothingLeft, read_traces
from weak_to_strong.two_stage_config import TwoStageConfig
from weak_to_strong.two_stage_measure import measure
from weak_to_strong.w2sr_run import parameters_of


def plan(config: TwoStageConfig) -> dict[str, Any]:
    """What the run would ask, for --dry-run."""
    n, one = config.questions, config.stage_one
    trainings = one.rounds * 3 - (0 if one.compare else 2)
    judged = (one.rounds + config.stage_two.samples) * n if config.key.kind == "judge" else 0
    return {
        "weak_calls_at_most": (0 if config.weak_file else n) + config.eval.n,
        "strong_answers_at_most": n * (1 + 2 * (one.rounds - 1)) + (n * config.stage_two.samples if config.preference else 0),
        "judge_calls_at_most": judged,
        "fine_tunings_at_most": trainings + sum(arm in config.arms for arm in ("full_weak", "gold")),
        "fine_tuning_rows_at_most": 2 * n,
        "preference_pairs_at_most": n * config.stage_two.pairs if config.preference else 0,
        "strong_answers_measured": config.eval.n * (3 + len(config.arms)),
    }


class TwoStage:
    """One process's work on a run."""

    def __init__(self, run: Run[TwoStageConfig]) -> None:
        self.run = run
        self.config = run.config
        self.examples = run.questions("train", max(self.config.task.train_size, self.config.questions))[: self.config.questions]
        self.public = [example.public() for example in self.examples]
        self.validation = run.questions("validation", self.config.task.validation_size)
        self.graded = has_gold(self.config.task)

    def __call__(self) -> dict[str, Any]:
        run, config = self.run, self.config
        if not run.done("weak"):  # a student that cannot be loaded is found out before the weak model is paid for
            run.client("raw", config.strong.client())
            run.release("raw")
        self.weak = self._answered("weak", self._ask_weak)
        rounds, stage_one = self._rounds()
        models: dict[str, Path] = {"stage_one": stage_one}
        if config.stage_one.compare:
            models |= {f"stage_one_{name}": self._model(len(rounds), name) for name in SETS if name != config.stage_one.trained_on}
        models |= {f"round_{i}": self._model(i, config.stage_one.trained_on) for i in range(1, len(rounds))}
        facts: dict[str, Any] = {"rounds": rounds}
        if config.preference is not None:
            facts["pairs"], facts["stage_two"] = self._stage_two(stage_one)
            models["stage_two"] = self._folder("stage_two")
        models |= self._other_models()
        facts["cost"] = {"training": self._cost(len(rounds)).model_dump()}
        result = measure(run, models, facts, answered=self.public, weak=self.weak)
        print(f"student: {models.get('stage_two', stage_one)}   report: {run.path / 'report.html'}")
        return result

    def _cost(self, rounds: int) -> Cost:
        """What the student took: every phase but the arms beside it."""
        one = self.config.stage_one
        beside = {"full_weak", "gold", *(f"round_{rounds}_{name}" for name in SETS if name != one.trained_on)}
        return self.run.cost(*(path.stem for path in (self.run.path / "phases").glob("*.json") if path.stem not in beside))

    @property
    def key(self) -> AnswerKey:
        if self.config.key.judge is None:
            return TaskKey()
        return JudgeKey(self.run.client("judge", self.config.key.judge), self.config.key.judge)

    def _folder(self, name: str) -> Path:
        return self.run.path / "models" / name

    def _model(self, number: int, name: SetName) -> Path:
        return self._folder(f"round_{number}_{name}")

    def _answered(self, name: str, make: Callable[[], tuple[list[Answer], Cost]]) -> Pool:
        """The answers of a phase, made once and kept as NAME.jsonl. A phase without one whole answer is none: a resumed run asks again."""
        path = self.run.path / f"{name}.jsonl"

        def phase() -> dict[str, Any]:
            found, cost = make()
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text("".join(answer.model_dump_json() + "\n" for answer in found), encoding="utf-8")
            temporary.replace(path)
            whole = sum(answer.whole is not None for answer in found)
            if not whole:
                raise RunError(f"{name}: not one of {len(found)} answers is whole (failed, empty, or cut at max_tokens); look at {path}")
            return {"answers": len(found), "whole": whole, "cost": cost.model_dump()}

        self.run.once(name, phase)
        return Pool.of([Answer.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()])

    def _ask_weak(self) -> tuple[list[Answer], Cost]:
        config = self.config
        if config.weak_file is None:
            return self._ask("weak", config.weak, self.public, instruction=config.weak_instruction)
        traces = read_traces(config.weak_file, "weak_file")
        by_id = {trace.example_id: trace for trace in reversed(traces)}  # of several for one question the first
        if not any(question.id in by_id for question in self.public):
            raise RunError(f"weak_file={str(config.weak_file)!r}: its answers belong to none of the {len(self.public)} questions")
        found = [
            Answer(example_id=q.id, text=by_id[q.id].completion, finish_reason=by_id[q.id].finish_reason)
            for q in self.public
            if q.id in by_id
        ]
        return found, Cost()

    def _ask(
        self, role: str, settings: StudentConfig, questions: Sequence[PublicExample], *, instruction: str = "", samples: int = 1
    ) -> tuple[list[Answer], Cost]:
        """Answers, and what they cost by the client's own count."""
        client = self.run.client(role, settings)
        before = client.stats.as_dict()
        found = asyncio.run(ask(questions, client=client, params=sampling(settings), instruction=instruction, samples=samples))
        after = client.stats.as_dict()
        self.run.release(role)
        counts = {name: int(after[name] - before[name]) for name in ("calls", "prompt_tokens", "completion_tokens")}
        return found, asked(parameters_of(settings), **counts)

    def _rounds(self) -> tuple[list[dict[str, Any]], Path]:
        """(a line a round, the folder of the stage's model)."""
        config = self.config
        shares: list[float] = []
        lines: list[dict[str, Any]] = []
        while True:
            number = len(shares) + 1
            if number == 1:
                first = self.weak
                shown = demonstrated(self.public, self.public, self.weak, count=config.stage_one.demonstrations, seed=config.seed)
                second = self._answered("icl", partial(self._ask, "raw", config.strong.client(), shown))
            else:
                first, second = (self._refined(number, name) for name in ("weak", "icl"))
            line = self.run.once(f"round_{number}", partial(self._select, first, second, number))
            shares.append(line["share"])
            ends = goes_on(shares, config.stage_one)
            self.run.say(f"round {number}: kept {line['kept']} of {len(self.public)} questions ({line['counts']})")
            needed = SETS if ends is None or config.stage_one.compare else (config.stage_one.trained_on,)
            tuned = {name: self._tune(f"round_{number}_{name}", self._rows(number, name)) for name in needed}
            lines.append({**line, "tuned": {name: {k: v for k, v in found.items() if k != "cost"} for name, found in tuned.items()}})
            if ends is not None:
                self.run.say(f"stage one ends: {ends}")
                lines[-1]["ended"] = ends
                return lines, self._model(number, config.stage_one.trained_on)

    def _refined(self, number: int, name: SetName) -> Pool:
        """The answers of a model of the last round."""
        settings = self.config.strong.client(self._model(number - 1, name))
        return self._answered(f"round_{number}_{name}_answers", partial(self._ask, f"round_{number - 1}_{name}", settings, self.public))

    def _select(self, first: Pool, second: Pool, number: int) -> dict[str, Any]:
        chosen = asyncio.run(select_consistent(self.public, first, second, self.key))
        if not chosen.kept:
            raise NothingLeft(
                f"round {number}: everything is filtered away, the sources agree on none of {len(self.public)} questions ({chosen.counts})"
            )
        (self.run.path / f"round_{number}_sets.json").write_text(json.dumps(chosen.rows), encoding="utf-8")
        found: dict[str, Any] = {
            "round": number,
            "kept": len(chosen.kept),
            "share": len(chosen.kept) / len(self.public),
            "counts": chosen.counts,
        }
        if self.graded:  # for the table alone: what is kept is decided above
            found["right"] = {
                name: self._right([(q.id, pool.whole(q.id)) for q in self.public]) for name, pool in (("first", first), ("second", second))
            }
            found["kept_right"] = {name: self._right(chosen.rows[name]) for name in ("weak", "icl")}
        return found

    def _rows(self, number: int, name: SetName) -> list[tuple[str, str]]:
        held = json.loads((self.run.path / f"round_{number}_sets.json").read_text(encoding="utf-8"))
        return [(example_id, text) for example_id, text in held[name]]

    def _right(self, rows: Sequence[tuple[str, str | None]]) -> float:
        """Share of texts that the gold calls right; a question without a text is wrong."""
        by_id = {example.id: example for example in self.examples}

        async def grade() -> list[float | None]:
            grader = Grader()
            return [(await grade_answer(grader, by_id[name], Completion(text=text))).value if text else 0.0 for name, text in rows]

        known = [value for value in asyncio.run(grade()) if value is not None]
        return round(sum(known) / len(known), 4) if known else 0.0

    def _tune(self, name: str, rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Fine-tune the untrained student on (question id, text) rows, once; misfit against the weak texts is followed on the way."""
        run, config = self.run, self.config
        weak = [(q.id, text) for q in self.public for text in [self.weak.whole(q.id)] if text is not None]

        def make() -> dict[str, Any]:
            run.release()
            followed = Followed(run.directory, name, config.strong.model, training_rows(self.public, weak))
            tuned = fine_tune(
                config.strong.model, training_rows(self.public, rows), config.fine_tune, config.strong, seed=config.seed,
                out=self._folder(name), work=run.path / "checkpoints" / name, say=run.say, callbacks=[followed.callback],
                watched=self.validation[: config.fine_tune.watch] if self.graded else (),
            )  # fmt: skip
            return {**tuned, "misfit": followed.steps()}

        return run.once(name, make)

    def _stage_two(self, stage_one: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sample the Stage I model, make the pairs, learn them; (how the pairs came about, how they were learnt)."""
        run, config, two = self.run, self.config, self.config.stage_two
        settings = config.strong.client(stage_one).model_copy(update={"temperature": two.temperature, "seed": config.seed})
        self._answered("samples", lambda: self._ask("sampled", settings, self.public, samples=two.samples))
        lines = (run.path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        drawn = [Answer.model_validate_json(line) for line in lines]
        path = run.path / "pairs.jsonl"

        def make() -> dict[str, Any]:
            rows, counts = asyncio.run(preference_pairs(self.public, self.weak, drawn, self.key, two, seed=config.seed))
            if not rows:
                raise NothingLeft(
                    f"stage two: everything is filtered away, no question gives a pair ({counts}); go on with --resume={run.path} and "
                    "another --stage_two.keep or --stage_two.reject_weak, or with Stage I alone: --preference=null"
                )
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            found: dict[str, Any] = {
                "pairs": len(rows),
                "outcomes": counts,
                "weak_chosen": sum(row["weak_side"] == "chosen" for row in rows),
            }
            if self.graded:
                found["right"] = {s: self._right([(row["id"], row[s][0]["content"]) for row in rows]) for s in ("chosen", "rejected")}
            return found

        held = run.once("pairs", make)
        run.say(f"{held['pairs']} pairs: {held['outcomes']}")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert config.preference is not None
        preference = config.preference
        run.release()  # a judge of the pairs
        learnt = run.once(
            "stage_two",
            lambda: prefer(
                stage_one, rows, preference, config.strong, seed=config.seed, out=self._folder("stage_two"),
                work=run.path / "checkpoints" / "stage_two",
            ),
        )  # fmt: skip
        return ({k: v for k, v in found.items() if k != "cost"} for found in (held, learnt))  # type: ignore[return-value]

    def _other_models(self) -> dict[str, Path]:
        """The arms that are trained too: on all weak answers, and on gold solutions, which is no part of either stage."""
        found: dict[str, Path] = {}
        if "full_weak" in self.config.arms:
            self._tune("full_weak", [(q.id, text) for q in self.public for text in [self.weak.whole(q.id)] if text is not None])
            found["full_weak"] = self._folder("full_weak")
        if "gold" in self.config.arms:
            solved = [(example.id, example.reference) for example in self.examples if example.reference]
            if len(solved) < len(self.examples):
                self.run.say(f"arm gold is left out: {len(self.examples) - len(solved)} questions have no worked solution")
            else:
                self._tune("gold", solved)
                found["gold"] = self._folder("gold")
        return found
