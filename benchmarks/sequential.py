"""Whether the A/B statistics keep their word: `python -m benchmarks.sequential [--only PART]`, about three minutes on one thread.

Seeded simulations of whole tests that are looked at after every event, with the code that `evaluation.analyze` runs:

- A/A tests: how often any look makes a claim (false positives), over twice the planned number of units;
- tests with an effect, at the number of units that `evaluation.plan` gives: how often it is found (power), how often the interval holds the
  truth at every look (coverage);
- units with several events, and CUPED, both with a look every 200 units;
- splits of 50/50 and 51/49 over 100,000 units under the sequential sample-ratio check;
- the assignment of a million units: uniform, independent between experiments, the same in another process and at every stage of a ramp.

Writes `benchmarks/results/sequential.json`. Resumable: a part that stands there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.results_file import load_runs, save
from evaluation.assignment import Allocation, assign, position
from evaluation.paired import wilson
from evaluation.planning import plan
from evaluation.safe_test import SafeTest
from evaluation.sample_ratio import SRM_ALPHA, sample_ratio_p_values
from evaluation.sequences import BURN_IN_EACH_WAY, BURN_IN_SKEWNESS, BURN_IN_UNITS, half_width, tuning
from evaluation.two_arms import EARLY_SHARE, Sample, contrast
from teacher.run_directory import git_commit

NAME = "sequential"
ALPHA = 0.05
AA_PLANNED, AA_UNITS = 4_000, 8_000
SPLIT_UNITS = 100_000
UNITS = 1_000_000
UNEVEN = 0.1
"""Share of the treated arm where a part's name says uneven: a new teacher at small weight."""

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, NDArray[np.bool_]], Floats]


class Path:
    """One test seen at every event: claims and misses at each look, before the burn-in by the e-value, past it by the sequence."""

    def __init__(self, treated: NDArray[np.bool_], values: Floats, widths: Floats, *, binary: bool, truth: float) -> None:
        count, total, square, cube = [], [], [], []
        for mine in (~treated, treated):
            count.append(np.cumsum(mine).astype(float))
            total.append(np.cumsum(np.where(mine, values, 0.0)))
            square.append(np.cumsum(np.where(mine, values**2, 0.0)))
            cube.append(np.cumsum(np.where(mine, values**3, 0.0)) if not binary else square[-1])
        with np.errstate(divide="ignore", invalid="ignore"):
            self.difference = total[1] / count[1] - total[0] / count[0]
            variances = [(q - s * s / n) / (n - 1.0) / n for n, s, q in zip(count, total, square, strict=True)]
            half = np.sqrt((count[0] + count[1]) * (variances[0] + variances[1])) * widths
        self.burnt_in = np.minimum(*count) >= BURN_IN_UNITS
        if binary:
            for n, s in zip(count, total, strict=True):
                self.burnt_in &= np.minimum(s, n - s) >= BURN_IN_EACH_WAY
        else:
            self.burnt_in &= np.abs(null_skewness_path(count, total, square, cube)) <= BURN_IN_SKEWNESS
        self.claims = self.burnt_in & (np.abs(self.difference) >= half)
        self.misses = self.burnt_in & (np.abs(self.difference - truth) > half)
        if binary:
            first = int(np.argmax(self.burnt_in)) if self.burnt_in.any() else len(values)
            early, mine = values[:first], treated[:first]
            test = SafeTest(early[~mine], early[mine])
            limit = math.log(1.0 / (ALPHA * EARLY_SHARE))
            # The blocks complete at each look; no block, no e-value.
            done = np.minimum(count[0], count[1])[:first].astype(int)
            for marks, against in ((self.claims, 0.0), (self.misses, truth)):
                scores = np.concatenate([[0.0], test.log_e_values(against)])
                marks[:first] |= scores[done] >= limit


def null_skewness_path(count: list[Floats], total: list[Floats], square: list[Floats], cube: list[Floats]) -> Floats:
    """`null_skewness` at every look, from running sums."""
    a, b = count
    with np.errstate(divide="ignore", invalid="ignore"):
        second = sum(q - s * s / n for n, s, q in zip(count, total, square, strict=True)) / (a + b)
        third = sum(c - 3.0 * q * s / n + 2.0 * s**3 / n**2 for n, s, q, c in zip(count, total, square, cube, strict=True)) / (a + b)
        return np.asarray(third / second**1.5 * (a - b) / np.sqrt(a * b * (a + b)))


def unit_widths(n: int, planned_n: float) -> Floats:
    """(n,) half width of the sequence at s = 1 after 1, 2, … n units."""
    rho = tuning(ALPHA, planned_n)
    return np.array([half_width(1.0, i, alpha=ALPHA, rho=rho) for i in range(1, n + 1)])


def rates(control: float, treated: float) -> Draw:
    return lambda rng, mine: (rng.random(len(mine)) < np.where(mine, treated, control)).astype(float)


def exponential(control: float, treated: float) -> Draw:
    """Skewed real values, such as latencies or costs."""
    return lambda rng, mine: rng.exponential(np.where(mine, treated, control))


