"""What the library's C functions are given: right, until a test changes it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embakery.engines.native.library import SENTENCES, Batch, Call, Model, default_library
from embakery.engines.native.plan import Shape, read_plan
from embakery.engines.pack import Pack
from embakery.texts import TokenIds
from embakery.vectors import Vectors

# embk_status.
OK, BAD_SHAPE, BAD_PACK, BAD_INPUT, BAD_LENGTH, BAD_TOKEN, BAD_OUTPUT, BAD_WORKSPACE, NO_MEMORY, BAD_ISA = range(10)

MOST, LEAST = 2**31 - 1, -(2**31)
MUTATIONS = 3000
CANARY = 0x5A

ISAS = default_library().isas


def aligned(size: int) -> NDArray[np.uint8]:
    """Memory at a multiple of 64 bytes, with 64 bytes of canary behind it."""
    memory = np.full(size + 128, CANARY, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size + 64]


class Opening:
    """What embk_open is given: right, until a test changes it."""

    def __init__(self, path: Path) -> None:
        plan = read_plan(Pack.open(path))
        self.shape = Shape.from_buffer_copy(plan.shape)
        self.offsets = list(plan.offsets)
        data = np.fromfile(path, np.uint8)
        self.pack, self.size, self.shift = aligned(len(data)), len(data), 0
        self.pack[: len(data)] = data
        self.isa: bytes | None = b"scalar"
        self.shape_bytes, self.count = ctypes.sizeof(Shape), len(self.offsets)
        self.nulls: set[str] = set()

    def open(self) -> tuple[int, ctypes.c_void_p]:
        """Return the status and the model."""
        handle = ctypes.c_void_p(1)
        given: dict[str, Any] = {
            "pack": self.pack.ctypes.data + self.shift,
            "shape": ctypes.byref(self.shape),
            "offsets": (ctypes.c_uint64 * len(self.offsets))(*self.offsets),
            "model": ctypes.byref(handle),
        }
        given |= dict.fromkeys(self.nulls)
        status = default_library().calls.embk_open(
            *(given["pack"], self.size, given["shape"], self.shape_bytes),
            *(given["offsets"], self.count, self.isa, given["model"]),
        )
        return int(status), handle

    def status(self) -> int:
        """Try it, and close what may have been opened."""
        status, handle = self.open()
        assert (status == OK) == bool(handle.value) or "model" in self.nulls or handle.value == 1
        if status == OK:
            default_library().calls.embk_close(handle)
        return status


class Encoding:
    """What embk_encode is given: right, until a test changes it. All memory is as large as is said, and no larger."""

    def __init__(self, handle: ctypes.c_void_p, dimension: int, ids: Sequence[int], lengths: Sequence[int]) -> None:
        self.handle: ctypes.c_void_p | None = handle
        self.ids, self.lengths = list(ids), list(lengths)
        self.types: list[int] | None = None
        self.texts, self.tokens = len(lengths), len(ids)
        self.kind, self.rank, self.team = SENTENCES, 0, 1
        self.output_bytes = len(lengths) * dimension * 4
        self.workspace_bytes = int(default_library().calls.embk_workspace_bytes(handle, len(ids), 1))
        self.shift = 0
        self.nulls: set[str] = set()

    def status(self) -> int:
        """Call it. Fails if a byte behind the output or the workspace was written."""
        ids, lengths = np.array(self.ids, np.int32), np.array(self.lengths, np.int32)
        types = None if self.types is None else np.array(self.types, np.int32)
        workspace, output = aligned(self.workspace_bytes), aligned(self.output_bytes)
        batch = Batch(
            None if "ids" in self.nulls else ids.ctypes.data,
            None if types is None else types.ctypes.data,
            None if "lengths" in self.nulls else lengths.ctypes.data,
            self.texts,
            self.tokens,
        )
        status = default_library().calls.embk_encode(
            None if "model" in self.nulls else self.handle,
            None if "batch" in self.nulls else ctypes.byref(batch),
            self.kind,
            None if "output" in self.nulls else output.ctypes.data,
            self.output_bytes,
            None if "workspace" in self.nulls else workspace.ctypes.data + self.shift,
            *(self.workspace_bytes, self.rank, self.team),
        )
        for memory in (workspace, output):
            assert (memory[-64:] == CANARY).all()
        return int(status)


def sentences(model: Model, texts: Sequence[TokenIds], fill: int = 0, kind: int = SENTENCES) -> Vectors:
    """Encode in a workspace that is full of one byte."""
    call = Call(model, texts, None, kind)
    workspace = model.workspace(call.batch.tokens, 1)
    ctypes.memset(workspace.address, fill, workspace.size)
    model.encode(call, workspace)
    return call.output


def digest_of(vectors: Vectors) -> bytes:
    return sha256(vectors.tobytes()).digest()
