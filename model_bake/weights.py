"""Read a checkpoint's tensors from safetensors files, one at a time, as float32.

Weights are in `model.safetensors`, or in the shards that `model.safetensors.index.json` names. Pickled weights are
never opened: reading them could run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from embakery.errors import ConfigurationError
from model_bake.files import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

Floats = NDArray[np.float32]
Shape = tuple[int, ...]

# safetensors' names; anything else is an integer or an 8-bit float, so a quantized checkpoint.
_FLOATS = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies, its safetensors dtype (F32, BF16, ...) and its shape."""

    file: Path
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a model folder by name. Only headers are read until `read` is called."""

    folder: Path
    tensors: Mapping[str, StoredTensor]

    def check(self, name: str, shape: Shape) -> None:
        """Raise ConfigurationError unless the tensor is there, in this shape, in floating point."""
        stored = self.tensors.get(name)
        if stored is None:
            raise ConfigurationError(
                f"{self.folder}: tensor {name} {list(shape)} is missing; the weights are not those of config.json"
            )
        if stored.dtype not in _FLOATS:
            raise ConfigurationError(
                f"{stored.file}: tensor {name} is {stored.dtype}, a quantized checkpoint; "
                "bake the original in fp32, fp16, bf16 or fp64"
            )
        if stored.shape != shape:
            raise ConfigurationError(
                f"{stored.file}: tensor {name} has the shape {list(stored.shape)}, config.json wants {list(shape)}"
            )

    def stored_name(self, name: str) -> str:
        """Return the name that a layer norm's weight or bias had before 2019, if only that one is there."""
        for new, old in (("orm.weight", "orm.gamma"), ("orm.bias", "orm.beta")):
            before = name.removesuffix(new) + old
            if name.endswith(new) and name not in self.tensors and before in self.tensors:
                return before
        return name

    def refuse_unknown(self, prefixes: tuple[str, ...], known: set[str]) -> None:
        """Raise ConfigurationError for a tensor under these prefixes that nobody would read."""
        for name in self.tensors:
            if name.startswith(prefixes) and name not in known:
                raise ConfigurationError(
                    f"{self.folder}: tensor {name} is no part of this model_type; bake a model without additions"
                )

    def read(self, name: str) -> Floats:
        """Read one tensor as float32. Raises ConfigurationError if any element is NaN or infinite."""
        stored = self.tensors[name]
        with _opened(stored.file) as file:
            values = np.asarray(file.get_tensor(name)).astype(_FLOATS[stored.dtype], copy=False)
        # fp64 beyond float32's range becomes infinite, and is refused as that.
        with np.errstate(over="ignore"):
            floats = values.astype(np.float32)
        if not np.isfinite(floats).all():
            raise ConfigurationError(
                f"{stored.file}: tensor {name} holds NaN or infinity; download it again or repair it"
            )
        return floats


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of a folder's safetensors files. Raises ConfigurationError."""
    if (folder / WEIGHTS).is_file():
        return Checkpoint(folder, _header(folder / WEIGHTS))
    if (folder / INDEX).is_file():
        return Checkpoint(folder, _sharded(folder))
    if any(folder.glob("pytorch_model*.bin")):
        raise ConfigurationError(f"{folder}: pickled weights are refused: convert to safetensors ({WEIGHTS})")
    raise ConfigurationError(f"{folder}: no {WEIGHTS} and no {INDEX}; name a folder that holds a model")


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    index = folder / INDEX
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise ConfigurationError(f"{index}: weight_map must map tensor names to file names; download it again")
    for name in sorted(set(where.values())):
        # A shard lies beside its index: a path could read any file of this machine.
        if not name.endswith(".safetensors") or any(mark in name for mark in "/\\\0"):
            raise ConfigurationError(f"{index}: shard {name!r} is not a plain file name ending in .safetensors")
        if not (folder / name).is_file():
            raise ConfigurationError(f"{index}: shard {name} is missing; download the model again")
    shards = {name: _header(folder / name) for name in sorted(set(where.values()))}
    for tensor, name in where.items():
        if tensor not in shards[name]:
            raise ConfigurationError(f"{index}: shard {name} does not hold tensor {tensor}; download the model again")
    return {tensor: shards[name][tensor] for tensor, name in where.items()}


def _header(path: Path) -> dict[str, StoredTensor]:
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        return {
            name: StoredTensor(path, str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()
        }


def _opened(path: Path) -> Any:
    """Open a safetensors file; the library checks that header, offsets and length agree."""
    try:
        return safe_open(str(path), framework="np")
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(f"{path}: is broken or truncated ({error}); download it again") from error
