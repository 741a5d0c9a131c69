"""How close the baked model is to the fp32 original, in numbers, and whether its bits hold still."""

from __future__ import annotations

import math
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embakery.engines import Engine
from embakery.texts import TokenIds
from embakery.vectors import Vectors
from evaluation.metrics import unit_rows
from model_bake import corpus
from model_bake.samples import SEED, Sample

NEIGHBOURS = 10
_ENCODED_AT_ONCE = 64
_VERSIONS = ("numpy", "onnx", "onnxruntime", "optimum-onnx", "sentence-transformers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What was measured of an encoder, a row for each text.

    cosines: to the fp32 vector, float32 (n,). lengths: in tokens, int32 (n,). overlaps: share of the ten nearest
    neighbours among the other texts that both have, float32 (n,). invariant: whether its bits alone and together agree.
    """

    kinds: tuple[str, ...]
    lengths: NDArray[np.int32]
    cosines: Vectors
    overlaps: Vectors
    invariant: NDArray[np.bool_]


def measure(reference: Engine, baked: Engine, samples: Sequence[Sample]) -> Fidelity:
    """Encode the samples with the fp32 graph and the baked one."""
    ids = [sample.ids for sample in samples]
    original, ours = encode(reference, ids), encode(baked, ids)
    alone = [baked.encode([one])[0].tobytes() for one in ids]
    return Fidelity(
        kinds=tuple(sample.kind for sample in samples),
        lengths=np.array([len(one) for one in ids], dtype=np.int32),
        cosines=cosine(ours, original),
        overlaps=neighbour_overlap(ours, original),
        invariant=np.array([bits == row.tobytes() for bits, row in zip(alone, ours, strict=True)]),
    )


def encode(engine: Engine, ids: Sequence[TokenIds]) -> Vectors:
    """Encode in slices that mix all lengths, float32 (n, dim)."""
    slices = [engine.encode(ids[start : start + _ENCODED_AT_ONCE]) for start in range(0, len(ids), _ENCODED_AT_ONCE)]
    return np.concatenate(slices)


def cosine(left: Vectors, right: Vectors) -> Vectors:
    """Return the cosine of each pair of rows, float32 (n,). A NaN or zero row gives NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((_unit(left) * _unit(right)).sum(axis=1), dtype=np.float32)


def neighbour_overlap(left: Vectors, right: Vectors, *, count: int = NEIGHBOURS) -> Vectors:
    """Return, for each row, the share of its nearest rows by cosine that are the same on both sides, float32 (n,)."""
    near_left, near_right = _nearest(left, count), _nearest(right, count)
    shared = [len(set(a) & set(b)) for a, b in zip(near_left.tolist(), near_right.tolist(), strict=True)]
    return np.array(shared, dtype=np.float32) / np.float32(near_left.shape[1])


def summarize(fidelity: Fidelity) -> dict[str, Any]:
    """Return the certificate's figures: over all texts, by kind and by length in tokens."""
    kinds, lengths = np.array(fidelity.kinds), fidelity.lengths
    edges = [0, 8, 16, 32, 64, 128, 256, 512, 1 << 30]
    buckets = {
        f"{low + 1}-{high}" if high < 1 << 30 else f"{low + 1}+": (lengths > low) & (lengths <= high)
        for low, high in pairwise(edges)
    }
    return {
        "inputs": len(kinds),
        "tokens": {"mean": round(float(lengths.mean()), 1), "max": int(lengths.max())},
        "cosine": spread(fidelity.cosines),
        "cosine_by_kind": {kind: spread(fidelity.cosines[kinds == kind]) for kind in dict.fromkeys(fidelity.kinds)},
        "cosine_by_tokens": {
            name: spread(fidelity.cosines[chosen]) for name, chosen in buckets.items() if chosen.any()
        },
        "neighbour_overlap_at_10": round(float(fidelity.overlaps.mean()), 4),
        "batch_invariant": int(fidelity.invariant.sum()),
    }


def circumstances() -> dict[str, Any]:
    """Say on what and with what a certificate was measured. Memory is a ceiling in whole GiB: so it holds still."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "documentation": corpus.describe(),
        "seed": SEED,
        "machine": platform.machine(),
        "versions": {name: found for name in _VERSIONS if (found := _version(name)) is not None},
        "peak_memory_gib_below": math.ceil(peak / 2**30),
    }


def spread(values: Vectors) -> dict[str, float]:
    """Return mean, first percentile and minimum."""
    figures = {"mean": values.mean(), "p1": np.quantile(values, 0.01), "min": values.min()}
    return {name: round(float(figure), 6) for name, figure in figures.items()}


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    return unit_rows(vectors.astype(np.float64))


def _nearest(vectors: Vectors, count: int) -> NDArray[np.int64]:
    """The nearest other rows, best first, int64 (n, count); ties by place."""
    unit = _unit(vectors)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -np.inf)
    # Rounded: equal texts must not be told apart by the last bit of a sum.
    return np.argsort(-np.round(similarities, 12), axis=1, kind="stable")[:, : min(count, len(vectors) - 1)]


def _version(name: str) -> str | None:
    """Only of packages that took part: those that were imported."""
    module = name.replace("-", "_").replace("optimum_onnx", "optimum")
    if module not in sys.modules:
        return None
    try:
        return version(name)
    except PackageNotFoundError:
        return None
