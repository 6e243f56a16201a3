"""`python -m teacher.probe [CONFIG.yaml] [--a.b=value ...]`: before spending, is there something to learn?

Asks the student a few questions raw and under instructions of the untrained teacher, at most a twentieth of what the run would ask, and
says how far instructions move the student, what gain the run will reach, and whether to train. What is wrong raw and under all of a
question's instructions gets more of them, once; hits are tried on other questions; of a student that samples, raw answers and hits are
asked again. Answers are cached, so the run does not pay for them again where it asks the same.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from evaluation.headroom import HALF_LEARNT, HALF_LEARNT_BORROWING, Estimate, Tried, learnable, outlook
from evaluation.paired import wilson
from exchange.command import RunError, run_command
from exchange.protocols import StudentClient
from exchange.records import Episode, Example, Instruction
from exchange.settings import SettingError, parse_known
from rewards.episode import all_of, correct, request, run_episode
from rewards.format import well_formed
from rewards.rubric import Rubric, check_reward
from rewards.shape import leaks
from student_clients import sampling
from tasks import TASKS, answer_type_of
from teacher.algorithms import generated_questions, trl_config
from teacher.arms import untrained_policy
from teacher.config import TrainConfig
from teacher.drafts import drafted
from teacher.evaluate import Asking
from teacher.run_directory import write_json
from teacher.train import dry_run, read_config
from teacher.warm_start import may_borrow

SHARE = 0.05
"""Of the run's calls at most."""
MOST_QUESTIONS = 96
RIGHT = 0.5
"""From which mean grade on an answer counts as right."""
FEWEST_QUESTIONS = 16
"""Fewer say nothing."""
DEEPER = 2
"""Times as many instructions, in all, for a question that is wrong under all so far: what is hit one time in twelve is missed by eight
samples as often as not, and looks out of reach."""
RAW_TIMES = 2
"""Times as many questions are asked raw: the share that is right raw bounds the gain, and costs a call a question."""
AGAIN = 3
"""Fresh raw answers to a question that was wrong raw, where the student samples; a hit gets one."""
MOVES = 3
"""Other questions that were wrong raw, asked under the hits of a question: how many different instructions there are to learn."""
WORTH = 0.02
"""Two points of gain: less is not worth a hop before the model."""
MUCH = 0.1
"""Ten points: where so much may be within reach, chance as the likelier explanation is no reason to stop asking."""


def samples_of(config: TrainConfig) -> bool:
    """Whether the student may answer the same prompt in another way."""
    return config.student.temperature != 0 or config.student.reasoning_effort is not None


def calls_a_question(config: TrainConfig, samples: int) -> int:
    """Student calls of one question at most: raw answers, one under each instruction, one under each hit moved here, fresh ones of a
    student that samples, and those of the samples that vote."""
    voting = config.reward.consistency
    instructed = DEEPER * samples
    answers = RAW_TIMES + instructed + MOVES
    if config.reward.kind == "consistency":
        answers += voting.samples * (RAW_TIMES if voting.on == "raw" else answers)
    return answers + (AGAIN + samples if samples_of(config) else 0)


def size(config: TrainConfig, samples: int) -> int:
    """How many questions the probe asks. Raises SettingError where a twentieth of the run is too little to say anything."""
    run = dry_run(config)["student_calls_at_most"]["total"]
    questions = min(MOST_QUESTIONS, int(run * SHARE / calls_a_question(config, samples)))
    if questions < FEWEST_QUESTIONS:
        raise SettingError(
            f"a probe asks at most {SHARE:.0%} of the run's {run} calls, which is {questions} questions under {samples} instructions each; "
            f"fewer than {FEWEST_QUESTIONS} say nothing. Take fewer --samples, or train outright: a run this small costs little more"
        )
    return questions


