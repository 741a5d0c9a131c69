"""encoder.pack: the baked weights as the native engine reads them, memory-mapped.

    8 bytes   magic EMBKPACK
    4 bytes   format version, u32 little-endian
    4 bytes   header length in bytes, u32 little-endian
    header    JSON: {"model": {...}, "tensors": {name: {"dtype", "shape", "layout", "offset"}}}, padded with spaces
    data      little-endian tensors, each at a multiple of 64 bytes from the file's start

dtype is `s8`, `s32` or `f32`. layout is `rows`, plain row-major, or `tiles`: a matrix (K, N) of s8 cut into tiles of 64
columns, in each tile groups of 4 rows, in each group the 4 values of a column side by side: [N/64][K/4][64][4], filled
up with zeros. A 64-byte line then holds what one int8 dot product of 16 lanes takes. `shape` is that of the matrix.
Rows of f32 and s32 are followed by zeros up to a multiple of 64 elements, so that whole tiles of columns can be read.

What an engine does with the tensors is spelt out, in numpy, by tests/bake/test_pack_forward.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embakery.errors import ArtifactError

MAGIC = b"EMBKPACK"
VERSION = 2
ALIGNMENT = 64
TILE_COLUMNS = 64
TILE_ROWS = 4

PREFIX = struct.Struct("<8sII")
DTYPES: Mapping[str, np.dtype[Any]] = {"s8": np.dtype(np.int8), "s32": np.dtype("<i4"), "f32": np.dtype("<f4")}


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A tensor's place in the file. shape: of the matrix, whatever its layout."""

    dtype: str
    shape: tuple[int, ...]
    layout: str
    offset: int

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the bytes in the file."""
        if self.layout == "rows":
            return self.shape
        rows, columns = self.shape
        return (-(-columns // TILE_COLUMNS), -(-rows // TILE_ROWS), TILE_COLUMNS, TILE_ROWS)

    @property
    def size(self) -> int:
        """Bytes of its values in the file."""
        return prod(self.stored_shape) * DTYPES[self.dtype].itemsize

    @property
    def room(self) -> int:
        """Bytes that it takes in the file, with the zeros that fill up a tile of columns."""
        elements = prod(self.stored_shape)
        filled = elements if self.dtype == "s8" else elements + -elements % TILE_COLUMNS
        return filled * DTYPES[self.dtype].itemsize


class Pack:
    """An opened encoder.pack. `model` says its architecture and shape."""

    def __init__(self, data: NDArray[np.uint8], model: Mapping[str, Any], tensors: Mapping[str, PackedTensor]) -> None:
        self.model = model
        self.tensors = tensors
        self._data = data

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Map a file. Raises ArtifactError if it is not a whole pack of this format."""
        try:
            data: NDArray[np.uint8] = np.memmap(path, mode="r", dtype=np.uint8)
            magic, version, length = PREFIX.unpack(data[: PREFIX.size].tobytes())
            header = json.loads(data[PREFIX.size : PREFIX.size + length].tobytes()) if magic == MAGIC else {}
            tensors = {
                str(name): PackedTensor(facts["dtype"], tuple(facts["shape"]), facts["layout"], facts["offset"])
                for name, facts in header["tensors"].items()
            }
            model = dict(header["model"])
            whole = all(_fits(tensor, data.size) for tensor in tensors.values())
        except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError) as error:
            raise ArtifactError(f"{path.name}: is not a pack that can be read") from error
        if version != VERSION or not whole:
            raise ArtifactError(f"{path.name}: is not a whole pack of version {VERSION}")
        return cls(data, model, tensors)

    @property
    def address(self) -> int:
        """Where the file is mapped."""
        return int(self._data.ctypes.data)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self._data.size)

    def tensor(self, name: str) -> NDArray[Any]:
        """Return a tensor as it is stored, without copying: s8 or float32, of `stored_shape`."""
        facts = self.tensors[name]
        raw = self._data[facts.offset : facts.offset + facts.size]
        return raw.view(DTYPES[facts.dtype]).reshape(facts.stored_shape)

    def matrix(self, name: str) -> NDArray[Any]:
        """Return a tensor in its own shape; tiles are put back into rows, in a copy."""
        facts, stored = self.tensors[name], self.tensor(name)
        if facts.layout == "rows":
            return stored
        rows, columns = facts.shape
        return stored.transpose(1, 3, 0, 2).reshape(stored.shape[1] * TILE_ROWS, -1)[:rows, :columns]


def _fits(tensor: PackedTensor, size: int) -> bool:
    is_known = tensor.dtype in DTYPES and tensor.layout in {"rows", "tiles"}
    if not is_known or (tensor.layout == "tiles" and len(tensor.shape) != 2):
        return False
    sides: tuple[object, ...] = (*tensor.shape, tensor.offset)
    if not all(isinstance(side, int) and side >= 0 for side in sides):
        return False
    return tensor.offset % ALIGNMENT == 0 and tensor.offset + tensor.room <= size
