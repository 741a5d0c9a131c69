"""Engines turn token ids into vectors. One contract: equal ids give equal bits, whatever they are batched with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from embakery.texts import TokenIds
from embakery.vectors import Vectors


class Engine(Protocol):
    """Runs one baked encoder. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """The engine's name in settings, logs and the manifest."""

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        """Return sentence vectors, float32 (n, dim), pooled and normalized as the model asks, in the order given."""

    def encode_tokens(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        """Return the last layer's token vectors, float32 (tokens, hidden) for each text, not normalized."""

    def close(self) -> None:
        """Free threads and memory. The engine cannot be used afterwards."""


class PairScorer(Protocol):
    """Runs one baked cross-encoder. Safe to call from several threads."""

    def score(self, ids: Sequence[TokenIds], types: Sequence[TokenIds]) -> Vectors:
        """Return scores of pairs, float32 (n, labels). types: each token's type, of the same lengths as `ids`."""

    def close(self) -> None:
        """Free threads and memory. The scorer cannot be used afterwards."""
