"""What an artifact is worth on a collection, and whether another is worth more."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embakery import Embedder
from embakery.artifact import Manifest
from evaluation.collection import Collection
from evaluation.metrics import (
    best_threshold,
    bootstrap_interval,
    calibrated,
    expected_calibration_error,
    fit_logistic,
    paired_permutation,
    roc_auc,
)
from evaluation.page import heading, numbers, page, paragraph, table
from evaluation.plots import histogram
from evaluation.retrieval import METRICS, Advance, Reranking, Scores, Search, rerank, score, search

SEED = 20261123
_OTHERS_PER_QUERY = 20
_NEAREST = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a reranker's scores become chances of relevance: 1 / (1 + exp(-(a * score + b))).

    error_before, error_after: expected calibration error of the scores, clipped to 0..1, and of the chances.
    """

    a: float
    b: float
    error_before: float
    error_after: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One artifact on one collection. reranked, calibration: none where no rerank was asked for."""

    manifest: Manifest
    collection: Collection
    found: Search
    dense: Scores
    reranked: Scores | None
    relevant_cosines: NDArray[np.float32]
    other_cosines: NDArray[np.float32]
    calibration: Calibration | None

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        threshold, f1 = best_threshold(self.relevant_cosines, self.other_cosines)
        return {
            "model": self.manifest.model_id,
            "space_id": self.manifest.space_id,
            "documents": len(self.collection.documents),
            "queries": len(self.collection.queries),
            "dense": self.dense.means(),
            "reranked": None if self.reranked is None else self.reranked.means(),
            "threshold": {"cosine": threshold, "f1": f1},
            "reranker_calibration": None if self.calibration is None else asdict(self.calibration),
            "roc_auc": roc_auc(self.relevant_cosines, self.other_cosines),
            "seed": SEED,
            "machine": platform.machine(),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """After less before, over the queries of one metric: mean, 95% interval, p value, and how many went which way."""

    mean: float
    low: float
    high: float
    p: float
    better: int
    equal: int
    worse: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two artifacts on one collection, by metric. reranked: none where either was not reranked.

    before: the artifact compared with. overlap: mean share of a query's ten nearest documents that both find.
    """

    before: Manifest
    dense: Mapping[str, Difference]
    reranked: Mapping[str, Difference] | None
    overlap: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        stages = {"dense": self.dense, "reranked": self.reranked}
        figures = {
            stage: None if differences is None else {name: asdict(each) for name, each in differences.items()}
            for stage, differences in stages.items()
        }
        return {**figures, "overlap": self.overlap}


