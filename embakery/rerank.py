"""Rerank. Late interaction needs no second model, only the encoder's own token vectors.

The score of a document is the mean, over the query's tokens, of the best cosine with any of the document's tokens;
special tokens are left out. This is ColBERT's MaxSim (arXiv 2004.12832), as a mean so that it lies in -1..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embakery.errors import DeadlineExceededError, EncodingError, InvalidRequestError
from embakery.rounds import Deadline, Pace
from embakery.texts import TokenizedText
from embakery.vectors import Vectors

RERANK_METHODS = ("late-interaction", "cross-encoder")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document's place in the request and its score; higher is better."""

    index: int
    score: float


def late_interaction_scores(
    query: TokenizedText,
    query_vectors: Vectors,
    documents: Sequence[TokenizedText],
    document_vectors: Sequence[Vectors],
) -> list[float]:
    """Score documents for a query. Vectors are float32 (tokens, hidden) for each text, special tokens included."""
    asked = _unit_tokens(query, query_vectors)
    return [
        _mean_of_best(asked, _unit_tokens(item, vectors))
        for item, vectors in zip(documents, document_vectors, strict=True)
    ]


def score_in_rounds(
    lengths: Sequence[int], score: Callable[[list[int]], list[float]], pace: Pace, deadline: Deadline | None
) -> list[float]:
    """Score candidates of so many tokens each, some at a time, given by index.

    Raises DeadlineExceededError when time runs out between rounds: half a ranking is none.
    """
    scores: list[float] = []
    for batch in pace.rounds(lengths, deadline):
        scores += score(batch)
    if len(scores) < len(lengths):
        raise DeadlineExceededError("no time left to rerank")
    return scores


def rank(scores: Sequence[float], *, top_n: int | None) -> list[Ranked]:
    """Return the best `top_n` (all if None), best first; ties keep the request's order."""
    ranked = sorted((Ranked(index, score) for index, score in enumerate(scores)), key=lambda line: -line.score)
    return ranked[:top_n]


def check_top_n(top_n: object) -> int | None:
    """Return `top_n`. Raises InvalidRequestError unless it is None or a positive whole number."""
    if top_n is None or (isinstance(top_n, int) and not isinstance(top_n, bool) and top_n >= 1):
        return top_n
    raise InvalidRequestError("top_n", "must be a whole number of at least 1")


def _unit_tokens(item: TokenizedText, vectors: Vectors) -> Vectors:
    """Drop special tokens and scale the others to length 1. A text of special tokens alone keeps them."""
    own = np.array([not special for special in item.special])
    kept = vectors[own] if own.any() else vectors
    lengths = np.sqrt(np.square(kept).sum(axis=1, keepdims=True))
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise EncodingError("the engine gave NaN, infinity or a zero token vector")
    return np.asarray(kept / lengths, dtype=np.float32)


def _mean_of_best(query: Vectors, document: Vectors) -> float:
    return float((query @ document.T).max(axis=1).mean())
