"""The models of a two-stage run beside each other on test questions, and its gains. Here golds are read; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.paired import Comparison, compare
from exchange.records import Episode, Example, PublicExample
from tasks import has_gold
from weak_to_strong.agreement import Pool
from weak_to_strong.measuring import Asked, answers, grades, measured
from weak_to_strong.run import Run
from weak_to_strong.stage_one import demonstrated
from weak_to_strong.two_stage_config import TwoStageConfig
from weak_to_strong.two_stage_report import gains_table, rounds_table, said

ABOUT = {
    "stage_one": "learnt from what two sources agree on",
    "stage_one_weak": "the same questions, weak texts alone",
    "stage_one_icl": "the same questions, the student's own texts alone",
    "stage_one_hybrid": "the same questions, both texts",
    "stage_two": "stage one, then preferences",
    "full_weak": "fine-tuned on all weak answers",
    "gold": "fine-tuned on the worked solutions of the same questions",
}
GAINS = {
    "stage_one": ("stage_one", "full_weak"),
    "stage_two": ("stage_two", "stage_one"),
    "stage_one_over_weak": ("stage_one", "weak"),
    "stage_one_over_raw": ("stage_one", "raw"),
    "stage_one_over_gold": ("stage_one", "gold"),
    "stage_two_over_gold": ("stage_two", "gold"),
    "last_round_over_first": ("stage_one", "round_1"),
}
"""name -> (treated, control). The first two are the source's own gains."""


def measure(
    run: Run[TwoStageConfig], models: Mapping[str, Path], facts: dict[str, Any], *, answered: Sequence[PublicExample], weak: Pool
) -> dict[str, Any]:
    """Ask every model the test questions, write the report and summary.json; the summary. `answered` and `weak` give the demonstrations."""
    config = run.config
    facts = {**facts, "student_folder": str(models.get("stage_two", models["stage_one"])), "models": {k: str(v) for k, v in models.items()}}
    if not has_gold(config.task):
        run.say("no golds: the arms are not measured; compare the models by a preference of your own")
        return run.finish({**facts, "gains": None, "eval": None})
    examples = run.questions("test", config.eval.n)
    strong = config.strong.client()
    arms = {"raw": Asked("raw", strong, about="the untrained student")}
    if "icl" in config.arms:
        shown = _demonstrated(config, examples, answered, weak)
        arms["icl"] = Asked("raw", strong, about="the untrained student under weak demonstrations", examples=shown)
    arms["weak"] = Asked("weak", config.weak, config.weak_instruction, "who wrote the weak answers")
    for name, folder in models.items():
        arms[name] = Asked(name, config.strong.client(folder), about=ABOUT.get(name, ""))
    episodes = answers(run, arms, examples)
    last = "stage_two" if "stage_two" in models else "stage_one"
    arms["trained"] = replace(arms[last], about=f"the run's student: {last}, the same answers")
    episodes["trained"] = [episode.model_copy(update={"arm": "trained"}) for episode in episodes[last]]
    gains = _gains(episodes, config)
    _, summary = measured(
        run, arms, examples, title=f"{config.algorithm} on {config.task.name}", teacher=config.weak.model, episodes=episodes,
        more=[rounds_table(facts["rounds"], facts.get("pairs")), gains_table(gains)],
    )  # fmt: skip
    for name, gain in gains.items():
        run.say(said(name, gain))
    dumped = {name: gain.model_dump(mode="json") for name, gain in gains.items()}
    return run.finish({**facts, "gains": dumped, "eval": summary.model_dump(mode="json")})


def _demonstrated(config: TwoStageConfig, examples: list[Example], answered: Sequence[PublicExample], weak: Pool) -> list[Example]:
    """The test questions with weak answers to training questions before each."""
    public = [example.public() for example in examples]
    shown = demonstrated(public, answered, weak, count=config.stage_one.demonstrations, seed=config.seed)
    return [example.model_copy(update={"history": question.history}) for example, question in zip(examples, shown, strict=True)]


def _gains(episodes: Mapping[str, list[Episode]], config: TwoStageConfig) -> dict[str, Comparison]:
    """Paired on the test questions; a gain whose arms were not run is left out."""
    return {
        name: compare(
            grades(episodes[treated]), grades(episodes[control]), alpha=config.eval.alpha, margin=config.eval.margin, seed=config.seed
        )
        for name, (treated, control) in GAINS.items()
        if treated in episodes and control in episodes
    }
