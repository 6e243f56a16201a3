"""`python -m teacher.probe [CONFIG.yaml] [--a.b=value ...]`: before spending, is there something to learn?

Asks the student a few questions raw and under instructions of the untrained teacher, at most a twentieth of what the run would ask, and
says how far instructions move the student, what a trained teacher could reach, and whether to train. Nothing is trained. Answers are
cached, so the run does not pay for them again where it asks the same.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from evaluation.headroom import Estimate, learnable, reachable
from evaluation.paired import wilson
from exchange.command import RunError, run_command
from exchange.protocols import Reward, StudentClient
from exchange.records import Episode, Example, Instruction
from exchange.settings import SettingError, parse_known
from rewards.episode import all_of, correct, run_episode
from rewards.format import well_formed
from rewards.rubric import Rubric, check_reward
from rewards.shape import leaks
from student_clients import sampling
from tasks import TASKS, answer_type_of
from teacher.arms import untrained_policy
from teacher.config import TrainConfig
from teacher.drafts import drafted
from teacher.evaluate import Asking
from teacher.run_directory import write_json
from teacher.train import dry_run, read_config

SHARE = 0.05
"""Of the run's calls at most."""
MOST_QUESTIONS = 96
FEWEST_QUESTIONS = 16
"""Fewer say nothing."""
WORTH = 0.02
"""Two points of gain: less is not worth a hop before the model."""


def calls_a_question(config: TrainConfig, samples: int) -> int:
    """Student calls of one question at most: the raw answer, one under each instruction, and those of the samples that vote."""
    answers, voting = 1 + samples, config.reward.consistency
    if config.reward.kind != "consistency":
        return answers
    return answers + voting.samples * (1 if voting.on == "raw" else answers)


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


async def ask(
    config: TrainConfig, questions: int, samples: int, student: StudentClient, reward: Rubric
) -> tuple[list[Example], list[Episode], list[Episode]]:
    """(questions, raw episodes, `samples` instructed episodes a question in order of the questions)."""
    examples = TASKS[config.task.name].load(config.task, "train", questions)
    check_reward(config.reward, examples)
    policy = untrained_policy(config, config.teacher.model)
    policy.temperature = float(config.trl.get("temperature", 1.0))
    params = sampling(config.student)
    if config.variant == "three_step":
        examples = await drafted(examples, student=student, params=params)
    raw = await _answers(examples, [Instruction(text="", source="silence")] * len(examples), "raw", student, params, reward)
    repeated = [example for example in examples for _ in range(samples)]
    instructions = await policy.instruct([example.public() for example in repeated])
    return examples, raw, await _answers(repeated, instructions, "probe", student, params, reward)


async def _answers(
    examples: Sequence[Example], instructions: Sequence[Instruction], arm: str, student: StudentClient, params: Any, reward: Reward
) -> list[Episode]:
    episodes = await all_of(
        run_episode(example, instruction, arm=arm, student=student, params=params, reward=reward)
        for example, instruction in zip(examples, instructions, strict=True)
    )
    if all(episode.error for episode in episodes):
        raise RunError(f"probe: every student call failed ({episodes[0].error})")
    return episodes


def report(
    examples: list[Example], raw: list[Episode], instructed: list[Episode], *, samples: int, calls: int, alpha: float
) -> dict[str, Any]:
    """The probe's figures. Questions whose raw answer could not be judged are left out and counted."""
    groups = [instructed[i * samples : (i + 1) * samples] for i in range(len(examples))]
    known = [
        (example, grade, group)
        for example, episode, group in zip(examples, raw, groups, strict=True)
        if (grade := correct(episode)) is not None
    ]
    if len(known) < 2:
        raise RunError("probe: fewer than two questions could be judged")
    before = [grade for _, grade, _ in known]
    grades = [[correct(episode) for episode in group] for _, _, group in known]
    scored = [[grade for grade in row if grade is not None] for row in grades]
    flat = [grade for row in scored for grade in row]
    texts = [[episode.instruction.text for episode in group] for _, _, group in known]
    hits, trials = [round(sum(row)) for row in scored], [len(row) for row in scored]
    best = statistics.fmean(max(row, default=0.0) for row in scored)
    mean = statistics.fmean(flat) if flat else 0.0
    low, high = wilson(sum(before), len(before), alpha)
    written = [(example, episode.instruction) for example, _, group in known for episode in group]
    total = len(written)
    could = reachable(before, hits, trials, alpha=alpha)
    sure = learnable([example.query for example, _, _ in known], before, texts, grades, alpha=alpha)
    answering = sum(bool(leaks(text, example, answer_type_of(example.task))) for example, text in written) / total
    return {
        "questions": len(known),
        "samples": samples,
        "calls": calls,
        "failed": sum(episode.error is not None for episode in (*raw, *instructed)),
        "raw": {"mean": statistics.fmean(before), "low": low, "high": high},
        "untrained": mean,
        "best_of_n": best,
        "headroom": best - mean,
        "sensitivity": statistics.fmean(len(set(row)) > 1 for row in scored),
        "silent": sum(not text.text for _, text in written) / total,
        "ill_formed": sum(not well_formed(text) for _, text in written) / total,
        "answering": answering,
        "predicted_gain": could.model_dump(),
        "learnable_gain": sure.model_dump(),
        "verdict": verdict(could, sure, answering),
    }


def verdict(could: Estimate, sure: Estimate, answering: float) -> str:
    """One sentence that begins with what to do."""
    if could.high < WORTH:
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


def show(found: dict[str, Any], examples: list[Example], instructed: list[Episode]) -> None:
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
        ("calls that failed", str(found["failed"])),
        ("gain within reach, if the right one is always chosen (upper bound)", interval(found["predicted_gain"], "+")),
        ("gain that similar questions already teach (lower bound)", interval(found["learnable_gain"], "+")),
    ]
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    queries = {example.id: example.query for example in examples}
    for episode in random.Random(0).sample(instructed, min(10, len(instructed))):
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
    examples, raw, instructed = asking(lambda: ask(config, questions, args.samples, asking.panel.student, asking.panel.reward))
    calls = len(examples) * calls_a_question(config, args.samples)
    found = report(examples, raw, instructed, samples=args.samples, calls=calls, alpha=config.eval.alpha)
    run = asking.directory
    write_json(run.path / "probe.json", found)
    run.append("episodes.jsonl", *({"step": 0, **episode.model_dump(mode="json")} for episode in (*raw, *instructed)))
    show(found, examples, instructed)
    print(f"probe: {run.path / 'probe.json'}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("teacher.probe", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
