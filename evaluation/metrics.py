"""Metrics of rankings and of correlation, as the field defines them. Rankings are lists of ids, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

# Keeps Newton's matrix from being singular.
_TINY = 1e-9

Relevance = Mapping[str, float]
Numbers = NDArray[np.floating[Any]]
Floating = TypeVar("Floating", np.float32, np.float64)


def ndcg_at(ranking: Sequence[str], relevant: Relevance, k: int) -> float:
    """Normalized discounted cumulative gain with linear gains, as trec_eval and BEIR compute it (ndcg_cut)."""
    gains = [relevant.get(item, 0.0) for item in ranking[:k]]
    ideal = sorted(relevant.values(), reverse=True)[:k]
    best = _discounted(ideal)
    return _discounted(gains) / best if best > 0 else 0.0


def recall_at(ranking: Sequence[str], relevant: Relevance, k: int) -> float:
    """Share of the relevant items that are among the first k."""
    wanted = {item for item, grade in relevant.items() if grade > 0}
    return len(wanted.intersection(ranking[:k])) / len(wanted) if wanted else 0.0


def reciprocal_rank(ranking: Sequence[str], relevant: Relevance, k: int) -> float:
    """One over the place of the first relevant item among the first k, 0 if there is none."""
    places = (place for place, item in enumerate(ranking[:k], start=1) if relevant.get(item, 0.0) > 0)
    return 1 / next(places, np.inf)


def unit_rows(vectors: NDArray[Floating]) -> NDArray[Floating]:
    """Scale each row (n, dim) to length 1, in its own precision; a zero row gives NaN."""
    lengths: NDArray[Floating] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


def pearson(left: Numbers, right: Numbers) -> float:
    """Linear correlation; 0 where one side does not vary."""
    a, b = left - left.mean(dtype=np.float64), right - right.mean(dtype=np.float64)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def spearman(left: Numbers, right: Numbers) -> float:
    """Rank correlation; ties share the mean of their ranks."""
    return pearson(_ranks(left), _ranks(right))


def roc_auc(positive: Numbers, negative: Numbers) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    ranks = _ranks(np.concatenate([positive, negative]))
    count = len(positive)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(negative)))


def best_threshold(positive: Numbers, negative: Numbers) -> tuple[float, float]:
    """Return the score from which on to call a pair relevant, and the F1 that this gives; the highest F1 there is."""
    scores = np.concatenate([positive, negative]).astype(np.float64)
    is_positive = np.arange(len(scores)) < len(positive)
    order = np.argsort(-scores, kind="stable")
    hits, called = np.cumsum(is_positive[order]), np.arange(1, len(scores) + 1)
    # Only behind the last of equal scores: a threshold can not part them.
    whole = np.append(np.diff(scores[order]) != 0, True)
    f1 = np.where(whole, 2 * hits / (called + len(positive)), 0)
    best = int(f1.argmax())
    return float(scores[order][best]), float(f1[best])


def paired_permutation(differences: Numbers, *, seed: int, rounds: int = 10_000) -> float:
    """Two-sided p value of a paired randomization test: how often random signs give as large a mean."""
    draw = np.random.default_rng(seed)
    observed = abs(differences.mean())
    means = [
        np.abs(draw.choice((-1.0, 1.0), size=(1000, len(differences))) @ differences / len(differences))
        for _ in range(-(-rounds // 1000))
    ]
    # The observed signs are one of the draws: p is never 0.
    return float((1 + (np.concatenate(means)[:rounds] >= observed - 1e-12).sum()) / (1 + rounds))


def bootstrap_interval(values: Numbers, *, seed: int, rounds: int = 10_000) -> tuple[float, float]:
    """95% percentile interval of the mean."""
    draw = np.random.default_rng(seed)
    means = [values[draw.integers(0, len(values), len(values))].mean() for _ in range(rounds)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def fit_logistic(scores: Numbers, is_relevant: NDArray[np.bool_]) -> tuple[float, float]:
    """Return a and b of P(relevant) = 1 / (1 + exp(-(a * score + b))), by Newton's method.

    Platt's scaling with his smoothed targets, which keep a and b finite where the classes part cleanly.
    """
    positive = int(is_relevant.sum())
    negative = len(scores) - positive
    targets = np.where(is_relevant, (positive + 1) / (positive + 2), 1 / (negative + 2))
    inputs = np.stack([scores.astype(np.float64), np.ones(len(scores))], axis=1)
    weights = np.zeros(2)
    for _ in range(100):
        chance = _logistic(inputs @ weights)
        slope = inputs.T @ (targets - chance) - _TINY * weights
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + _TINY * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0]), float(weights[1])


def calibrated(scores: Numbers, a: float, b: float) -> NDArray[np.float64]:
    """Return the probabilities of relevance that `fit_logistic` reads from scores."""
    return _logistic(a * scores.astype(np.float64) + b)


def expected_calibration_error(chances: Numbers, is_relevant: NDArray[np.bool_], *, bins: int = 10) -> float:
    """Mean distance of stated chance and actual share, over bins of equal width weighted by their size."""
    places = np.minimum((np.clip(chances, 0, 1) * bins).astype(int), bins - 1)
    gaps = [
        abs(chances[places == place].mean() - is_relevant[places == place].mean()) * (places == place).sum()
        for place in np.unique(places)
    ]
    return float(sum(gaps) / len(chances))


def _logistic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))


def _discounted(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(place + 1) for place, gain in enumerate(gains, start=1)))


def _ranks(values: Numbers) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
