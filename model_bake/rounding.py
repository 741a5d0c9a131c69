"""Rounding to eight bits: tensors, activations, and weights so that a layer's *output* stays.

Notation: A (n, k) are the inputs that a layer will really see, of already quantized layers before it and rounded to u8
themselves; W (k, n_out) are its weights. GPTQ (arXiv 2210.17323) rounds W row by row and pushes each row's error onto
the rows not yet rounded, which minimizes tr(E^T H E), H being the covariance of A. The covariance, not the second
moment: the mean error goes into the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.int8]

LEVELS = 255
PEAK = 127
# A row of equal activations would divide 0 by 0: with the smallest useful span it quantizes to all zeros.
SMALLEST_SPAN = 1e-20
# Rows rounded before their errors are pushed to all the rest in one product: the paper's lazy batches.
_BLOCK = 128


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A symmetric int8 tensor and the scales that undo it: `values * scale`, scale along one axis."""

    values: Bytes
    scale: Floats


def quantize_symmetric(weight: Floats, *, axis: int) -> QuantizedWeight:
    """Quantize to s8 in -127..127 with one absmax scale for each index along the *other* axis of a matrix.

    `axis` is the one reduced over: 0 gives a scale per column (output channel), 1 per row. An all-zero channel gets
    scale 1, so that it stays exactly zero.
    """
    scale = absmax_scale(weight, axis=axis)
    values = np.clip(np.rint(weight / np.expand_dims(scale, axis)), -PEAK, PEAK).astype(np.int8)
    return QuantizedWeight(values, scale)


def absmax_scale(weight: Floats | Doubles, *, axis: int) -> Floats:
    """Return the scale that maps the largest magnitude along `axis` to 127; 1 where everything is zero."""
    peak = np.abs(weight).max(axis=axis)
    return np.where(peak > 0, peak / np.float32(PEAK), np.float32(1)).astype(np.float32)


def round_rows(x: Floats) -> Floats:
    """Return activations (n, k) as they come back from u8 with a scale and an offset for each row."""
    low = x.min(axis=1, keepdims=True)
    span = np.maximum(x.max(axis=1, keepdims=True) - low, np.float32(SMALLEST_SPAN))
    rounded = np.rint((x - low) * (np.float32(LEVELS) / span))
    rounded *= span / np.float32(LEVELS)
    rounded += low
    return np.asarray(rounded, dtype=np.float32)


def covariance(inputs: Floats, *, ridge: float) -> Doubles:
    """Return the covariance, float64 (k, k), of a layer's inputs (n, k), with a ridge relative to its mean diagonal."""
    width = inputs.shape[1]
    centred = inputs - inputs.mean(axis=0, dtype=np.float64).astype(np.float32)
    matrix = (centred.T @ centred).astype(np.float64) / len(centred)
    # A channel that never varies has no curvature of its own: the ridge alone keeps it where it is.
    matrix[np.diag_indices(width)] += ridge * max(float(np.trace(matrix)) / width, SMALLEST_SPAN)
    return np.asarray(matrix, dtype=np.float64)


def round_gptq(weight: Doubles, scale: Floats, hessian: Doubles) -> Bytes:
    """Round (k, n) weights to s8 on a given grid of one scale (n,) per column, minimizing tr(E^T H E)."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    left = weight[order] / scale
    values = np.empty_like(left)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        errors = np.empty_like(left[start:stop])
        for row in range(start, stop):
            values[row] = np.clip(np.rint(left[row]), -PEAK, PEAK)
            errors[row - start] = (left[row] - values[row]) / factor[row, row]
            left[row + 1 : stop] -= np.outer(factor[row, row + 1 : stop], errors[row - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    result = np.empty(weight.shape, dtype=np.int8)
    result[order] = values.astype(np.int8)
    return result
