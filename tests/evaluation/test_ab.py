"""The report of an A/B test: who counts where, what is invalid, and how many comparisons share one error level."""

import numpy as np
import pytest

from evaluation.ab import analyse, check_guardrail, find_control, planned_shares
from evaluation.ab_log import read_rows


def row(unit, arm, value, metric="resolved", time=0.0, **more):
    return {"unit": unit, "arm": arm, "metric": metric, "value": value, "time": time, **more}


def rows(rates, n=400, seed=0, metric="resolved", answered=None):
    """`n` units an arm, taking turns, with 0/1 outcomes at `rates`; an arm's outcomes are null for 1 - answered[arm] of its units."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        for arm, rate in rates.items():
            value = int(rng.random() < rate)
            if rng.random() >= (answered or {}).get(arm, 1.0):
                value = None
            made.append(row(f"{arm}-{i}", arm, value, metric, time=float(i)))
    return made


def only(report, metric="resolved", arm="teacher"):
    return report.metrics[metric].vs_control[arm]


def test_better_worse_and_undecided():
    found = analyse(read_rows(rows({"raw": 0.4, "teacher": 0.6, "bad": 0.2, "same": 0.4}, n=1_500)))
    verdicts = {arm: comparison.verdict for arm, comparison in found.metrics["resolved"].vs_control.items()}
    assert verdicts == {"bad": "worse", "same": "undecided", "teacher": "better"}
    assert list(found.metrics["resolved"].arms) == ["raw", "bad", "same", "teacher"]
    assert found.srm.ok


def test_lower_is_better_turns_the_verdict_and_nothing_else():
    log = read_rows(rows({"raw": 0.4, "teacher": 0.6}, n=1_000))
    up, down = only(analyse(log)), only(analyse(log, lower_is_better=["resolved"]))
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert (up.low, up.high, up.p_value) == (down.low, down.high, down.p_value)
    with pytest.raises(ValueError, match="'latency', a metric the log does not hold; it holds resolved"):
        analyse(log, lower_is_better=["latency"])


def test_holm_over_arms_and_metrics_decides():
    """A p-value between alpha / 2 and alpha convinces alone, but not beside a metric where nothing happens."""
    log = rows({"raw": 0.40, "teacher": 0.52}, n=400, seed=34)
    alone = only(analyse(read_rows(log)))
    assert 0.025 < alone.p_value <= 0.05 and alone.verdict == "better"
    beside = analyse(read_rows(log + rows({"raw": 0.5, "teacher": 0.5}, n=400, seed=3, metric="other")))
    assert only(beside).p_value == alone.p_value
    assert only(beside).p_holm == pytest.approx(2 * alone.p_value)
    assert only(beside).verdict == "undecided"
    assert only(beside).low > 0.0  # the interval stands for itself


def test_a_unit_counts_in_its_first_arm_with_all_that_follows():
    log = rows({"raw": 0.5, "teacher": 0.5}, n=200)
    log.append(row("raw-0", "teacher", 1, time=1e6))
    log.insert(0, row("teacher-1", "raw", 1, time=2e6))  # first in the file, last in time
    found = analyse(read_rows(log))
    assert found.moved_units == 2
    assert found.srm.units == {"raw": 200, "teacher": 200}
    assert {arm: summary.n for arm, summary in found.metrics["resolved"].arms.items()} == {"raw": 201, "teacher": 201}


def test_forced_lines_are_left_out_and_counted():
    log = rows({"raw": 0.5, "teacher": 0.5}, n=150)
    plain = analyse(read_rows(log))
    with_forced = analyse(read_rows([*log, *(row(f"qa-{i}", "teacher", 1, forced=True) for i in range(50))]))
    assert with_forced.forced_lines == 50
    assert with_forced.model_copy(update={"forced_lines": 0}) == plain


def test_a_broken_split_makes_everything_invalid():
    log = rows({"raw": 0.4, "teacher": 0.6}, n=1_000)
    assert only(analyse(read_rows(log))).verdict == "better"
    broken = analyse(read_rows([r for r in log if not (r["arm"] == "teacher" and int(r["unit"].split("-")[1]) % 4 == 0)]))
    assert not broken.srm.ok
    assert only(broken).verdict == "invalid"
    assert "planned shares" in only(broken).notes[0]
    planned = analyse(read_rows(log), weights={"raw": 0.9, "teacher": 0.1})
    assert not planned.srm.ok and planned.srm.planned == {"raw": 0.9, "teacher": 0.1}


def test_outcomes_that_one_arm_keeps_back_make_it_invalid():
    """An application that reports only good outcomes: the rate looks better because the bad ones are missing."""
    found = analyse(read_rows(rows({"raw": 0.5, "teacher": 0.7}, n=1_000, answered={"teacher": 0.7})))
    assert only(found).verdict == "invalid"
    assert only(found).missing_p_value < 0.001
    assert "missing for 29.9% of the arm" in only(found).notes[0] and "who answers depends on the arm" in only(found).notes[0]
    assert found.metrics["resolved"].arms["teacher"].exposed == 1_000
    assert found.metrics["resolved"].arms["teacher"].units < 750
    equal = analyse(read_rows(rows({"raw": 0.5, "teacher": 0.7}, n=1_000, answered={"raw": 0.7, "teacher": 0.7})))
    assert only(equal).verdict == "better"


def test_a_unit_with_no_line_of_a_metric_counts_as_missing_it():
    log = rows({"raw": 0.5, "teacher": 0.5}, n=600)
    votes = [row(r["unit"], r["arm"], 1, "vote", time=9e6) for r in log if r["arm"] == "raw" or r["unit"].endswith("0")]
    found = analyse(read_rows(log + votes))
    assert only(found, "vote").verdict == "invalid"
    assert only(found).verdict == "undecided"


def test_an_arm_without_outcomes_is_invalid():
    log = [r if r["arm"] == "raw" else {**r, "value": None} for r in rows({"raw": 0.5, "teacher": 0.5}, n=300)]
    found = analyse(read_rows(log))
    assert only(found).verdict == "invalid"
    assert (only(found).difference, only(found).low, only(found).p_value) == (None, None, 1.0)
    assert found.metrics["resolved"].arms["teacher"].mean is None
    nothing = analyse(read_rows([{**r, "value": None} for r in log]))
    assert only(nothing).verdict == "invalid"


def test_one_unit_cannot_decide_a_test():
    log = rows({"raw": 0.5, "teacher": 0.5}, n=300, seed=5)
    flood = [row("teacher-0", "teacher", 1, time=1e6 + i) for i in range(100_000)]
    found = analyse(read_rows(log + flood))
    before = analyse(read_rows(log))
    arm = found.metrics["resolved"].arms["teacher"]
    assert (arm.n, arm.units, arm.capped_units) == (100_300, 300, 1)
    assert abs(arm.mean - before.metrics["resolved"].arms["teacher"].mean) < 0.02  # at most 10 of 310 outcomes
    assert only(found).verdict == "undecided"


def test_a_mean_is_that_of_the_values_where_no_unit_is_capped():
    log = [row("a", "raw", 1), row("a", "raw", 0), row("a", "raw", 0), row("b", "raw", 1), row("c", "teacher", 0.5), row("d", "teacher", 2)]
    found = analyse(read_rows(log))
    arms = found.metrics["resolved"].arms
    assert (arms["raw"].n, arms["raw"].units, arms["raw"].mean) == (4, 2, pytest.approx(0.5))
    assert (arms["teacher"].n, arms["teacher"].units, arms["teacher"].mean) == (2, 2, pytest.approx(1.25))


def test_the_order_of_the_lines_does_not_matter():
    log = [
        {**r, "time": i + 0.0, "covariate": (7 * i) % 11} for i, r in enumerate(rows({"raw": 0.4, "teacher": 0.6, "b": 0.5}, n=120, seed=1))
    ]
    shuffled = [log[i] for i in np.random.default_rng(0).permutation(len(log))]
    assert analyse(read_rows(shuffled)) == analyse(read_rows(log))


def test_the_control_is_named_or_control_or_raw():
    assert find_control(["a", "raw", "control"]) == "control"
    assert find_control(["a", "raw"]) == "raw"
    assert find_control(["a", "raw"], "a") == "a"
    with pytest.raises(ValueError, match="'b': no such arm; known: a, raw"):
        find_control(["a", "raw"], "b")
    with pytest.raises(ValueError, match="no arm is called control or raw"):
        find_control(["a", "b"])


def test_planned_shares_must_fit_the_arms():
    assert planned_shares(["b", "a"], None) == {"a": 0.5, "b": 0.5}
    assert planned_shares(["a", "b", "c"], {"a": 0.333, "b": 0.333, "c": 0.333}) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    for weights, message in (
        ({"a": 0.5, "b": 0.6}, "sum to 1.1"),
        ({"a": 0.5, "c": 0.5}, "name 'c', an arm the log does not hold"),
        ({"a": 1.0}, "leave out 'b'"),
    ):
        with pytest.raises(ValueError, match=message):
            planned_shares(["a", "b"], weights)


def test_one_arm_is_no_test():
    with pytest.raises(ValueError, match="one arm only, 'raw'"):
        analyse(read_rows([row("u", "raw", 1)]))


def test_an_arm_that_is_declared_but_never_seen():
    log = read_rows(rows({"raw": 0.5}, n=2_000), arms=["raw", "teacher"])
    found = analyse(log)
    assert only(found).verdict == "invalid"
    assert found.srm.units == {"raw": 2_000, "teacher": 0} and not found.srm.ok


def test_a_guardrail_of_a_log():
    log = read_rows(rows({"raw": 0.02, "teacher": 0.30}, n=500, metric="error"))
    assert check_guardrail(log, "error", "teacher", control="raw", margin=0.05).breached
    assert not check_guardrail(log, "error", "raw", control="teacher", margin=0.05).breached
    assert not check_guardrail(log, "cost", "teacher", control="raw", margin=0.05).breached
    assert not check_guardrail(log, "error", "gone", control="raw", margin=0.05).breached
