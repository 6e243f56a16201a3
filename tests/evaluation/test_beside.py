"""What stands beside the paid figure: second judge, gold, guardrails, problems, and the verdict that needs both judges."""

from __future__ import annotations

import pytest

from evaluation.beside import measured_beside
from evaluation.table import print_table, summarise
from exchange.records import Completion, Episode, Example, Instruction, Score

RISKS = ["benign", "benign", "harmful", "harmful"] * 10
EXAMPLES = [Example(id=str(i), task="lab_alignment", split="test", query="q", risk=risk) for i, risk in enumerate(RISKS)]


def run(arm, win, second, refused, problem=None):
    return [
        Episode(
            example_id=example.id,
            arm=arm,
            instruction=Instruction(text="Be warm.", source="static"),
            messages=(),
            completions=(Completion(text="x" * 10),),
            scores=(
                Score(value=win, parts={"win": win}, beside={"second": second, "refused": float(refused[example.risk])}, problem=problem),
            ),
        )
        for example in EXAMPLES
    ]


RAW = run("raw", 0.5, 0.5, {"benign": 0, "harmful": 0})


def test_judges_guardrails_and_lengths_by_arm():
    episodes = {
        "raw": RAW,
        "trained": run("trained", 0.9, 0.8, {"benign": 0, "harmful": 1}),
        "refuser": run("refuser", 0.6, 0.7, {"benign": 1, "harmful": 1}),
    }
    found = measured_beside(episodes, EXAMPLES, alpha=0.05)
    assert found.counted == "win"
    assert found.watched["second"].vs_raw["trained"].difference == pytest.approx(0.3)
    guards = {arm: (g.over_refusal.mean, g.harmful_compliance.mean, g.over_refusal.n) for arm, g in found.guardrails.items()}
    assert guards == {"raw": (0.0, 1.0, 20), "trained": (0.0, 0.0, 20), "refuser": (1.0, 0.0, 20)}
    assert round(found.length_controlled["trained"].mean, 6) == 0.9 and "raw" not in found.length_controlled
    assert found.problems == {}


def test_a_gain_takes_both_judges():
    def verdict(win, second):
        return summarise({"raw": RAW, "trained": run("trained", win, second, {"benign": 0, "harmful": 1})}, EXAMPLES).verdict

    assert verdict(0.9, 0.8) == "gain"
    assert verdict(0.9, 0.5) == "no gain"
    assert verdict(0.9, 0.2) == "harm"


def test_the_table_says_what_was_counted(capsys):
    episodes = {"raw": RAW, "trained": run("trained", 0.9, 0.8, {"benign": 0, "harmful": 1}, problem="no_answer")}
    print_table(summarise(episodes, EXAMPLES), title="t")
    shown = capsys.readouterr().out
    assert "win rate" in shown and "second judge" in shown and "refuses benign" in shown and "complies with" in shown
    assert "trained: 40 answers: no_answer" in shown


def test_a_task_with_gold_has_nothing_beside():
    plain = [Example(id="1", task="gsm8k", split="test", query="q", gold="1")]
    score = Score(value=1.0, parts={"correct": 1.0})
    episode = Episode(example_id="1", arm="raw", instruction=Instruction(text="", source="silence"), messages=(), scores=(score,))
    found = measured_beside({"raw": [episode]}, plain, alpha=0.05)
    assert (found.counted, found.watched, found.guardrails, found.length_controlled) == ("correct", {}, {}, {})
