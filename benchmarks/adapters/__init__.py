"""Systems under measurement, each behind the same call. Every module runs in its own system's environment.

A module offers `open_encoder(model, threads, options) -> Encoder`, called by position: model is the folder that
models.py made for it, options come from the system's entry in systems.py. Imports of a peer's library stand inside
functions: the project's own environment holds none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MAX_TOKENS = 256
# The first is where the search begins.
BATCH_SIZES = (16, 4, 8, 32)

Vectors = NDArray[np.float32]
# What was chosen for a corpus: `batch_size`, `streams` and the like.
Setting = Mapping[str, Any]
# The values to try for each of a setting's names.
Axes = Mapping[str, Sequence[Any]]


class Encoder(Protocol):
    """A loaded model."""

    @property
    def axes(self) -> Axes:
        """What the warm-up may choose; empty where the system chooses for itself."""

    def encode(self, texts: Sequence[str], setting: Setting) -> Vectors:
        """Return float32 (n, dim), mean-pooled, of length 1, in the order given. Tokenizing is part of it."""


class TextEncoder:
    """A library that takes texts and gives vectors. embed: (texts, **setting) -> float32 (n, dim)."""

    def __init__(self, embed: Callable[..., Any], **axes: Sequence[Any]) -> None:
        self.axes: Axes = axes
        self._embed = embed

    def encode(self, texts: Sequence[str], setting: Setting) -> Vectors:
        """Return float32 (n, dim)."""
        return np.asarray(self._embed(list(texts), **setting), dtype=np.float32)
