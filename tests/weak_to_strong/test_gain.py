"""Gain and misfit against exact identities and the numbers of the literature: when the inequality is a theorem, and when it fails."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import spearmanr

from benchmarks.misfit_worlds import Task, slope, study
from exchange.settings import SettingError
from weak_to_strong.divergence import DIVERGENCES, Array, as_outputs, bregman
from weak_to_strong.gain import Candidate, Misfit, Verdict, accuracy_gain, choose_teacher, judge, measure
from weak_to_strong.heads import (
    HeadConfig,
    check_features,
    condition_number,
    fit_ball,
    fit_head,
    fit_least_squares,
    fit_softmax,
    mixture_weights,
)

SQUARED, FORWARD, REVERSE = (DIVERGENCES[name] for name in ("squared", "forward_kl", "reverse_kl"))


def linear_world(seed: int, rows: int = 400, columns: int = 6, outputs: int = 1) -> tuple[Array, Array, Array]:
    """(features, truth, weak): the truth is a linear head, the weak labels miss it by a curve and noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, columns))
    truth = features @ rng.normal(size=(columns, outputs)) + 0.3
    return features, truth, truth + np.tanh(features @ rng.normal(size=(columns, outputs))) + rng.normal(size=truth.shape) / 2


def fitted(features: Array, weak: Array, truth: Array, loss: str, config: HeadConfig) -> tuple[Misfit, Verdict]:
    head = fit_head(features, weak, DIVERGENCES[loss], config, np.random.default_rng(0))  # type: ignore[index]
    found = measure(head.predict(features), weak, truth, DIVERGENCES[loss])  # type: ignore[index]
    condition = condition_number(features)
    return found, judge(found, features, truth, DIVERGENCES[loss], config, head, in_sample=True, condition=condition)  # type: ignore[index]


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_a_linear_head_on_its_fitting_rows_gains_exactly_its_misfit(kind: type, tolerance: float) -> None:
    for seed in range(5):
        features, truth, weak = (array.astype(kind).astype(float) for array in linear_world(seed, outputs=1 + seed % 3))
        found, verdict = fitted(features, weak, truth, "squared", HeadConfig())
        assert found.gain is not None
        assert abs(found.gain.value - found.misfit.value) / found.misfit.value < tolerance
        if kind is np.float64:
            assert verdict.theorem == "gain = misfit" and not verdict.violated and not verdict.broken


def studies(seeds: int, **settings: object) -> list[Task]:
    return [task for seed in range(seeds) for task in study(seed, tasks=50, **settings)]  # type: ignore[arg-type]


def test_out_of_sample_the_points_lie_on_the_diagonal() -> None:
    tasks = studies(3, fitting_rows=20_000)
    on, correlation = slope(tasks)
    assert 0.9 < on < 1.1 and correlation > 0.99
    assert all(task.gain > 0 for task in tasks)
    assert float(np.median([abs(task.gain - task.misfit) / task.misfit for task in tasks])) < 0.05


def test_a_class_that_nearly_holds_the_truth_gains_a_little_less() -> None:
    on, correlation = slope(studies(2, fitting_rows=2_000, sigma_strong=0.01))
    assert 0.6 < on < 1.05 and correlation > 0.95


def test_with_the_roles_swapped_misfit_is_a_loss() -> None:
    tasks = studies(2, fitting_rows=2_000, sigma_strong=0.05, sigma_weak=0.01)
    on, _ = slope(tasks)
    assert -1.1 < on < -0.8
    assert not any(task.gain > 0 for task in tasks)


def test_a_ball_that_holds_the_truth_gains_at_least_its_misfit() -> None:
    rng = np.random.default_rng(0)
    slacks = []
    for _ in range(200):
        features = rng.normal(size=(60, 5))
        weights = rng.normal(size=(5, 1))
        truth = features @ weights
        weak = truth + rng.normal(size=truth.shape) * 3
        radius = float(np.linalg.norm(weights)) * rng.uniform(1.0, 1.5)
        head = fit_ball(features, weak, radius)
        assert head.norm <= radius * (1 + 1e-9)
        slacks.append(float((SQUARED.error(weak, truth) - SQUARED.error(head.predict(features), truth)).mean()
                            - SQUARED.misfit(head.predict(features), weak).mean()))  # fmt: skip
    assert min(slacks) > -1e-12
    assert max(slacks) > 0.01, "with the constraint active the inequality is strict"


def test_a_ridge_that_leaves_the_truth_out_is_reported_as_a_violation() -> None:
    features, truth, weak = linear_world(0, rows=1000)
    found, verdict = fitted(features, weak, truth, "squared", HeadConfig(kind="ridge", penalty=5000))
    assert found.gain is not None and found.gain.value < 0 < found.misfit.value
    assert verdict.theorem is None and verdict.violated


