"""What may be done to a finished vector: check it, cut it (Matryoshka), write it down."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from embakery.errors import EncodingError, InvalidRequestError

Vector = NDArray[np.float32]
"""One embedding, float32 (dim,)."""

Vectors = NDArray[np.float32]
"""Embeddings, float32 (n, dim)."""

_UNSOUND = "the engine gave NaN, infinity, a zero vector or a wrong length"


def is_sound(vector: Vector, dimension: int) -> bool:
    """Say whether a vector may leave: float32, of the right length, finite and not all zero."""
    return vector.ndim == 1 and _sound_rows(vector[np.newaxis], dimension) == [True]


def check_vectors(vectors: Vectors, dimension: int) -> list[Vector | EncodingError]:
    """Return an engine's vectors (n, dim), each by itself; an error in place of one that must not leave."""
    sound = _sound_rows(vectors, dimension)
    return [vector if good else EncodingError(_UNSOUND) for vector, good in zip(vectors, sound, strict=True)]


def _sound_rows(vectors: Vectors, dimension: int) -> list[bool]:
    if vectors.dtype != np.float32 or vectors.shape[1:] != (dimension,):
        return [False] * len(vectors)
    sound: list[bool] = np.logical_and(np.isfinite(vectors).all(axis=1), vectors.any(axis=1)).tolist()
    return sound


def cut_dimensions(vector: Vector, dimensions: int) -> Vector:
    """Keep the first `dimensions` values and scale them to length 1 (Matryoshka, arXiv 2205.13147)."""
    if dimensions == vector.shape[0]:
        return vector
    head = vector[:dimensions]
    length = np.sqrt(np.square(head).sum(dtype=np.float32), dtype=np.float32)
    if length == 0:
        raise EncodingError(f"the first {dimensions} values are all zero")
    return np.asarray(head / length, dtype=np.float32)


def check_dimensions(dimensions: object, allowed: tuple[int, ...]) -> int:
    """Return a wanted number of dimensions. Raises InvalidRequestError unless the model was trained for it."""
    if isinstance(dimensions, int) and not isinstance(dimensions, bool) and dimensions in allowed:
        return dimensions
    choices = ", ".join(str(choice) for choice in allowed)
    raise InvalidRequestError("dimensions", f"this model gives {choices}")


def to_base64(vector: Vector) -> str:
    """Return the vector's values as base64 of little-endian float32, as the OpenAI API does."""
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def from_base64(text: str) -> Vector:
    """Read what `to_base64` wrote. Raises ValueError on anything else."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32, copy=False)
