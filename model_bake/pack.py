"""From the quantized graph to encoder.pack: the same weights, laid out for the native engine.

Nothing is quantized anew: what stands in encoder.onnx is copied, under the same names. Only the sums of each product's
columns are added, as `{weight}/sums`, and a residual scale of ones where equalization left a normalization alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from embakery.engines.pack import (
    ALIGNMENT,
    DTYPES,
    MAGIC,
    PREFIX,
    TILE_COLUMNS,
    TILE_ROWS,
    VERSION,
    Pack,
    PackedTensor,
)
from embakery.errors import EncodingError

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def pack_encoder(quantized: onnx.ModelProto, model: Mapping[str, Any], path: Path) -> None:
    """Write the weights of a quantized graph that was built with contract names. model: its architecture and shape.

    Raises EncodingError if what was written does not read back equal: a pack must never differ from its graph.
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    tensors = {name: array for name, array in arrays.items() if array.dtype in (np.int8, np.float32)}
    products = {node.input[1] for node in quantized.graph.node if node.op_type == "MatMulInteger"} & tensors.keys()
    tensors |= {f"{name.removesuffix('/int8')}/sums": tensors[name].sum(axis=0, dtype=np.int32) for name in products}
    norms = [name.removesuffix(".gain") for name in tensors if name.endswith(".norm.gain")]
    tensors = {f"{norm}/residual_scale": np.ones_like(tensors[f"{norm}.gain"]) for norm in norms} | tensors
    write_pack(path, model, tensors, tiled=frozenset(products))
    written = Pack.open(path)
    if not all(np.array_equal(written.matrix(name), array) for name, array in tensors.items()):
        raise EncodingError(f"{path.name}: does not read back as it was written; look at the disk")


def tile(matrix: NDArray[np.int8]) -> NDArray[np.int8]:
    """Bring a matrix s8 (K, N) into the layout `tiles`."""
    rows, columns = matrix.shape
    padded = np.pad(matrix, ((0, -rows % TILE_ROWS), (0, -columns % TILE_COLUMNS)))
    cut = padded.reshape(padded.shape[0] // TILE_ROWS, TILE_ROWS, padded.shape[1] // TILE_COLUMNS, TILE_COLUMNS)
    return np.ascontiguousarray(cut.transpose(2, 0, 3, 1))


def write_pack(
    path: Path, model: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], *, tiled: frozenset[str]
) -> None:
    """Write a pack. tensors: int8, int32 or float32; those named in `tiled` are matrices for the dot product."""
    names = sorted(tensors)
    placed: dict[str, PackedTensor] = {}
    end = 0
    for name in names:
        end += -end % ALIGNMENT
        layout = "tiles" if name in tiled else "rows"
        placed[name] = PackedTensor(_DTYPE_NAMES[tensors[name].dtype], tensors[name].shape, layout, end)
        end += placed[name].room
    facts = {name: asdict(tensor) for name, tensor in placed.items()}
    start = _header_end(model, facts)
    for entry in facts.values():
        entry["offset"] += start
    header = json.dumps({"model": dict(model), "tensors": facts}, sort_keys=True).encode()
    with path.open("wb") as file:
        file.write(PREFIX.pack(MAGIC, VERSION, start - PREFIX.size))
        file.write(header.ljust(start - PREFIX.size))
        for name in names:
            file.write(b"\0" * (facts[name]["offset"] - file.tell()))
            stored = np.ascontiguousarray(tile(tensors[name]) if name in tiled else tensors[name])
            file.write(stored.astype(DTYPES[placed[name].dtype], copy=False).tobytes())
        file.write(b"\0" * (start + end - file.tell()))


def _header_end(model: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """Where data can begin: room for the header with every offset at its longest, up to the next alignment."""
    longest = {name: {**entry, "offset": 1 << 62} for name, entry in facts.items()}
    end = PREFIX.size + len(json.dumps({"model": dict(model), "tensors": longest}, sort_keys=True).encode())
    return end + -end % ALIGNMENT
