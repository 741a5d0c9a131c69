"""Metrics against values worked out by hand and against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, ndcg_score, roc_auc_score

from evaluation.metrics import (
    best_threshold,
    bootstrap_interval,
    calibrated,
    expected_calibration_error,
    fit_logistic,
    ndcg_at,
    paired_permutation,
    pearson,
    recall_at,
    reciprocal_rank,
    roc_auc,
    spearman,
)

RANKING = ["a", "b", "c", "d", "e"]


def test_ndcg_by_hand() -> None:
    # Gains 0, 1, 2 at places 1, 2, 3; ideal 2, 1.
    expected = (1 / np.log2(3) + 2 / 2) / (2 + 1 / np.log2(3))
    assert ndcg_at(RANKING, {"b": 1, "c": 2}, 10) == pytest.approx(expected)
    assert ndcg_at(RANKING, {"b": 1, "c": 2}, 2) == pytest.approx((1 / np.log2(3)) / (2 + 1 / np.log2(3)))
    assert ndcg_at(RANKING, {"a": 3}, 10) == 1
    assert ndcg_at(RANKING, {"z": 1}, 10) == 0
    assert ndcg_at(RANKING, {}, 10) == 0


def test_ndcg_is_scikit_learn_s() -> None:
    draw = np.random.default_rng(1)
    for _ in range(50):
        grades, scores = draw.integers(0, 4, 20), draw.permutation(20)
        names = [str(index) for index in range(20)]
        ranking = [names[index] for index in np.argsort(-scores)]
        relevant = {name: float(grade) for name, grade in zip(names, grades, strict=True) if grade}
        assert ndcg_at(ranking, relevant, 10) == pytest.approx(ndcg_score([grades], [scores], k=10))


def test_recall_and_reciprocal_rank_by_hand() -> None:
    relevant = {"b": 1.0, "e": 2.0, "z": 1.0, "a": 0.0}
    assert recall_at(RANKING, relevant, 2) == pytest.approx(1 / 3)
    assert recall_at(RANKING, relevant, 10) == pytest.approx(2 / 3)
    assert recall_at(RANKING, {}, 10) == 0
    assert reciprocal_rank(RANKING, relevant, 10) == 0.5
    assert reciprocal_rank(RANKING, {"e": 1}, 4) == 0


def test_correlations_are_scipy_s() -> None:
    draw = np.random.default_rng(2)
    for _ in range(30):
        left, right = draw.integers(0, 6, 40).astype(float), draw.standard_normal(40)
        assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic)
        assert pearson(left, right) == pytest.approx(stats.pearsonr(left, right).statistic)
    assert spearman(np.ones(4), np.arange(4.0)) == 0


def test_the_area_under_the_curve_and_the_threshold() -> None:
    draw = np.random.default_rng(3)
    for _ in range(30):
        positive, negative = draw.integers(3, 9, 15).astype(float), draw.integers(0, 7, 40).astype(float)
        truth, scores = np.r_[np.ones(15), np.zeros(40)], np.r_[positive, negative]
        assert roc_auc(positive, negative) == pytest.approx(roc_auc_score(truth, scores))
        threshold, f1 = best_threshold(positive, negative)
        assert f1 == pytest.approx(max(f1_score(truth, scores >= level) for level in np.unique(scores)))
        assert f1 == pytest.approx(f1_score(truth, scores >= threshold))


def test_the_permutation_test_knows_chance_from_a_difference() -> None:
    draw = np.random.default_rng(4)
    assert paired_permutation(draw.standard_normal(200) + 1, seed=1) == pytest.approx(1 / 10_001)
    assert paired_permutation(np.zeros(50), seed=1) == 1
    # Under the null hypothesis p values are uniform: about a tenth of them below .1.
    values = [paired_permutation(draw.standard_normal(40), seed=i, rounds=500) for i in range(200)]
    assert 8 <= sum(value < 0.1 for value in values) <= 36
    assert paired_permutation(np.array([1.0, 2.0, 4.0]), seed=1) == pytest.approx(2 / 8, abs=0.02)


def test_logistic_calibration_finds_what_made_the_labels() -> None:
    draw = np.random.default_rng(6)
    scores = draw.uniform(-1, 1, 20_000)
    chances = calibrated(scores, 4.0, -1.5)
    labels = draw.uniform(size=scores.size) < chances
    a, b = fit_logistic(scores, labels)
    assert a == pytest.approx(4.0, abs=0.15)
    assert b == pytest.approx(-1.5, abs=0.1)
    assert expected_calibration_error(calibrated(scores, a, b), labels) < 0.01
    assert expected_calibration_error(np.clip(scores, 0, 1), labels) > 0.05
    parted = fit_logistic(np.array([0.0, 0.1, 0.9, 1.0]), np.array([False, False, True, True]))
    assert all(np.isfinite(parted))
    assert parted[0] > 0


def test_the_calibration_error_by_hand() -> None:
    chances, labels = np.array([0.05, 0.05, 0.95, 0.95]), np.array([False, True, True, True])
    assert expected_calibration_error(chances, labels) == pytest.approx((2 * 0.45 + 2 * 0.05) / 4)


def test_the_interval_holds_the_mean() -> None:
    values = np.random.default_rng(5).standard_normal(400) + 3
    low, high = bootstrap_interval(values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap_interval(values, seed=1) == (low, high)
