"""Engines turn token ids into vectors. One contract: equal ids give equal bits, whatever they are batched with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from embakery.errors import ConfigurationError
from embakery.texts import TokenIds
from embakery.vectors import Vectors

log = logging.getLogger("embakery")


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

    @property
    def name(self) -> str:
        """The engine's name in settings, logs and the manifest."""

    def score(self, ids: Sequence[TokenIds], types: Sequence[TokenIds]) -> Vectors:
        """Return scores of pairs, float32 (n, labels). types: each token's type, of the same lengths as `ids`."""

    def close(self) -> None:
        """Free threads and memory. The scorer cannot be used afterwards."""


def open_engine(model: Path, name: str, threads: int | None) -> Engine:
    """Open an encoder with the engine `name`, or the best one under `auto`, and log which and why."""
    _choose(name)
    from embakery.engines.onnx import OnnxEngine  # by need: .25 s that a caller of the types alone should not pay

    return OnnxEngine(model, threads=threads)


def open_pair_scorer(model: Path, name: str, threads: int | None) -> PairScorer:
    """Open a cross-encoder, as `open_engine` an encoder."""
    _choose(name)
    from embakery.engines.onnx import OnnxPairScorer

    return OnnxPairScorer(model, threads=threads)


def _choose(name: str) -> None:
    if name not in {"auto", "onnx"}:
        raise ConfigurationError(f"engine {name!r} is unknown: use auto or onnx")
    reason = "asked for" if name == "onnx" else "the artifact holds no other"
    log.info("engine", extra={"engine": "onnx", "reason": reason})
