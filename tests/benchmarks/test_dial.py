"""The dial's worlds and what is made of its rows."""

import numpy as np
import pytest

from benchmarks import dial_report
from benchmarks.dial import SEEDS, cells, pack, packed, recount
from benchmarks.dial_report import against, bits, fit, half_learnt, headline, of_kind, outcome, spread, surface, tally
from benchmarks.dial_worlds import CALIBRATION, CALIBRATION_MIXES, MIXES, WORLDS
from benchmarks.results_file import load_runs
from evaluation import headroom
from evaluation.headroom import HALF_LEARNT, HALF_LEARNT_BORROWING, Tried, outlook
from teacher.train import read_config


def test_there_are_thirty_worlds_of_four_dials_and_three_students_besides():
    assert len({world.name for world in WORLDS}) == len(WORLDS) >= 30
    assert {world.student for world in WORLDS if world.habit is None} == {"student", "student_b", "student_c"}
    for name in ("mix", "habit", "noise"):
        assert len({getattr(world, name) for world in WORLDS}) >= 3
    assert all(sum(mix.values()) == pytest.approx(1.0, abs=1e-3) for mix in (*MIXES.values(), *CALIBRATION_MIXES.values()))


def test_no_world_of_the_calibration_is_a_world_of_the_dial():
    assert not {world.mix for world in CALIBRATION} & {world.mix for world in WORLDS}
    order = cells()
    assert all(cell["kind"] == "calibration" for cell in order[: len(CALIBRATION)])
    trained = [(cell["world"], cell["seed"]) for cell in order if cell["kind"] == "trained"]
    assert len(set(trained)) == len(trained) == len(WORLDS) * len(SEEDS)
    assert len({world for world, _ in trained[: len(WORLDS)]}) == len(WORLDS), "each world once before any twice"


@pytest.mark.parametrize("world", [*WORLDS, *CALIBRATION], ids=lambda world: world.name)
def test_every_world_is_a_config(world):
    config = read_config(None, world.flags())
    assert config.task.families == {**MIXES, **CALIBRATION_MIXES}[world.mix]
    assert (config.task.header is None) == (world.habit is None) == (config.student.temperature == 0)


def test_ceilings_follow_from_the_dials():
    held = {world.name: world for world in WORLDS}
    assert held["full-h0n0"].ceiling == pytest.approx(0.64)
    assert held["one-h1n1"].ceiling == pytest.approx(0.7 * 0.85)
    assert held["full-h3n1"].ceiling == 0.0 and held["full-h3n1"].null and held["none-student"].null


def test_packed_answers_come_back():
    right = [False, False, True, False, True, True]
    assert bits(pack(right)).tolist() == [0, 0, 1, 0, 1, 1]


def row(world, seed, predicted, raw, trained, *, null=False, verdict="train: go"):
    gain = (sum(trained) - sum(raw)) / len(raw)
    arms = {
        name: {"right": [sum(of) / len(of)] * 3, "gain": [gain, gain - 0.1, gain + 0.1], "bits": pack(of), "tokens": 10.0}
        for name, of in (("raw", raw), ("trained", trained))
    }
    probe = {"predicted_gain": dict.fromkeys(("value", "low", "high"), predicted), "predicted_by_few": predicted, "verdict": verdict}
    cell = {"kind": "trained", "world": world, "seed": seed, "null": null, "ceiling": 0.5}
    return {**cell, "probe": probe, "forecast": predicted, "arms": arms, "requests": {}}


ROWS = [
    row("full-h0n0", 0, 0.5, [False] * 10, [True] * 6 + [False] * 4),
    row("full-h0n0", 1, 0.5, [False] * 10, [True] * 4 + [False] * 6),
    row("full-h3n0", 0, 0.0, [True, False] * 5, [True, False] * 5, null=True, verdict="do not train: nothing"),
]


def test_the_fit_is_about_the_prediction_itself_and_a_world_counts_once():
    rows = [*ROWS, row("full-h1n1", 0, 0.5, [False] * 10, [True] * 3 + [False] * 7)]
    came, told = np.array([0.5, 0.0, 0.3]), np.array([0.5, 0.0, 0.5])  # the first world's seeds together
    found = fit(rows)
    assert found["r2"] == pytest.approx(1 - ((came - told) ** 2).sum() / ((came - came.mean()) ** 2).sum(), abs=1e-3)
    assert found["median_error_points"] == pytest.approx(0.0) and found["bias_points"] == pytest.approx(100 * 0.2 / 3, abs=0.01)
    then = headline([{**run, "forecast": run["arms"]["trained"]["gain"][0] - 0.02} for run in rows])
    assert then["forecast_median_error_points"] == pytest.approx(2.0) and then["median_error_points"] == pytest.approx(0.0)
    assert headline(ROWS)["null_says_do_not_train"] == headline(ROWS)["null_interval_holds_0"] == 1