@dataclass(frozen=True)
class Asked:
    """What a probe asked: by question, in one order."""

    examples: list[Example]
    raw: list[Episode]
    groups: list[list[Episode]]
    """Under sampled instructions; the last questions have none, being asked raw alone."""
    again: list[list[Episode]]
    """Fresh raw answers of questions that were wrong, where the student samples."""
    repeated: list[list[Episode]]
    """Fresh answers under the instructions that hit, likewise."""
    moved: list[list[Episode]]
    """Answers to other questions that were wrong raw, under the question's hits."""

    @property
    def instructed(self) -> list[Episode]:
        return [episode for group in self.groups for episode in group]

    @property
    def episodes(self) -> list[Episode]:
        return [*self.raw, *(episode for row in (*self.groups, *self.again, *self.repeated, *self.moved) for episode in row)]

    @property
    def calls(self) -> int:
        """Answers that were asked for, those that voted on others left out."""
        return sum(len(episode.completions) or 1 for episode in self.episodes)


async def ask(config: TrainConfig, questions: int, samples: int, student: StudentClient, reward: Rubric) -> Asked:
    """Ask `questions` under `samples` instructions each, more where none hits, and RAW_TIMES as many raw."""
    import torch

    torch.manual_seed(config.seed)  # the untrained teacher samples its instructions
    examples = TASKS[config.task.name].load(config.task, "train", RAW_TIMES * questions)
    check_reward(config.reward, examples)
    policy = untrained_policy(config, config.teacher.model)
    policy.temperature = float(config.trl.get("temperature", 1.0))
    params = sampling(config.student)
    if config.variant == "three_step":
        examples = await drafted(examples, student=student, params=params)
    fresh = samples_of(config)
    asked_before: Counter[str] = Counter()

    async def put(into: list[list[Episode]], asked: Sequence[tuple[int, int, Instruction]], arm: str, times: int = 1) -> None:
        """`into`[i] gets the answers to question j under a text, of each (i, j, text)."""
        first = []  # of a student that samples each is an answer of its own, though the same is asked again
        for _, j, text in asked:
            prompt = repr(request(examples[j], text, params)[0])  # what the guard refuses reaches the student as silence
            first.append(asked_before[prompt] if fresh else 0)
            asked_before[prompt] += times
        episodes = await all_of(
            run_episode(examples[j], text, arm=arm, student=student, params=params, reward=reward, samples=times, sample_index=index)
            for (_, j, text), index in zip(asked, first, strict=True)
        )
        for (i, *_), episode in zip(asked, episodes, strict=True):
            into[i].append(episode)

    silence = Instruction(text="", source="silence")
    raws, groups, again, repeated, moved = ([list[Episode]() for _ in examples] for _ in range(5))
    await put(raws, [(i, i, silence) for i in range(len(examples))], "raw")
    raw = _some([episode for row in raws for episode in row])
    wrong = {i for i, episode in enumerate(raw) if correct(episode) is not None and not _right(episode)}
    left = list(range(min(questions, len(examples))))
    for _ in range(DEEPER):
        if asked := [i for i in left for _ in range(samples)]:
            texts = await policy.instruct([examples[i].public() for i in asked])
            await put(groups, [(i, i, text) for i, text in zip(asked, texts, strict=True)], "probe")
        _some([episode for group in groups for episode in group])
        left = [i for i in left if i in wrong and not any(map(_right, groups[i]))]
    tried = [i for i in sorted(wrong) if groups[i]]
    hits = {i: [episode.instruction for episode in groups[i] if _right(episode)] for i in tried}
    if fresh:
        await put(again, [(i, i, silence) for i in tried], "raw", AGAIN)
        await put(repeated, [(i, i, text) for i in tried for text in hits[i]], "probe")
    rng, moves = random.Random(config.seed), []
    for i in (i for i in tried if hits[i]):
        others = [j for j in tried if j != i]
        moves += [(i, j, text) for j, text in zip(rng.sample(others, min(MOVES, len(others))), cycle(hits[i]))]
    await put(moved, moves, "probe")
    _some([episode for row in (*repeated, *moved) for episode in row])
    return Asked(examples, raw, groups, again, repeated, moved)


def _right(episode: Episode) -> bool:
    return (correct(episode) or 0.0) >= RIGHT


def _some(episodes: list[Episode]) -> list[Episode]:
    """The episodes. Raises RunError where all of them failed."""
    if episodes and all(episode.error for episode in episodes):
        raise RunError(f"probe: every student call failed ({episodes[0].error})")
    return episodes