def log_normal(sigma: float) -> Draw:
    """Values with a heavy tail, the same in both arms."""
    return lambda rng, mine: rng.lognormal(0.0, sigma, len(mine))


# name -> (draw, binary, effect, units); None = as many as the plan says
TESTS: dict[str, tuple[Draw, bool, float, int | None]] = {
    "aa_rate_50": (rates(0.5, 0.5), True, 0.0, AA_UNITS),
    "aa_rate_90": (rates(0.9, 0.9), True, 0.0, AA_UNITS),
    "aa_rate_5": (rates(0.05, 0.05), True, 0.0, AA_UNITS),
    "aa_rate_1": (rates(0.01, 0.01), True, 0.0, AA_UNITS),
    "aa_exponential": (exponential(1.0, 1.0), False, 0.0, AA_UNITS),
    "aa_uneven_rate_5": (rates(0.05, 0.05), True, 0.0, AA_UNITS),
    "aa_uneven_log_normal_1": (log_normal(1.0), False, 0.0, AA_UNITS),
    "aa_uneven_log_normal_2": (log_normal(2.0), False, 0.0, AA_UNITS),
    "effect_rate_50_55": (rates(0.5, 0.55), True, 0.05, None),
    "effect_rate_70_74": (rates(0.7, 0.74), True, 0.04, None),
    "effect_rate_5_7": (rates(0.05, 0.07), True, 0.02, None),
    "effect_exponential": (exponential(1.0, 1.1), False, 0.1, None),
}
PLANS = {
    "effect_rate_50_55": (0.25, 0.2475, (0.5, 0.55)),
    "effect_rate_70_74": (0.21, 0.1924, (0.7, 0.74)),
    "effect_rate_5_7": (0.0475, 0.0651, (0.05, 0.07)),
    "effect_exponential": (1.0, 1.21, None),
}


def share(successes: int, n: int) -> dict[str, float]:
    low, high = wilson(successes, n)
    return {"rate": round(successes / n, 5), "low": round(low, 5), "high": round(high, 5)}


def run_test(name: str, seed: int, repeats: int) -> dict[str, Any]:
    """`repeats` tests with a look at every event."""
    draw, binary, truth, units = TESTS[name]
    planned = AA_PLANNED
    if units is None:
        a, b, both = PLANS[name]
        made = plan(truth, control_variance=a, arm_variance=b, weights={"raw": 0.5, "teacher": 0.5}, control="raw", rates=both)
        units = planned = made.planned_n
    widths, rng = unit_widths(units, planned), np.random.default_rng(seed)
    treated_share = UNEVEN if "uneven" in name else 0.5
    claimed = held = early = 0
    stops = []
    for _ in range(repeats):
        treated = rng.random(units) < treated_share
        path = Path(treated, draw(rng, treated), widths, binary=binary, truth=truth)
        claimed += bool(path.claims.any())
        early += bool((path.claims & ~path.burnt_in).any())
        held += not path.misses.any()
        stops.append(int(np.argmax(path.claims)) + 1 if path.claims.any() else units)
    found = {"units": units, "planned_n": planned, "claims": share(claimed, repeats), "coverage": share(held, repeats)}
    return {**found, "claims_before_burn_in": share(early, repeats), "mean_units_at_stop": round(float(np.mean(stops)), 1)}


def samples_at(treated: NDArray[np.bool_], n: int, total: Floats, count: Floats, covariate: Floats) -> list[Sample]:
    """(control, arm) after the first n units."""
    found = []
    for mine in (~treated[:n], treated[:n]):
        where = np.flatnonzero(mine)
        hit, missed = total[where] > 0.0, total[where] < count[where]
        found.append(Sample(total[where], count[where], covariate[where], hit, missed))
    return found


def run_prefixes(name: str, seed: int, repeats: int) -> dict[str, Any]:
    """A/A tests read by `contrast` every 200 units: users with several correlated 0/1 events, or CUPED with a covariate of r = 0.7."""
    rng, units = np.random.default_rng(seed), 4_000
    claimed = 0
    widths = []
    for _ in range(repeats):
        treated = rng.random(units) < 0.5
        count, covariate = np.ones(units), np.full(units, math.nan)
        if name == "aa_clusters":
            count = rng.geometric(0.25, units).astype(float)
            total = rng.binomial(count.astype(int), rng.beta(1.0, 1.0, units)).astype(float)
        else:
            covariate = rng.normal(size=units)
            total = 0.7 * covariate + math.sqrt(0.51) * rng.normal(size=units)
        looks = [
            contrast(*samples_at(treated, n, total, count, covariate), binary=name == "aa_clusters", alpha=ALPHA, planned_n=AA_PLANNED)
            for n in range(200, units + 1, 200)
        ]
        claimed += any(look.p_value <= ALPHA for look in looks)
        last = looks[-1]
        assert last.low is not None and last.high is not None
        widths.append(last.high - last.low)
    return {"units": units, "planned_n": AA_PLANNED, "claims": share(claimed, repeats), "mean_width": round(float(np.mean(widths)), 5)}


