"""Searching a collection with an artifact: exact dense search, then rerank, and what each query scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embakery.rerank import Ranked
from embakery.vectors import Vectors
from evaluation.collection import Collection
from evaluation.metrics import Relevance, ndcg_at, recall_at, reciprocal_rank, unit_rows

DEPTH = 100
METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10")
_EMBEDDED_AT_ONCE = 256

Advance = Callable[[int], None]


class TextEncoder(Protocol):
    """What dense search asks of a model. `embakery.Embedder` is one."""

    def embed(self, texts: Sequence[str], *, input_type: str) -> Vectors:
        """Return float32 (n, dim)."""


class Reranker(Protocol):
    """What rerank asks of a model. `embakery.Embedder` is one."""

    def rerank(self, query: str, documents: Sequence[str], *, method: str | None) -> list[Ranked]:
        """Rank all documents, best first."""


@dataclass(frozen=True, slots=True)
class Search:
    """Rankings of document ids, best first, for each query; cosines of each query with every document.

    cosines: float32 (queries, documents), in the collection's order.
    """

    rankings: Mapping[str, list[str]]
    cosines: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reranking:
    """Rankings after rerank, and what the reranker gave each document of a head, in the ranking's order."""

    rankings: Mapping[str, list[str]]
    head_scores: Mapping[str, list[float]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Each metric's value for every query, float64 (queries,), in the collection's order."""

    by_metric: Mapping[str, NDArray[np.float64]]

    def means(self) -> dict[str, float]:
        """Return each metric's mean."""
        return {name: float(values.mean()) for name, values in self.by_metric.items()}


def embed_all(model: TextEncoder, texts: Sequence[str], *, input_type: str, advance: Advance) -> Vectors:
    """Embed in slices and scale to length 1, float32 (n, dim)."""
    slices = []
    for start in range(0, len(texts), _EMBEDDED_AT_ONCE):
        part = texts[start : start + _EMBEDDED_AT_ONCE]
        slices.append(model.embed(part, input_type=input_type))
        advance(len(part))
    return unit_rows(np.concatenate(slices))


def search(model: TextEncoder, collection: Collection, *, advance: Advance = lambda _: None) -> Search:
    """Rank every query's nearest documents by cosine; ties keep the documents' order."""
    documents = embed_all(model, list(collection.documents.values()), input_type="document", advance=advance)
    queries = embed_all(model, list(collection.queries.values()), input_type="query", advance=advance)
    cosines = np.asarray(queries @ documents.T, dtype=np.float32)
    names = list(collection.documents)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
    rankings = {query: [names[index] for index in row] for query, row in zip(collection.queries, nearest, strict=True)}
    return Search(rankings, cosines)


def rerank(
    model: Reranker,
    collection: Collection,
    rankings: Mapping[str, list[str]],
    *,
    top: int,
    method: str | None,
    advance: Advance = lambda _: None,
) -> Reranking:
    """Put the best `top` of each ranking in the reranker's order; the rest follow as they were."""
    reranked, scores = {}, {}
    for query, ranking in rankings.items():
        head = ranking[:top]
        texts = [collection.documents[name] for name in head]
        lines = model.rerank(collection.queries[query], texts, method=method)
        reranked[query] = [head[line.index] for line in lines] + ranking[top:]
        scores[query] = [line.score for line in lines]
        advance(1)
    return Reranking(reranked, scores)


def score(rankings: Mapping[str, list[str]], relevant: Mapping[str, Relevance]) -> Scores:
    """Score rankings by every metric."""
    measures: Mapping[str, Callable[[Sequence[str], Relevance], float]] = {
        "ndcg@10": lambda ranking, grades: ndcg_at(ranking, grades, 10),
        "recall@10": lambda ranking, grades: recall_at(ranking, grades, 10),
        "recall@100": lambda ranking, grades: recall_at(ranking, grades, 100),
        "mrr@10": lambda ranking, grades: reciprocal_rank(ranking, grades, 10),
    }
    values = {
        name: np.array([measure(ranking, relevant[query]) for query, ranking in rankings.items()])
        for name, measure in measures.items()
    }
    return Scores(values)
