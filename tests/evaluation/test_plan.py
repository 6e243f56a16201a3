"""The planner against hand-worked numbers, a simulated Brownian motion, and what a user can get wrong."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.plan import main
from evaluation.planning import crossing, needed_drift, plan, unit_variance
from evaluation.sequences import half_width, tuning

HALVES = {"raw": 0.5, "teacher": 0.5}


def planned(capsys, *flags):
    assert main([*flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("drift", [0.0, 2.5, 4.0])
def test_crossing_agrees_with_simulated_tests(drift):
    """6,000 tests of 1,000 unit-variance values, looked at after each."""
    rng, n = np.random.default_rng(11), 1_000
    widths = np.array([half_width(1.0, i, alpha=0.05, rho=tuning(0.05, n)) for i in range(1, n + 1)])
    means = np.cumsum(rng.normal(drift / math.sqrt(n), 1.0, size=(6_000, n)), axis=1) / np.arange(1, n + 1)
    outside = np.abs(means) > widths
    crossed = outside.any(axis=1)
    ended = np.where(crossed, (outside.argmax(axis=1) + 1) / n, 1.0)
    chance, mean_end = crossing(drift, 0.05, 0.05)
    assert chance == pytest.approx(crossed.mean(), abs=0.02)
    assert mean_end == pytest.approx(ended.mean(), abs=0.015)


def test_the_needed_drift_gives_the_power():
    for power in (0.5, 0.8, 0.95):
        assert crossing(round(needed_drift(power, 0.05, 0.05), 6), 0.05, 0.05)[0] == pytest.approx(power, abs=1e-3)


def test_a_plan_by_hand(capsys):
    found = planned(capsys, "--baseline", "0.5", "--effect", "0.05")
    # Read once: 2 (0.25 + 0.2475) ((1.959964 + 0.841621) / 0.05)^2 = 3124
    assert found["fixed_units"] == 3_124
    drift = needed_drift(0.8, 0.05, 0.05)
    assert found["planned_n"] == pytest.approx(0.995 * (drift / 0.05) ** 2, abs=1)
    assert 1.5 < found["planned_n"] / found["fixed_units"] < 1.8
    assert found["power"] == pytest.approx(0.8, abs=1e-3)
    assert found["expected_units"] < found["planned_n"]
    assert found["units"] == {"raw": math.ceil(found["planned_n"] / 2), "teacher": math.ceil(found["planned_n"] / 2)}
    assert found["days"] is None


def test_what_raises_and_lowers_the_number(capsys):
    base = ("--sd", "1", "--effect", "0.1")
    n = planned(capsys, *base)["planned_n"]
    assert planned(capsys, *base, "--power", "0.9")["planned_n"] > n
    assert planned(capsys, *base, "--alpha", "0.01")["planned_n"] > n
    assert planned(capsys, *base, "--metrics", "3")["alpha_each"] == pytest.approx(0.05 / 3)
    assert planned(capsys, "--sd", "1", "--effect", "-0.1")["planned_n"] == n
    assert planned(capsys, "--sd", "2", "--effect", "0.1")["planned_n"] == pytest.approx(4 * n, abs=4)
    # CUPED at r = 0.6 leaves 64 % of the variance; 4 events with icc 0.5 are worth 4 / (1 + 3 * 0.5) = 1.6 units.
    assert planned(capsys, *base, "--covariate-correlation", "0.6")["planned_n"] == pytest.approx(0.64 * n, abs=1)
    assert planned(capsys, *base, "--events-per-unit", "4", "--icc", "0.5")["planned_n"] == pytest.approx(n / 1.6, abs=1)
    assert unit_variance(2.0, events_per_unit=4, icc=1.0) == 2.0


def test_uneven_and_several_arms(capsys):
    base = ("--sd", "1", "--effect", "0.1")
    even, uneven = planned(capsys, *base), planned(capsys, *base, "--arms", "raw=0.9,teacher=0.1")
    # s^2 is 1/0.9 + 1/0.1 = 11.1 in place of 4.
    assert uneven["planned_n"] == pytest.approx(even["planned_n"] * (1 / 0.9 + 10) / 4, rel=1e-3)
    three = planned(capsys, *base, "--arms", "raw=0.5,a=0.3,b=0.2")
    assert three["alpha_each"] == 0.025
    assert three["units"]["raw"] == pytest.approx(three["planned_n"] * 0.5 / 0.7, abs=1)
    assert three["total_units"] == sum(three["units"].values())


def test_days(capsys):
    found = planned(capsys, "--baseline", "0.5", "--effect", "0.05", "--daily-units", "300")
    assert found["days"] == math.ceil(found["total_units"] / 300)


def test_rare_outcomes_wait_for_the_burn_in():
    found = plan(0.5, control_variance=0.0099, arm_variance=0.2499, weights=HALVES, control="raw", rates=(0.01, 0.51))
    assert found.planned_n == 2_000  # 10 successes at 1 % take 1,000 units an arm
    assert found.power > 0.999 and found.expected_units == 2_000


def test_the_planned_number_gives_the_power_it_promises():
    """1,500 whole tests at the plan, read by the sequence after every unit past the burn-in."""
    made = plan(0.3, control_variance=1.0, arm_variance=1.0, weights=HALVES, control="raw")
    rng, n = np.random.default_rng(12), made.planned_n
    rho = tuning(0.05, n)
    widths = np.array([half_width(1.0, i, alpha=0.05, rho=rho) for i in range(1, n + 1)])
    found = 0
    for _ in range(1_500):
        treated = np.arange(n) % 2
        values = rng.normal(0.3 * treated, 1.0)
        counts = [np.cumsum(treated == arm) for arm in (0, 1)]
        sums = [np.cumsum(np.where(treated == arm, values, 0.0)) for arm in (0, 1)]
        difference = sums[1][200:] / counts[1][200:] - sums[0][200:] / counts[0][200:]
        found += bool((np.abs(difference) > 2.0 * widths[200:]).any())
    assert stats.binomtest(found, 1_500, 0.8).pvalue > 0.001


def test_the_words(capsys):
    assert main(["--baseline", "0.5", "--effect", "0.05", "--daily-units", "300"]) == 0
    out = capsys.readouterr().out
    for words in ("in all", "looking as often as you like", "on average", "read once", "run whole weeks: 21", "--planned-n 5"):
        assert words in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--effect", "0.1"), "exactly one of --baseline (a 0/1 metric) and --sd"),
        (("--baseline", "0.5", "--sd", "1", "--effect", "0.1"), "exactly one of"),
        (("--baseline", "0.5"), "required: --effect"),
        (("--baseline", "0.5", "--effect", "0"), "no number of units shows a difference of 0"),
        (("--baseline", "0.5", "--effect", "0.5"), "which is no rate"),
        (("--baseline", "1.5", "--effect", "0.1"), "--baseline=1.5: must be a finite number above 0 and below 1"),
        (("--sd", "1", "--effect", "1e-300"), "more than 1e+15 units"),
        (("--sd", "1", "--effect", "1e308"), "--effect=1e308"),
        (("--sd", "1", "--effect", "inf"), "--effect=inf"),
        (("--sd", "0", "--effect", "1"), "--sd=0"),
        (("--sd", "1", "--effect", "1", "--arms", "raw=0.5,teacher=0.4"), "weights sum to 0.9"),
        (("--sd", "1", "--effect", "1", "--arms", "a=0.5,b=0.5"), "no arm is called control or raw"),
        (("--sd", "1", "--effect", "1", "--control", "x"), "control 'x': no such arm; known: raw, teacher"),
        (("--sd", "1", "--effect", "1", "--icc", "1.1"), "--icc=1.1"),
        (("--sd", "1", "--effect", "1", "--power", "1"), "--power=1"),
        (("--sd", "1", "--effect", "1", "--daily-units", "0"), "--daily-units=0"),
    ],
)
def test_what_cannot_be_planned(capsys, flags, message):
    assert main(list(flags)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1


def test_an_enormous_effect_is_planned_at_the_burn_in(capsys):
    assert planned(capsys, "--sd", "1", "--effect", "1e15")["planned_n"] == 200
