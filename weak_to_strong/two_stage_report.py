"""What a two-stage run says: its gains as the source defines them, and a table a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.paired import Comparison
from weak_to_strong.misfit_callback import before_and_after

WORDS = {
    "stage_one": "Stage I: stage one - full weak fine-tuning",
    "stage_two": "Stage II: stage two - stage one",
    "stage_one_over_weak": "stage one - the weak model",
    "stage_one_over_raw": "stage one - the untrained student",
    "stage_one_over_gold": "stage one - gold fine-tuning",
    "stage_two_over_gold": "stage two - gold fine-tuning",
    "last_round_over_first": "the last round - round 1",
}


def said(name: str, gain: Comparison) -> str:
    return f"{WORDS.get(name, name)}: {100 * gain.difference:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def gains_table(gains: Mapping[str, Comparison]) -> dict[str, Any]:
    rows = [
        [WORDS.get(name, name), f"{100 * g.difference:+.1f}", f"{100 * g.low:+.1f} to {100 * g.high:+.1f}", f"{g.p_value:.3g}", g.n]
        for name, g in gains.items()
    ]
    note = "Differences in accuracy on the same test questions, in points, with 95 % intervals of the paired difference."
    return {"title": "Gains", "note": note, "head": ["", "points", "95 %", "p", "questions"], "rows": rows}


def rounds_table(rounds: Sequence[Mapping[str, Any]], pairs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The curve of the rounds; accuracies by gold, which decided nothing."""
    rows: list[list[Any]] = []
    for line in rounds:
        right, kept = line.get("right", {}), line.get("kept_right", {})
        validated = {
            name: found["epochs"][-1]["right"]
            for name, found in line["tuned"].items()
            if found["epochs"] and "right" in found["epochs"][-1]
        }
        misfit = ", ".join(f"{name} {before_and_after(found)}" for name, found in line["tuned"].items())
        rows.append(
            [
                line["round"], f"{line['kept']} ({line['share']:.1%})", _percent(right.get("first")), _percent(right.get("second")),
                _percent(kept.get("weak")), _percent(kept.get("icl")), ", ".join(f"{k} {v:.1%}" for k, v in validated.items()), misfit,
            ]
        )  # fmt: skip
    note = "Shares right are by gold and for this table alone. Misfit: nats a token of the weak answers, before and after training."
    if pairs is not None:
        outcomes = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in pairs["outcomes"].items() if count)
        note += f" Stage II: {pairs['pairs']} pairs, the weak text chosen in {pairs['weak_chosen']}; questions by rule: {outcomes}."
        if "right" in pairs:
            note += f" Right among the chosen {pairs['right']['chosen']:.1%}, among the rejected {pairs['right']['rejected']:.1%}."
    head = [
        "round",
        "kept",
        "first source right",
        "second source right",
        "kept weak texts right",
        "kept icl texts right",
        "validation",
        "misfit",
    ]
    return {"title": "Rounds of Stage I", "note": note, "head": head, "rows": rows}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
