"""Engines turn token ids into vectors. One contract: equal ids give equal bits, whatever they are batched with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from embakery.artifact import ENCODER, PACK, Artifact
from embakery.errors import ConfigurationError
from embakery.texts import TokenIds
from embakery.vectors import Vectors

log = logging.getLogger("embakery")

ENGINES = ("auto", "native", "onnx")


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
        """Free threads and memory. Not while a call runs; the engine cannot be used afterwards."""


class PairScorer(Protocol):
    """Runs one baked cross-encoder. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """The engine's name in settings, logs and the manifest."""

    def score(self, ids: Sequence[TokenIds], types: Sequence[TokenIds]) -> Vectors:
        """Return scores of pairs, float32 (n, labels). types: each token's type, of the same lengths as `ids`."""

    def close(self) -> None:
        """Free threads and memory. Not while a call runs; the scorer cannot be used afterwards."""


def open_engine(artifact: Artifact, name: str, threads: int | None) -> Engine:
    """Open an encoder with the engine `name`, or the best one under `auto`, and log which and why.

    Raises ConfigurationError if the engine is unknown or cannot be had here, ArtifactError if its file cannot be used.
    """
    return encoder_of(artifact.path, _choose(artifact, name), threads=threads)


def open_pair_scorer(artifact: Artifact, name: str, threads: int | None) -> PairScorer:
    """Open a cross-encoder, as `open_engine` an encoder."""
    return pair_scorer_of(artifact.path, _choose(artifact, name), threads=threads)


def encoder_of(folder: Path, engine: str, *, threads: int | None = None) -> Engine:
    """Open a baked folder's encoder with the engine `native` or `onnx`."""
    # By need: a caller of the types alone should not pay for onnxruntime's .25 s.
    if engine == "native":
        from embakery.engines.native.engine import NativeEngine

        return NativeEngine(folder / PACK, threads=threads)
    from embakery.engines.onnx import OnnxEngine

    return OnnxEngine(folder / ENCODER, threads=threads)


def pair_scorer_of(folder: Path, engine: str, *, threads: int | None = None) -> PairScorer:
    """Open a baked folder's cross-encoder, as `encoder_of` an encoder."""
    if engine == "native":
        from embakery.engines.native.engine import NativePairScorer

        return NativePairScorer(folder / PACK, threads=threads)
    from embakery.engines.onnx import OnnxPairScorer

    return OnnxPairScorer(folder / ENCODER, threads=threads)


def _choose(artifact: Artifact, name: str) -> str:
    """Return `native` or `onnx`."""
    if name not in ENGINES:
        raise ConfigurationError(f"engine {name!r} is unknown: use {', '.join(ENGINES)}")
    problem = None if name == "onnx" else _native_problem(artifact)
    if name == "native" and problem is not None:
        raise ConfigurationError(f"engine native: {problem}")
    chosen = "onnx" if name == "onnx" or problem is not None else "native"
    if chosen == "onnx" and "onnx" not in artifact.engines:
        why = "" if problem is None else f"; the native one cannot serve either: {problem}"
        raise ConfigurationError(f"engine onnx: the artifact holds no files for it{why}")
    reason = "asked for" if name == chosen else problem or "the artifact and this machine have it"
    log.info("engine", extra={"engine": chosen, "reason": reason})
    return chosen


def _native_problem(artifact: Artifact) -> str | None:
    """Say why the native engine cannot serve, if it cannot."""
    if "native" not in artifact.engines:
        return "the artifact holds no files for it"
    from embakery.engines.native.library import default_library

    try:
        default_library()
    except ConfigurationError as error:
        return str(error)
    return None