def test_the_constant_is_found_again_where_the_curve_holds():
    made = [row("most-student", seed, 0.0, [False] * 8, [True] * 4 + [False] * 4) for seed in range(2)]
    for run, solved, lessons in zip(made, (100.0, 300.0), (2.0, 5.0), strict=True):
        run["probe"] |= {"solved": solved, "lessons": lessons, "reachable_gain": {"value": 0.5 * (solved + 12.5 * lessons) / solved}}
    assert half_learnt(made) == 12.5


def test_the_constant_of_the_learning_curve_is_what_the_calibration_says_and_every_prediction_has_it() -> None:
    for run in (run for run in load_runs("dial") if "probe" in run):
        probe, known = run["probe"], HALF_LEARNT_BORROWING if run["kind"].endswith("borrowed") else HALF_LEARNT
        k, h = probe["solved"], probe["lessons"]
        learnt = k / (k + known * h) if k else 0.0
        assert probe["predicted_gain"]["value"] == pytest.approx(probe["reachable_gain"]["value"] * learnt, abs=0.015), "but for rounding"
    for kind, known in (("calibration", HALF_LEARNT), ("calibration_borrowed", HALF_LEARNT_BORROWING)):
        rows = of_kind(load_runs("dial"), kind)
        assert {row["world"] for row in rows} == {world.name for world in CALIBRATION}
        assert half_learnt(rows) == known


@pytest.mark.parametrize("greedy", [True, False])
def test_a_probe_is_counted_again_from_what_its_row_keeps(greedy, monkeypatch):
    monkeypatch.setattr(headroom, "RESAMPLES", 10)
    seen = [(0, None), (1, None), (2, None), (3, None)] if greedy else [(0, 0), (1, 1), (2, 1), (3, 3)]
    tried = [Tried(raw=0.0, trials=8, hits=k, repeated=twice, again=0, fresh=0 if greedy else 3, moved=k % 2, moves=3) for k, twice in seen]
    tried += [Tried(raw=1.0, repeated=None if greedy else 0)] * 5
    told = outlook(tried, [(400.0, 16)])
    old = {"calls": 7, "verdict": "train: of old", "answering": 0.0, "learnable_gain": {"value": 0.0, "low": 0.0, "high": 0.0}}
    found = recount({"kind": "trained", "world": "full-h0n0", "probe": {**old, "counts": packed(tried), "finds": [[400.0, 16]]}})
    assert found["few"] == 21 and found["predicted_by_few"] == pytest.approx(told.predicted.value)
    assert not found["verdict"].endswith("of old")
    borrowing = recount({"kind": "borrowed", "world": "full-h0n0", "probe": {**old, "counts": packed(tried), "finds": [[400.0, 16]]}})
    assert borrowing["predicted_gain"]["value"] > told.predicted.value, "more is learnt of each question"
    assert found["reachable_gain"] == told.reachable.model_dump() and found["predicted_gain"] == told.predicted.model_dump()
    assert (found["calls"], found["solved"], found["lessons"]) == (7, round(told.solved, 1), round(told.lessons, 1))


def test_differences_are_paired_by_question_and_seeds_of_a_question_stay_together():
    assert spread([np.array([1.0, 1.0]), np.array([0.0, 0.0])]) == (0.5, 0.5, 0.5)
    held = dial_report.beside(ROWS, "full-h0n0")
    difference = against(held, "raw")
    assert difference is not None and difference[0] == pytest.approx(0.5) and against(held, "router") is None
    assert [outcome(d) for d in ((0.1, 0.01, 0.2), (-0.1, -0.2, -0.01), (0.0, -0.04, 0.04), (0.0, -0.1, 0.1))] == [
        "wins", "loses", "ties", "open",
    ]  # fmt: skip


def test_what_is_not_measured_is_a_dash():
    assert surface(ROWS).splitlines()[2].startswith("| full-h0n0 | 2 | 0 | – | – | – | – | – | – | 50 | – | +50 | +50 (")
    assert "| raw | 2 | 1 |" in tally(ROWS)
