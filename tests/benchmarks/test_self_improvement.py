"""What is written of a round, from a made-up report."""

from __future__ import annotations

from benchmarks.self_improvement import arms_of, headline, said, table

LOOKS = [{"units": 50, "low": None}, {"units": 100, "low": -0.1}, {"units": 200, "low": 0.05}, {"units": 300, "low": 0.1}]
VERSUS = {"difference": 0.3, "low": 0.1, "high": 0.5, "p_holm": 0.01, "verdict": "better"}


def report(number: int) -> dict[str, object]:
    arms = arms_of(number)
    control, *others = arms
    return {
        "control": control,
        "metrics": {"right": {"arms": {arm: {"n": 100, "mean": 0.5} for arm in arms}, "vs_control": dict.fromkeys(others, VERSUS)}},
        "paths": dict.fromkeys(others, LOOKS),
        "srm": {"p_value": 1.0},
        "verdict": "a sentence",
    }


def test_a_round_is_told_with_intervals_and_the_first_look_that_decided() -> None:
    rows = []
    for number in (0, 1, 2):
        found = said(report(number), arms_of(number))
        assert all(arm["low"] < 0.5 < arm["high"] for arm in found["arms"].values())
        assert {versus["interval_above_0_at_units"] for versus in found["vs_control"].values()} == {200}
        collected = {"kept": 40, "requests": 300} if number else {}
        teacher = ("first", "second", "third")[number]
        by_kind = {arm: {"left/first": [0, 9], "total/first": [5, 9]} for arm in arms_of(number)}
        rows.append(
            {
                "seed": 0,
                "round": number,
                "commit": "c",
                "trained": {"teacher": teacher},
                "collected": collected,
                **found,
                "by_kind": by_kind,
            }
        )
    assert headline(rows)["second_against_first"] == ["better"] and headline(rows)["rounds"] == 3
    text = table(rows)
    assert "| 0 | 1 | second | 100 | 50.0% (" in text and "40 of 300 requests" in text
    assert (text.count("left/first (0 of 18)."), text.count("left/first (0 of 27).")) == (1, 2), "of all who speak; raw says nothing"


def test_each_experiment_pits_a_teacher_against_its_predecessor() -> None:
    for number, control in enumerate(("raw", "first", "second")):
        assert next(iter(arms_of(number))) == control
        assert abs(sum(arms_of(number).values()) - 1) < 1e-9