def finds(config: TrainConfig) -> list[tuple[float, int]]:
    """(questions, instructions a question) of the warm start, and of RL's groups."""
    warm, group = config.teacher.warm_start, int(trl_config(config, Path(os.devnull)).num_generations or 1)
    groups = (float(min(generated_questions(config), config.task.train_size)), group)
    return [groups] if warm is None else [(float(warm.questions), warm.samples), groups]


def counts(config: TrainConfig, asked: Asked) -> list[Tried]:
    """What the probe saw of each question whose raw answer could be judged."""
    fresh = samples_of(config)
    found = []
    for i, episode in enumerate(asked.raw):
        if (raw := correct(episode)) is None:
            continue
        trials, again, twice, moved = (
            [e for e in rows[i] if correct(e) is not None] for rows in (asked.groups, asked.again, asked.repeated, asked.moved)
        )
        hits, right_again = sum(map(_right, trials)), sum(map(_right, twice))
        unsaid = hits - len(twice) if fresh and raw < RIGHT else 0  # hits that could not be judged again are no trials
        found.append(Tried(
            raw=raw, trials=len(trials) - unsaid, hits=hits - unsaid, repeated=right_again if fresh else None, fresh=AGAIN * len(again),
            again=sum(round(AGAIN * (correct(e) or 0.0)) for e in again), moved=sum(map(_right, moved)), moves=len(moved),
        ))  # fmt: skip
    return found


def report(config: TrainConfig, asked: Asked, *, samples: int) -> dict[str, Any]:
    """The probe's figures. Questions whose raw answer could not be judged are left out and counted."""
    alpha = config.eval.alpha
    known = [i for i, episode in enumerate(asked.raw) if correct(episode) is not None]
    if len(known) < 2:
        raise RunError("probe: fewer than two questions could be judged")
    before = [grade for i in known if (grade := correct(asked.raw[i])) is not None]
    grades = [[correct(episode) for episode in asked.groups[i]] for i in known]
    first = [[grade for grade in row[:samples] if grade is not None] for row in grades if row]  # later ones were chosen for having missed
    flat = [grade for row in first for grade in row]
    best = statistics.fmean(max(row, default=0.0) for row in first) if first else 0.0
    mean = statistics.fmean(flat) if flat else 0.0
    low, high = wilson(sum(before), len(before), alpha)
    written = [(asked.examples[i], episode.instruction) for i in known for episode in asked.groups[i][:samples]]
    total, tried, found_by = max(1, len(written)), counts(config, asked), finds(config)
    warm = config.teacher.warm_start
    borrows = warm is not None and may_borrow(warm.borrowed, warm.samples, asked.examples)
    told = outlook(tried, found_by, half_learnt=HALF_LEARNT_BORROWING if borrows else HALF_LEARNT, alpha=alpha)
    queries = [asked.examples[i].query for i in known]
    texts = [[episode.instruction.text for episode in asked.groups[i]] for i in known]
    sure = learnable(queries, before, texts, grades, alpha=alpha)
    answering = sum(bool(leaks(text, example, answer_type_of(example.task))) for example, text in written) / total
    return {
        "questions": len(first),
        "questions_raw": len(known),
        "samples": samples,
        "calls": asked.calls,
        "failed": sum(episode.error is not None for episode in asked.episodes),
        "raw": {"mean": statistics.fmean(before), "low": low, "high": high},
        "untrained": mean,
        "best_of_n": best,
        "headroom": best - mean,
        "sensitivity": statistics.fmean(len(set(row)) > 1 for row in first) if first else 0.0,
        "silent": sum(not text.text for _, text in written) / total,
        "ill_formed": sum(not well_formed(text) for _, text in written) / total,
        "answering": answering,
        "solved": round(told.solved, 1),
        "lessons": round(told.lessons, 1),
        "predicted_gain": told.predicted.model_dump(),
        "reachable_gain": told.reachable.model_dump(),
        "learnable_gain": sure.model_dump(),
        "verdict": verdict(told.reachable, sure, answering, luck=told.luck),
        "finds": found_by,
        "counts": [list(one.model_dump().values()) for one in tried],
    }