def run_split(name: str, seed: int, repeats: int) -> dict[str, Any]:
    """How often the sequential check finds the split broken by 100,000 units."""
    treated_share = {"split_50_50": 0.5, "split_51_49": 0.51}[name]
    rng = np.random.default_rng(seed)
    at_end = at_any_look = 0
    for _ in range(repeats):
        arms = (rng.random(SPLIT_UNITS) < treated_share).astype(np.int64)
        now, lowest = sample_ratio_p_values(arms, [0.5, 0.5])
        at_end += now <= SRM_ALPHA
        at_any_look += lowest <= SRM_ALPHA
    return {
        "units": SPLIT_UNITS,
        "alpha": SRM_ALPHA,
        "alarm_at_end": share(at_end, repeats),
        "alarm_at_any_look": share(at_any_look, repeats),
    }


def run_assignment(name: str, seed: int, repeats: int) -> dict[str, Any]:
    """A million units: chi-square of arms and of positions, correlation between experiments, stickiness."""
    units = [f"user-{seed}-{i}" for i in range(UNITS)]
    halves = Allocation(experiment="first", weights={"raw": 0.5, "teacher": 0.5}, salt="bench")
    thirds = Allocation(experiment="second", weights={"raw": 0.5, "short": 0.2, "teacher": 0.3}, salt="bench")
    first = [assign(halves, unit).arm for unit in units]
    second = [assign(thirds, unit).arm for unit in units]
    p_values = {}
    for label, arms, weights in (("halves", first, halves.weights), ("uneven", second, thirds.weights)):
        p_values[label] = float(stats.chisquare([arms.count(arm) for arm in weights], [UNITS * w for w in weights.values()]).pvalue)
    places = np.array([position("bench", "arm", "first", unit) for unit in units])
    p_values["positions"] = float(stats.chisquare(np.histogram(places, bins=1_000, range=(0.0, 1.0))[0]).pvalue)
    between = float(np.corrcoef([arm == "teacher" for arm in first], [arm == "teacher" for arm in second])[0, 1])
    moved, left = 0, 0
    inside: set[int] = set()
    for enrolled in (0.01, 0.1, 0.5, 1.0):
        ramp = halves.model_copy(update={"enrolled": enrolled})
        now = [assign(ramp, unit).arm for unit in units]
        members = {i for i, arm in enumerate(now) if arm is not None}
        left += len(inside - members)
        inside = members
        moved += sum(arm not in (None, first[i]) for i, arm in enumerate(now))
    other = subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(seed), str(UNITS)], capture_output=True, text=True, check=True)
    differ = sum(a != b for a, b in zip(first, other.stdout.split(), strict=True))
    return {
        "units": UNITS,
        "chi_square_p": {label: round(p, 5) for label, p in p_values.items()},
        "correlation_between_experiments": round(between, 6),
        "moved_by_ramp": moved,
        "left_by_ramp": left,
        "different_in_another_process": differ,
    }


OTHER_PROCESS = """
import sys
from evaluation.assignment import Allocation, assign
halves = Allocation(experiment="first", weights={"teacher": 0.5, "raw": 0.5}, salt="bench")
print(" ".join(assign(halves, f"user-{sys.argv[1]}-{i}").arm for i in range(int(sys.argv[2]))))
"""

# part -> (what runs it, seed, repeats)
PARTS: dict[str, tuple[Callable[[str, int, int], dict[str, Any]], int, int]] = {
    **{name: (run_test, 100 + i, 10_000) for i, name in enumerate(TESTS)},
    "aa_clusters": (run_prefixes, 201, 2_000),
    "aa_cuped": (run_prefixes, 202, 2_000),
    "split_50_50": (run_split, 301, 10_000),
    "split_51_49": (run_split, 302, 10_000),
    "assignment": (run_assignment, 401, 1),
}


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of each kind."""
    null = [run["claims"]["rate"] for run in runs if run["part"].startswith("aa_")]
    effect = [run for run in runs if run["part"].startswith("effect_")]
    covered = [run["coverage"]["rate"] for run in runs if "coverage" in run]
    split = {run["part"]: run for run in runs if run["part"].startswith("split_")}
    uniform = [min(run["chi_square_p"].values()) for run in runs if "chi_square_p" in run]
    return {
        "false_positive_rate": max(null, default=None),
        "power": min((run["claims"]["rate"] for run in effect), default=None),
        "coverage": min(covered, default=None),
        "split_51_49_caught": split["split_51_49"]["alarm_at_end"]["rate"] if "split_51_49" in split else None,
        "split_50_50_false_alarms": split["split_50_50"]["alarm_at_any_look"]["rate"] if "split_50_50" in split else None,
        "assignment_lowest_p": min(uniform, default=None),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sequential", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=PARTS, help="one part")
    args = parser.parse_args()
    runs = load_runs(NAME)
    done = {run["part"] for run in runs}
    commit = git_commit()  # before the first result changes the tree
    for name, (work, seed, repeats) in PARTS.items():
        if name in done or args.only not in (None, name):
            continue
        started = time.process_time()
        runs.append({"part": name, "seed": seed, "repeats": repeats, **work(name, seed, repeats)})
        runs[-1]["cpu_s"] = round(time.process_time() - started, 1)
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
        print(json.dumps(runs[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
