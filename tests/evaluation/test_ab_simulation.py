"""Whole tests looked at after every event, in small; `benchmarks/sequential.py` does it in large with the same code."""

import numpy as np
import pytest

from benchmarks.sequential import TESTS, Path, run_split, run_test, unit_widths
from evaluation.two_arms import contrast, one_value_each


@pytest.mark.parametrize("name", ["aa_rate_50", "aa_rate_5", "aa_exponential", "aa_uneven_log_normal_1", "effect_rate_70_74"])
def test_the_fast_path_sees_what_the_analysis_sees(name):
    """The benchmark computes all looks of a test at once; at chosen looks it must agree with the analysis of the log so far."""
    draw, binary, truth, _ = TESTS[name]
    rng = np.random.default_rng(21)
    treated = rng.random(3_000) < (0.1 if "uneven" in name else 0.5)
    values = draw(rng, treated)
    if name == "aa_rate_50":
        values[treated] = 1.0 - (rng.random(treated.sum()) < 0.05)  # a difference that the exact test finds early
    path = Path(treated, values, unit_widths(3_000, 4_000), binary=binary, truth=truth)
    for n in (2, 15, 30, 60, 120, 199, 260, 700, 1_500, 3_000):
        a, b = (one_value_each(values[:n][mine]) for mine in (~treated[:n], treated[:n]))
        found = contrast(a, b, binary=binary, alpha=0.05, planned_n=4_000)
        assert (found.method == "confidence sequence") == path.burnt_in[n - 1]
        assert (found.p_value <= 0.05) == path.claims[n - 1], n
        if found.method == "confidence sequence":
            assert (found.low <= truth <= found.high) != path.misses[n - 1]


@pytest.mark.parametrize("name", ["aa_rate_50", "aa_exponential"])
def test_few_a_a_tests_make_a_claim_at_any_look(name):
    found = run_test(name, seed=22, repeats=600)
    assert found["claims"]["rate"] <= 0.057  # 5 % and three standard errors of 10,000 runs
    assert found["coverage"]["rate"] >= 0.943


def test_an_effect_is_found_at_the_planned_number():
    found = run_test("effect_rate_50_55", seed=23, repeats=600)
    assert found["claims"]["rate"] > 0.75
    assert found["coverage"]["rate"] >= 0.94
    assert found["mean_units_at_stop"] < 0.75 * found["planned_n"]


def test_a_split_that_is_one_point_off_is_caught():
    assert run_split("split_51_49", seed=24, repeats=60)["alarm_at_end"]["rate"] >= 0.95
    assert run_split("split_50_50", seed=25, repeats=60)["alarm_at_any_look"]["rate"] <= 0.05