def verdict(could: Estimate, sure: Estimate, answering: float, *, luck: bool = False) -> str:
    """One sentence that begins with what to do. `luck`: the student's slips alone explain what was right."""
    if could.high < MUCH and luck:
        return "do not train: what is right under an instruction was right by chance, and is not when it is asked again"
    if could.high < WORTH or (could.value < WORTH and could.high < MUCH):
        return "do not train: hardly a question that is wrong raw is right under any instruction of this teacher"
    if answering > 0.5:
        return "do not train yet: most instructions state an answer; change teacher.template, and set reward.leakage_penalty"
    if could.low < WORTH:
        return "unclear: the gain within reach may be nothing; ask more questions, or another teacher or student"
    if sure.low > 0:
        return "train: what works is within reach, and similar questions already tell which instruction it is"
    return (
        "unclear: some instruction of each question hits, by merit or by chance, and these samples cannot tell which; ask more --samples, "
        "or train with few steps and look"
    )


def show(found: dict[str, Any], asked: Asked) -> None:
    from rich.console import Console
    from rich.table import Table

    def interval(part: dict[str, float], sign: str = "") -> str:
        return f"{part['value' if 'value' in part else 'mean']:{sign}.1%}  ({part['low']:{sign}.1%} .. {part['high']:{sign}.1%})"

    table = Table(
        title=f"probe: {found['questions']} questions, {found['samples']} instructions each, {found['calls']} calls", show_header=False
    )
    rows = [
        ("right raw", interval(found["raw"])),
        ("right under the untrained teacher", f"{found['untrained']:.1%}"),
        ("right under the best of its instructions", f"{found['best_of_n']:.1%}"),
        ("head-room (best minus mean)", f"{found['headroom']:+.1%}"),
        ("questions whose answer depends on the instruction", f"{found['sensitivity']:.0%}"),
        ("instructions: silent / ill-formed / answering", f"{found['silent']:.0%} / {found['ill_formed']:.0%} / {found['answering']:.0%}"),
        ("instructions it takes to serve all that can be served", f"{found['lessons']:.0f}" if found["solved"] else "–"),
        ("calls that failed", str(found["failed"])),
        ("gain within reach on what is wrong raw, if the right one is always chosen", interval(found["reachable_gain"], "+")),
        ("gain that this run will reach", interval(found["predicted_gain"], "+")),
        ("gain that similar questions already teach (lower bound)", interval(found["learnable_gain"], "+")),
    ]
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    queries = {example.id: example.query for example in asked.examples}
    for episode in random.Random(0).sample(asked.instructed, min(10, len(asked.instructed))):
        mark = {None: "?", 0.0: "wrong", 1.0: "right"}.get(correct(episode), "partly")
        query, text = " ".join(queries[episode.example_id].split())[:100], " ".join(episode.instruction.text.split())[:160]
        console.print(f"  {mark:6} {query!r} -> {text!r}", markup=False, highlight=False, soft_wrap=True)
    console.print(found["verdict"], markup=False, highlight=False, soft_wrap=True)


def body(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m teacher.probe", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("config", nargs="?", help="a YAML file, or the name of a shipped one; none = the lab world")
    parser.add_argument("--samples", type=int, default=8, help="instructions a question (default 8)")
    parser.add_argument("--dry-run", action="store_true", help="print how many calls the probe would make, then stop")
    args, rest = parse_known(parser, argv)
    if args.samples < 2:
        raise SettingError(f"--samples={args.samples}: at least 2, or nothing can be compared")
    config = read_config(args.config, rest)
    if config.reward.kind in ("preference", "judge"):
        raise SettingError(
            f"reward.kind={config.reward.kind}: a probe counts right answers; a win over raw is no such count. Train with few steps and "
            "look at the second judge"
        )
    questions = size(config, args.samples)
    if args.dry_run:
        print(f"{questions} questions, {questions * calls_a_question(config, args.samples)} calls at most")
        return 0
    asking = Asking(config.model_copy(update={"validation": type(config.validation)()}))  # a probe asks the student that teaches
    asked = asking(lambda: ask(config, questions, args.samples, asking.panel.student, asking.panel.reward))
    found = report(config, asked, samples=args.samples)
    run = asking.directory
    write_json(run.path / "probe.json", found)
    run.append("episodes.jsonl", *({"step": 0, **episode.model_dump(mode="json")} for episode in asked.episodes))
    show(found, asked)
    print(f"probe: {run.path / 'probe.json'}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("teacher.probe", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