def test_a_ball_that_misses_the_truth_falls_short_by_no_more_than_the_allowance() -> None:
    features, truth, weak = linear_world(1)
    radius = fit_least_squares(features, truth).norm / 2
    found, verdict = fitted(features, weak, truth, "squared", HeadConfig(kind="ball", radius=radius))
    assert found.slack is not None and verdict.allowance is not None
    assert verdict.violated and not verdict.broken
    assert -verdict.allowance <= found.slack.value < 0


def test_a_broken_projection_is_found_out() -> None:
    """Weak labels of other rows than the student was fitted on."""
    features, truth, weak = linear_world(2)
    head = fit_least_squares(features, weak)
    shuffled = np.random.default_rng(0).permutation(weak)
    found = measure(head.predict(features), shuffled, truth, SQUARED)
    assert judge(found, features, truth, SQUARED, HeadConfig(), head, in_sample=True, condition=1.0).broken


def distributions(seed: int) -> tuple[Array, Array, Array]:
    """(features, truth, weak), the truth in the class of linear softmax heads."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(500, 4))
    truth = softmax(features @ rng.normal(size=(4, 3)), axis=1)
    weak = softmax(np.log(truth) * 0.5 + np.tanh(features @ rng.normal(size=(4, 3))) + rng.normal(size=truth.shape) / 2, axis=1)
    return features, truth, weak


def test_cross_entropy_splits_exactly_in_its_own_direction_and_not_in_the_other() -> None:
    violations = 0
    for seed in range(4):
        features, truth, weak = distributions(seed)
        head = fit_softmax(features, weak, FORWARD)
        student = head.predict(features)
        whole, misfit, left = (
            float(kl.mean()) for kl in (FORWARD.error(weak, truth), FORWARD.misfit(student, weak), FORWARD.error(student, truth))
        )
        assert whole == pytest.approx(misfit + left, abs=1e-6)
        other = measure(student, weak, truth, REVERSE)
        assert other.slack is not None
        violations += other.slack.value < -1e-3
    assert violations > 0, "cross-entropy training does not give the reverse-KL inequality"


def test_a_reverse_kl_projection_onto_mixtures_gains_at_least_its_misfit() -> None:
    rng = np.random.default_rng(0)
    slacks, interior = [], []
    for _ in range(20):
        experts = softmax(rng.normal(size=(6, 300, 3)) * 1.5, axis=2)
        truth = np.tensordot(rng.dirichlet(np.ones(6)), experts, 1)
        weak = softmax(np.log(truth) + rng.normal(size=truth.shape) * 0.7, axis=1)
        weights = mixture_weights(experts, weak, REVERSE)
        student = np.tensordot(weights, experts, 1)
        slack = float((REVERSE.error(weak, truth) - REVERSE.error(student, truth) - REVERSE.misfit(student, weak)).mean())
        slacks.append(slack)
        if weights.min() > 1e-3:
            interior.append(slack)
    assert min(slacks) > -1e-6
    assert interior and max(map(abs, interior)) < 1e-6, "no corner, so equality"


def test_a_mixture_head_keeps_its_experts_when_the_class_is_judged() -> None:
    features, _, weak = distributions(0)
    config = HeadConfig(kind="mixture", experts=4)
    head = fit_head(features, weak, REVERSE, config, np.random.default_rng(0))
    outputs = np.stack([expert(features) for expert in head.experts])
    truth = np.tensordot([0.1, 0.2, 0.3, 0.4], outputs, 1)
    found = measure(head.predict(features), weak, truth, REVERSE)
    verdict = judge(found, features, truth, REVERSE, config, head, in_sample=True, condition=1.0)
    assert verdict.theorem == "gain >= misfit" and not verdict.violated


def test_bregman_divergences_of_known_potentials() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(3), 50), rng.dirichlet(np.ones(3), 50)
    of_squares = bregman("squares", lambda x: (x**2).sum(axis=1), lambda x: 2 * x)
    of_entropy = bregman("entropy", lambda x: (x * np.log(x)).sum(axis=1), lambda x: np.log(x) + 1)
    assert of_squares.error(a, b) == pytest.approx(SQUARED.error(a, b))
    assert of_entropy.error(a, b) == pytest.approx(REVERSE.error(a, b))
    assert of_entropy.misfit(a, b) == pytest.approx(REVERSE.misfit(a, b))
    assert FORWARD.misfit(a, b) == pytest.approx((b * (np.log(b) - np.log(a))).sum(axis=1)), "ordinary cross-entropy: KL(weak, student)"


def test_choosing_by_weak_error_less_misfit_is_about_as_good_as_by_weak_error() -> None:
    """Six teachers, their error estimated on 500 labels of their own: the advantage of the rule is small, so both columns are shown."""
    by_rule, by_error, hits = [], [], 0
    for world in range(30):
        rng = np.random.default_rng(world)
        features = rng.normal(size=(2000, 8))
        truth = features @ rng.normal(size=(8, 1))
        held_out = rng.normal(size=(500, 8))
        candidates = []
        for level in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
            inside, outside = rng.normal(size=(8, 1)) / 3, rng.normal(size=(8, 1))

            def wrong_by(
                rows: Array, level: float = level, inside: Array = inside, outside: Array = outside, rng: np.random.Generator = rng
            ) -> Array:
                return np.asarray(level * (rows @ inside + np.tanh(3 * rows @ outside) / 2 + rng.normal(size=(len(rows), 1)) / 2))

            weak = truth + wrong_by(features)
            student = fit_least_squares(features, weak).predict(features)
            candidates.append(
                Candidate(
                    name=str(level),
                    weak_error=float((wrong_by(held_out) ** 2).mean()),
                    misfit=float(SQUARED.misfit(student, weak).mean()),
                    student_error=float(SQUARED.error(student, truth).mean()),
                )
            )
        real = [candidate.student_error for candidate in candidates]
        hits += choose_teacher(candidates)[0].student_error == min(error for error in real if error is not None)
        by_rule.append(spearmanr([candidate.predicted for candidate in candidates], real).statistic)
        by_error.append(spearmanr([candidate.weak_error for candidate in candidates], real).statistic)

    assert hits >= 24
    assert np.mean(by_rule) > 0.85 and np.mean(by_error) > 0.85
    assert np.mean(by_rule) > np.mean(by_error)


def test_teachers_are_ranked_by_predicted_error_with_both_columns() -> None:
    rows = [
        Candidate(name="a", weak_error=1.0, misfit=0.1),
        Candidate(name="b", weak_error=1.2, misfit=0.5),
        Candidate(name="c", weak_error=0.9, misfit=0.0),
    ]
    assert [row.name for row in choose_teacher(rows)] == ["b", "c", "a"]
    assert choose_teacher(rows)[0].predicted == pytest.approx(0.7)
    with pytest.raises(ValueError, match="no candidates"):
        choose_teacher([])


def test_accuracy_gain_is_at_most_disagreement() -> None:
    rng = np.random.default_rng(0)
    gold, weak, student = (rng.integers(4, size=500) for _ in range(3))
    found = accuracy_gain((student == gold).tolist(), (weak == gold).tolist(), (student == weak).tolist())
    assert found["gain"] == pytest.approx(float((student == gold).mean() - (weak == gold).mean()))
    assert found["gain"] <= found["disagreement"]


def test_ill_conditioned_features_are_refused_and_scale_is_not() -> None:
    features, truth, weak = linear_world(0)
    scaled = features * np.array([500.0, 1e-3, 1, 1, 1, 1]) + 1e4
    assert condition_number(scaled) == pytest.approx(condition_number(features), rel=1e-3)
    found, _ = fitted(scaled, weak, truth, "squared", HeadConfig())
    assert found.gain is not None and found.gain.value == pytest.approx(found.misfit.value, rel=1e-6)
    copied = np.column_stack([features, features[:, 0] + 1e-9 * features[:, 1]])
    with pytest.raises(SettingError, match="ill-conditioned, condition number"):
        check_features(copied, HeadConfig())
    check_features(copied, HeadConfig(kind="ridge"))
    with pytest.raises(SettingError, match="5 rows for 6 columns"):
        check_features(features[:5], HeadConfig())
    with pytest.raises(SettingError, match="every column is constant"):
        check_features(np.ones((10, 2)), HeadConfig())


def test_hard_labels_make_kl_infinite_or_separable_and_the_error_says_so() -> None:
    features, truth, _ = distributions(0)
    hard = np.eye(3)[truth.argmax(axis=1)]
    with pytest.raises(SettingError, match="reverse_kl is infinite on"):
        measure(truth, hard, None, REVERSE)
    with pytest.raises(SettingError, match="separate"):
        fit_softmax(features, hard, FORWARD)
    assert np.isfinite(fit_softmax(features, hard, FORWARD, penalty=1.0).predict(features)).all()


def test_probabilities_are_checked() -> None:
    assert as_outputs(np.array([0.25, 1.0]), "weak", probabilities=True).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    with pytest.raises(SettingError, match=r"row 1 sums to 1\.2"):
        as_outputs(np.array([[0.5, 0.5], [0.6, 0.6]]), "weak", probabilities=True)
    with pytest.raises(SettingError, match="1 of 2 values are NaN"):
        as_outputs(np.array([1.0, math.nan]), "weak", probabilities=False)


def test_softmax_gradients_lead_to_the_optimum_in_both_directions() -> None:
    features, _, weak = distributions(1)
    for loss in (FORWARD, REVERSE):
        best = float(loss.misfit(fit_softmax(features, weak, loss).predict(features), weak).mean())
        rng = np.random.default_rng(0)
        logits = log_softmax(np.log(fit_softmax(features, weak, loss).predict(features)), axis=1)
        near = [float(loss.misfit(softmax(logits + features @ rng.normal(size=(4, 3)) * 0.02, axis=1), weak).mean()) for _ in range(20)]
        assert min(near) > best
