"""Assignment: the same answer everywhere and always, uniform, and independent between experiments."""

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation.assignment import Allocation, assign, position
from tests.requirements import ROOT

HALVES = {"raw": 0.5, "teacher": 0.5}
FROZEN = "raw teacher raw raw raw raw short teacher teacher raw short raw".split()
UNITS = [f"user-{i}" for i in range(20_000)]


def arms(allocation):
    return [assign(allocation, unit).arm for unit in UNITS]


def test_a_position_is_the_first_bits_of_sha256():
    data = b"".join(len(name).to_bytes(8, "big") + name for name in (b"salt", b"arm", "größer".encode()))
    bits = int(hashlib.sha256(data).hexdigest()[:16], 16)
    assert position("salt", "arm", "größer") == pytest.approx(bits / 2**64, abs=1e-15)


def test_assignments_never_change():
    """Frozen: a change here would move the users of every running experiment."""
    allocation = Allocation(experiment="summaries", weights={"raw": 0.5, "short": 0.2, "teacher": 0.3}, salt="s")
    assert [assign(allocation, f"user-{i}").arm for i in range(12)] == FROZEN


@pytest.mark.parametrize("weights", [HALVES, {"raw": 0.7, "a": 0.2, "b": 0.1}])
def test_arms_hold_their_shares(weights):
    found = arms(Allocation(experiment="e", weights=weights))
    counts = [found.count(arm) for arm in weights]
    assert stats.chisquare(counts, [len(UNITS) * w for w in weights.values()]).pvalue > 0.001


def test_two_experiments_are_independent():
    first, second = (np.array(arms(Allocation(experiment=name, weights=HALVES))) == "teacher" for name in ("one", "two"))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03  # 4 standard errors at 20,000


def test_a_ramp_adds_units_and_moves_none():
    stages = [arms(Allocation(experiment="e", weights=HALVES, enrolled=share)) for share in (0.0, 0.05, 0.3, 1.0)]
    assert set(stages[0]) == {None}
    assert None not in stages[-1]
    for before, after in itertools.pairwise(stages):
        assert all(was is None or was == now for was, now in zip(before, after, strict=True))
    held = [arm for arm in stages[2] if arm is not None]
    assert stats.binomtest(len(held), len(UNITS), 0.3).pvalue > 0.001
    assert stats.binomtest(held.count("teacher"), len(held), 0.5).pvalue > 0.001


def test_slices_of_a_layer_share_no_unit():
    low = arms(Allocation(experiment="a", weights=HALVES, layer="prompts", layer_slice=(0.0, 0.4)))
    high = arms(Allocation(experiment="b", weights=HALVES, layer="prompts", layer_slice=(0.4, 1.0)))
    assert all((a is None) != (b is None) for a, b in zip(low, high, strict=True))
    assert stats.binomtest(sum(a is not None for a in low), len(UNITS), 0.4).pvalue > 0.001


def test_another_process_and_another_order_of_arms_agree():
    code = (
        "from evaluation.assignment import *\n"
        "a = Allocation(experiment='e', weights={'teacher': 0.5, 'raw': 0.5}, enrolled=0.5)\n"
        "print(*(assign(a, f'user-{i}').arm for i in range(2000)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    here = Allocation(experiment="e", weights=HALVES, enrolled=0.5)
    assert done.stdout.split() == [str(assign(here, f"user-{i}").arm) for i in range(2_000)]


def test_a_forced_arm_is_marked_and_must_exist():
    allocation = Allocation(experiment="e", weights=HALVES, enrolled=0.0)
    assert assign(allocation, "me", forced="raw").model_dump() == {"arm": "raw", "forced": True}
    with pytest.raises(ValueError, match="'raww': no such arm; known: raw, teacher"):
        assign(allocation, "me", forced="raww")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"raw": 0.5, "teacher": 0.6}, "sum to 1.1"),
        ({"raw": 1.0}, "at least two"),
        ({"raw": 1.0, "teacher": 0.0}, "above 0"),
        ({"raw": 1.5, "teacher": -0.5}, "above 0"),
        ({"raw": float("nan"), "teacher": 0.5}, "above 0"),
    ],
)
def test_weights_that_cannot_be(weights, message):
    with pytest.raises(ValueError, match=message):
        Allocation(experiment="e", weights=weights)


def test_a_slice_that_cannot_be():
    with pytest.raises(ValueError, match="layer_slice"):
        Allocation(experiment="e", weights=HALVES, layer="l", layer_slice=(0.6, 0.4))


@given(st.text(), st.text(), st.text(), st.text())
def test_names_that_only_join_alike_are_told_apart(a, b, c, d):
    assert 0.0 <= position(a, b) < 1.0
    assert (position(a, b) == position(c, d)) == ((a, b) == (c, d))
