"""Embakery, as its users call it. It sorts, batches and spreads over threads by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.adapters import TextEncoder


def open_encoder(model: Path, threads: int, options: Mapping[str, str]) -> TextEncoder:
    """Open the artifact with the engine that options name."""
    from embakery import Embedder

    return TextEncoder(Embedder.load(model, engine=options["engine"], threads=threads).embed)