def evaluate(
    embedder: Embedder,
    collection: Collection,
    *,
    top: int | None = 30,
    method: str | None = None,
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Search, rerank the best `top` (not at all if None), and score."""
    found = search(embedder, collection, advance=advance)
    reranked, calibration = None, None
    if top is not None:
        reranking = rerank(embedder, collection, found.rankings, top=top, method=method, advance=advance)
        reranked = score(reranking.rankings, collection.relevant)
        calibration = _calibrate(reranking, collection)
    relevant, others = _cosines(found, collection)
    dense = score(found.rankings, collection.relevant)
    return Evaluation(embedder.manifest, collection, found, dense, reranked, relevant, others, calibration)


def compare(before: Evaluation, after: Evaluation) -> Comparison:
    """Compare two artifacts on one collection, query by query."""
    shared = [
        len(set(ranking[:_NEAREST]).intersection(after.found.rankings[query][:_NEAREST])) / len(ranking[:_NEAREST])
        for query, ranking in before.found.rankings.items()
    ]
    both = None if before.reranked is None or after.reranked is None else (before.reranked, after.reranked)
    return Comparison(
        before=before.manifest,
        dense=paired_differences(before.dense, after.dense),
        reranked=None if both is None else paired_differences(*both),
        overlap=float(np.mean(shared)),
    )


def paired_differences(before: Scores, after: Scores) -> dict[str, Difference]:
    """Compare the scores of the same queries, for each metric."""
    differences = {}
    for name in METRICS:
        values = after.by_metric[name] - before.by_metric[name]
        low, high = bootstrap_interval(values, seed=SEED)
        differences[name] = Difference(
            mean=float(values.mean()),
            low=low,
            high=high,
            p=paired_permutation(values, seed=SEED),
            better=int((values > 0).sum()),
            equal=int((values == 0).sum()),
            worse=int((values < 0).sum()),
        )
    return differences


def evaluation_page(evaluation: Evaluation, comparison: Comparison | None = None) -> str:
    """Return the report as one page, and how it compares if that is given."""
    figures = evaluation.to_json()
    lead = f"{figures['queries']} queries over {figures['documents']} documents, space {figures['space_id']}."
    rows = [["dense", *_cells(figures["dense"])]]
    if figures["reranked"] is not None:
        rows.append(["reranked", *_cells(figures["reranked"])])
    threshold = figures["threshold"]
    parts = [
        numbers({name: f"{value:.4f}" for name, value in figures["dense"].items()}),
        table(["", *METRICS], rows),
        histogram(
            {"relevant": evaluation.relevant_cosines, "others": evaluation.other_cosines},
            title="Cosines of relevant and of other pairs",
            x_label="cosine",
        ),
        paragraph(
            f"A cosine of {threshold['cosine']:.3f} parts them best (F1 {threshold['f1']:.3f} on these pairs; "
            f"area under the ROC curve {figures['roc_auc']:.4f})."
        ),
    ]
    if evaluation.calibration is not None:
        parts.append(paragraph(_calibration_text(evaluation.calibration)))
    if comparison is not None:
        parts += [heading(f"Against {comparison.before.model_id}, space {comparison.before.space_id}")]
        parts += [paragraph(f"Of each query's ten nearest documents both find {comparison.overlap:.1%}, in the mean.")]
        parts += [_differences("dense", comparison.dense)]
        if comparison.reranked is not None:
            parts += [_differences("reranked", comparison.reranked)]
        parts += [paragraph("Positive: this artifact is better. p: two-sided paired permutation test.")]
    return page(f"{evaluation.manifest.model_id} on your data", lead, parts)


def _calibrate(reranking: Reranking, collection: Collection) -> Calibration:
    scores = np.array([value for values in reranking.head_scores.values() for value in values])
    is_relevant = np.array(
        [
            name in collection.relevant[query]
            for query, values in reranking.head_scores.items()
            for name in reranking.rankings[query][: len(values)]
        ]
    )
    a, b = fit_logistic(scores, is_relevant)
    before = expected_calibration_error(np.clip(scores, 0, 1), is_relevant)
    return Calibration(a, b, before, expected_calibration_error(calibrated(scores, a, b), is_relevant))


def _differences(title: str, differences: Mapping[str, Difference]) -> str:
    rows = [
        [name, f"{d.mean:+.4f}", f"{d.low:+.4f} to {d.high:+.4f}", f"{d.p:.4f}", f"{d.better} / {d.equal} / {d.worse}"]
        for name, d in differences.items()
    ]
    return table([title, "difference", "95% interval", "p", "better / equal / worse"], rows)


def _calibration_text(fit: Calibration) -> str:
    return (
        f"A reranker's score s means a chance of relevance of 1 / (1 + exp(-({fit.a:.3f} s {fit.b:+.3f}))); "
        f"its expected calibration error is {fit.error_after:.4f}, the raw score's {fit.error_before:.4f}."
    )


def _cells(means: Mapping[str, float]) -> list[str]:
    return [f"{means[name]:.4f}" for name in METRICS]


def _cosines(found: Search, collection: Collection) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines of all relevant pairs, and of some others drawn for each query."""
    draw = np.random.default_rng(SEED)
    places = {name: index for index, name in enumerate(collection.documents)}
    relevant, others = [], []
    for row, query in zip(found.cosines, collection.queries, strict=True):
        wanted = np.array([places[name] for name in collection.relevant[query]])
        relevant.append(row[wanted])
        rest = np.setdiff1d(np.arange(len(row)), wanted)
        others.append(row[draw.choice(rest, min(_OTHERS_PER_QUERY, len(rest)), replace=False)])
    return np.concatenate(relevant), np.concatenate(others)
