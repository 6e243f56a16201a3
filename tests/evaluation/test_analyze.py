"""`python -m evaluation.analyze`: the contract's fields, the words, the same bytes again, and one line for whatever is wrong."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize

from evaluation.analyze import main
from tests.requirements import ROOT


def write(path, rates, n=600, seed=0, **more):
    """`n` units an arm taking turns, with 0/1 outcomes."""
    rng = np.random.default_rng(seed)
    lines = [
        {"unit": f"{arm}{i}", "arm": arm, "metric": "resolved", "value": int(rng.random() < rate), "time": i, **more}
        for i in range(n)
        for arm, rate in rates.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, {"raw": 0.4, "teacher": 0.6})
    return str(path)


def run(capsys, *argv):
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_contract(log, capsys):
    code, out, err = run(capsys, log, "--json", "--planned-n", "1000", "--alpha", "0.1", "--weights", "raw=0.5,teacher=0.5")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["alpha"], report["control"], report["planned_n"]) == (0.1, "raw", 1_000)
    assert set(report["srm"]) >= {"p_value", "ok"} and report["srm"]["ok"] is True
    metric = report["metrics"]["resolved"]
    values = [json.loads(line) for line in Path(log).read_text().splitlines()]
    means = {arm: np.mean([v["value"] for v in values if v["arm"] == arm]) for arm in ("raw", "teacher")}
    for arm, mean in means.items():
        assert metric["arms"][arm]["n"] == metric["arms"][arm]["units"] == 600
        assert metric["arms"][arm]["mean"] == pytest.approx(mean)
    found = metric["vs_control"]["teacher"]
    # By hand: N r^2 = 1200 / 1000 * (-2 ln 0.1 + ln(-2 ln 0.1) + 1) = 1.2 * (4.605170 + 1.527180 + 1)
    n, x = 1_200, 1.2 * 7.132350
    s2 = n * sum(m * (1 - m) * 600 / 599 / 600 for m in means.values())
    difference = means["teacher"] - means["raw"]
    half = math.sqrt(s2 * 2 * (x + 1) / (n * x) * math.log(math.sqrt(x + 1) / 0.1))
    assert found["difference"] == pytest.approx(difference)
    assert (found["low"], found["high"]) == pytest.approx((difference - half, difference + half), rel=1e-6)
    assert found["p_value"] == pytest.approx(math.sqrt(x + 1) * math.exp(-n * difference**2 * x / (2 * (x + 1) * s2)), rel=1e-4)
    assert found["verdict"] == "better"


def test_the_same_bytes_again(log):
    for flags in ((), ("--json",)):
        command = [sys.executable, "-m", "evaluation.analyze", log, *flags]
        runs = [subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout for _ in range(2)]
        assert runs[0] == runs[1] and len(runs[0]) > 200


def test_words_for_a_gain(log, capsys):
    code, out, _ = run(capsys, log)
    assert code == 0
    assert "resolved: teacher is better than raw: 6" in out and "looking often does not weaken this" in out
    assert "95" in out and "verdict" in out


def test_words_for_the_rest(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    write(path, {"raw": 0.5, "teacher": 0.5})
    assert "no difference between teacher and raw is shown yet" in run(capsys, str(path))[1]
    write(path, {"raw": 0.6, "teacher": 0.4})
    assert "teacher is worse than raw" in run(capsys, str(path))[1]
    assert "teacher is better than raw (less is better)" in run(capsys, str(path), "--lower-is-better", "resolved")[1]
    write(path, {"raw": 0.5, "teacher": 0.5}, n=40)
    assert "on few outcomes" in run(capsys, str(path))[1]
    lines = write(path, {"raw": 0.5, "teacher": 0.5}, n=40)
    path.write_text("".join(json.dumps({**line, "value": 2.5 + line["value"]}) + "\n" for line in lines))
    assert "too early to say anything about teacher: the smaller arm has 40 units" in run(capsys, str(path))[1]
    path.write_text("".join(json.dumps({**line, "value": None}) + "\n" for line in lines))
    assert "no claim about teacher: an arm has no outcome of this metric." in run(capsys, str(path))[1]


def test_words_for_a_broken_split_moved_and_forced_units(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    lines = write(path, {"raw": 0.5, "teacher": 0.5})
    lines += [{**lines[0], "arm": "teacher", "time": 1e9}, {**lines[0], "unit": "qa", "forced": True}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = run(capsys, str(path), "--weights", "raw=0.7,teacher=0.3")[1]
    assert "Do not use this test: its arms do not hold their planned shares of units (raw 50.0% of 70.0% planned" in out
    assert "1 unit(s) were seen in more than one arm; each counts in its first." in out
    assert "1 line(s) of units that were put into their arm by hand are left out." in out


def test_a_log_that_holds_one_arm_after_the_other(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    lines = sorted(write(path, {"raw": 0.4, "teacher": 0.6}), key=lambda line: line["arm"])
    path.write_text("".join(json.dumps({**line, "time": i}) + "\n" for i, line in enumerate(lines)))
    code, out, _ = run(capsys, str(path), "--json")
    report = json.loads(out)
    assert code == 0 and report["srm"]["ok"] and report["srm"]["lowest_p_value"] < 0.01
    assert report["metrics"]["resolved"]["vs_control"]["teacher"]["verdict"] == "better"
    assert "The split was off for a while" in run(capsys, str(path))[1]


def test_names_that_look_like_markup(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    write(path, {"raw": 0.5, "[red]": 0.5, "größer": 0.5})
    out = run(capsys, str(path))[1]
    assert "[red]" in out and "größer" in out


def test_a_covariate_is_used_and_said(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    lines = write(path, {"raw": 0.4, "teacher": 0.6})
    rng = np.random.default_rng(0)
    lines = [{**line, "covariate": line["value"] + 0.3 * rng.normal() - 0.2 * (line["arm"] == "teacher")} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = json.loads(run(capsys, str(path), "--json")[1])["metrics"]["resolved"]["vs_control"]["teacher"]
    assert found["covariate_correlation"] > 0.8
    assert "adjusted for what was known of the units before" in run(capsys, str(path))[1]


BAD_ARGUMENTS = [
    (("--control", "best"), "control 'best': no such arm; known: raw, teacher"),
    (("--alpha", "0"), "--alpha=0: must be a finite number above 0 and at most 0.5"),
    (("--alpha", "nan"), "--alpha=nan: must be a finite number"),
    (("--alpha", "five"), "--alpha=five: must be a finite number"),
    (("--planned-n", "1"), "--planned-n=1: must be a finite number at least 2"),
    (("--planned-n", "12.5"), "--planned-n=12.5: must be a whole number"),
    (("--weights", "raw=0.5,teacher=0.6"), "weights sum to 1.1; they must sum to 1"),
    (("--weights", "raw=0.5,teach=0.5"), "weights name 'teach', an arm the log does not hold"),
    (("--weights", "raw=1"), "weights leave out 'teacher'"),
    (("--weights", "raw"), "--weights=raw: write arm=weight,arm=weight; 'raw' is not that"),
    (("--weights", "raw=0.5,raw=0.5"), "names 'raw' twice"),
    (("--weights", "raw=a,teacher=1"), "--weights raw=a: must be a finite number"),
    (("--weights", "raw=0,teacher=1"), "weight of 'raw' is 0; every weight must be above 0"),
    (("--lower-is-better", "cost"), "'cost', a metric the log does not hold"),
    (("--jsn",), "unrecognized arguments: --jsn"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_ARGUMENTS)
def test_a_bad_argument_is_one_line_and_exit_2(log, capsys, flags, message):
    code, out, err = run(capsys, log, *flags)
    assert (code, out) == (2, "")
    assert message in err and err.startswith("evaluation.analyze: ") and err.count("\n") == 1


def test_a_bad_log_is_one_line_and_exit_2(log, tmp_path, capsys):
    with open(log, "a") as stream:
        stream.write('{"unit": "u", "arm": "raw", "metric": "resolved", "value": NaN, "time": 1}\n')
    code, out, err = run(capsys, log, "--json")
    assert (code, out) == (2, "")
    assert err == f"evaluation.analyze: {log}:1201: value is nan; it must be a finite number of at most 1e+15 in size\n"
    assert run(capsys, str(tmp_path / "none.jsonl"))[0] == 2
    assert "the following arguments are required: LOG.jsonl" in run(capsys)[2]


def test_no_control_and_one_arm(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    write(path, {"a": 0.5, "b": 0.5}, n=3)
    code, _, err = run(capsys, str(path))
    assert code == 2 and "no arm is called control or raw, so the control must be named; the arms are a, b" in err
    assert run(capsys, str(path), "--control", "a")[0] == 0
    write(path, {"raw": 0.5}, n=3)
    code, _, err = run(capsys, str(path))
    assert code == 2 and "the log holds one arm only, 'raw'" in err


def independent(rows, metric, alpha, planned_n):
    """(difference, low, high, p) from the lines by statsmodels and the papers' formulas, nothing of this package: the ratio of sums and its
    cluster-robust variance by weighted least squares on unit means, less what a pooled covariate predicts, in the sequence of
    Waudby-Smith et al. (2024)."""
    units = {}
    for row in sorted(rows, key=lambda row: row["time"]):
        unit = units.setdefault(row["unit"], {"arm": row["arm"], "values": [], "covariate": None})
        if row["metric"] == metric:
            if unit["covariate"] is None:
                unit["covariate"] = row.get("covariate")
            if row["value"] is not None:
                unit["values"].append(row["value"])
    kept = [unit for unit in units.values() if unit["values"]]
    y = np.array([value for unit in kept for value in unit["values"]], dtype=float)
    treated = np.array([unit["arm"] == "teacher" for unit in kept for _ in unit["values"]], dtype=float)
    groups = np.array([i for i, unit in enumerate(kept) for _ in unit["values"]])
    arm = np.array([unit["arm"] == "teacher" for unit in kept])
    n = len(kept)
    if any(unit["covariate"] is not None for unit in kept):
        assert len(y) == n, "the check with a covariate is for one value a unit"
        x = np.array([unit["covariate"] for unit in kept])
        y = y - np.cov(x, y)[0, 1] / x.var(ddof=1) * (x - x.mean())
        difference = y[arm].mean() - y[~arm].mean()
        variance = y[arm].var(ddof=1) / arm.sum() + y[~arm].var(ddof=1) / (~arm).sum()
    else:
        # HC0 by cluster in each arm by itself, n / (n - 1) for the mean that is taken off.
        difference, variance = y[treated == 1].mean() - y[treated == 0].mean(), 0.0
        for mine in (treated == 1, treated == 0):
            model = sm.OLS(y[mine], np.ones(mine.sum()))
            robust = model.fit(cov_type="cluster", cov_kwds={"groups": groups[mine], "use_correction": False})
            clusters = len(set(groups[mine]))
            variance += float(robust.cov_params()[0, 0]) * clusters / (clusters - 1)
    base = -2 * math.log(alpha)
    rho2 = (base + math.log(base) + 1) / planned_n
    s2 = n * variance

    def half(level):
        return math.sqrt(s2 * 2 * (n * rho2 + 1) / (n * n * rho2) * math.log(math.sqrt(n * rho2 + 1) / level))

    p = optimize.brentq(lambda level: half(level) - abs(difference), 1e-290, 1.0) if half(1.0) < abs(difference) else 1.0
    return difference, difference - half(alpha), difference + half(alpha), p


@pytest.mark.parametrize("kind", ["rate", "clusters", "covariate", "uneven"])
def test_intervals_and_p_values_equal_an_independent_computation(tmp_path, capsys, kind):
    rng = np.random.default_rng(["rate", "clusters", "covariate", "uneven"].index(kind))
    rows = []
    for i in range(900):
        arm = "teacher" if rng.random() < (0.2 if kind == "uneven" else 0.5) else "raw"
        level, about = rng.normal(), {"unit": f"u{i}", "arm": arm, "metric": "m"}
        rows.append({**about, "value": None, "time": 10.0 * i, **({"covariate": level} if kind == "covariate" else {})})
        for j in range(1 + rng.poisson(1.5) if kind == "clusters" else 1):
            value = level + rng.normal() + 0.2 * (arm == "teacher")
            binary = kind in ("rate", "uneven")
            rows.append({**about, "value": float(value > 0) if binary else value, "time": 10.0 * i + j + 1})
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = "raw=0.8,teacher=0.2" if kind == "uneven" else "raw=0.5,teacher=0.5"
    assert main([str(path), "--json", "--alpha", "0.05", "--planned-n", "800", "--weights", weights]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["m"]["vs_control"]["teacher"]
    assert found["method"] == "confidence sequence"
    assert (found["covariate_correlation"] is not None) == (kind == "covariate")
    expected = independent(rows, "m", 0.05, 800)
    assert [found[name] for name in ("difference", "low", "high", "p_value")] == pytest.approx(expected, rel=1e-6)
