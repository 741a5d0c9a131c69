"""The C library behind a few typed calls. Whatever it refuses becomes an error that says who must act."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embakery.engines.native.plan import Shape, read_plan
from embakery.engines.pack import Pack
from embakery.errors import ArtifactError, ConfigurationError, EncodingError
from embakery.texts import TokenIds
from embakery.vectors import Vectors

ABI = 2
# The most threads that can share a call: team.h's MOST_THREADS.
MOST_THREADS = 64
LIBRARY = "libembakery.dylib" if sys.platform == "darwin" else "libembakery.so"

# ELF's e_machine, as `uname -m` has it.
_MACHINES = {62: "x86_64", 183: "aarch64"}

SENTENCES, TOKENS = 0, 1

# embk_status: what it means, by number.
_PACK_PROBLEMS = {1: "has a shape that no model has", 2: "lacks a tensor, or one ends beyond the file"}
_CALL_PROBLEMS = {
    3: "wrong numbers of texts or tokens",
    4: "a text of no tokens, or of more than the model has positions",
    5: "a token id outside the vocabulary",
    6: "wrong size of the output",
    7: "wrong workspace",
}


class Batch(ctypes.Structure):
    """embakery.h's struct embk_batch."""

    _fields_ = (
        ("ids", ctypes.c_void_p),
        ("types", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("texts", ctypes.c_int32),
        ("tokens", ctypes.c_int32),
    )


class Library:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        """Load it. Raises ConfigurationError if it cannot be had on this machine."""
        try:
            library = ctypes.CDLL(str(path))
            library.embk_isas.restype = ctypes.c_char_p
            if library.embk_abi() != ABI:
                raise OSError(f"it speaks version {library.embk_abi()} of the interface, this is {ABI}")
        except (OSError, AttributeError) as error:
            problem = _other_machine(path) or error
            raise ConfigurationError(f"the native engine's library cannot be loaded: {problem}") from error
        library.embk_open.argtypes = (
            *(ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(Shape), ctypes.c_uint64),
            *(ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)),
        )
        library.embk_close.argtypes = (ctypes.c_void_p,)
        library.embk_close.restype = None
        library.embk_dimension.argtypes = (ctypes.c_void_p,)
        library.embk_workspace_bytes.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)
        library.embk_workspace_bytes.restype = ctypes.c_uint64
        library.embk_encode.argtypes = (
            *(ctypes.c_void_p, ctypes.POINTER(Batch), ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64),
            *(ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int32, ctypes.c_int32),
        )
        library.embk_crew_new.argtypes = (ctypes.c_int32,)
        library.embk_crew_new.restype = ctypes.c_void_p
        for name in ("embk_crew_join", "embk_crew_dismiss"):
            getattr(library, name).argtypes = (ctypes.c_void_p,)
            getattr(library, name).restype = None
        library.embk_crew_encode.argtypes = (ctypes.c_void_p, *library.embk_encode.argtypes[:-2])
        self.calls = library
        self.isas: tuple[str, ...] = tuple(name for name in library.embk_isas().decode().split(",") if name)

    def choose_isa(self, wanted: str | None) -> str:
        """Return the instruction set to use: the wanted one or the best. Raises ConfigurationError."""
        if wanted is None:
            return self.isas[0]
        if wanted not in self.isas:
            raise ConfigurationError(f"EMBAKERY_ISA={wanted}: this machine has {', '.join(self.isas)}")
        return wanted


@functools.cache
def default_library() -> Library:
    """Load, once, the library that was built for this machine, beside this file. Raises ConfigurationError."""
    path = Path(__file__).with_name(LIBRARY)
    if not path.exists():
        raise ConfigurationError("the native engine's library was not built for this machine: pip install builds it")
    return Library(path)


def _other_machine(path: Path) -> str | None:
    """Say if a library is for another kind of machine: the system's loader says only that there is no such file."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError:
        return None
    machine = int.from_bytes(head[18:20], "little")
    if not head.startswith(b"\x7fELF") or _MACHINES.get(machine) == os.uname().machine:
        return None
    built_for = _MACHINES.get(machine, f"ELF machine {machine}")
    return f"it was built for {built_for}, this is {os.uname().machine}; build it for this machine"


class Workspace:
    """Memory for one call at a time, page-aligned. The system gives it as it is first touched."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Private: a shared one would stay shared with a forked process.
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def reset(self) -> None:
        """Make it ready for a team of the caller's own threads."""
        ctypes.memset(self.address, 0, 64)


class Model:
    """A pack opened for one instruction set. Several threads may use it, each call with a workspace of its own."""

    def __init__(self, library: Library, pack: Pack, isa: str) -> None:
        """Open it. Raises ArtifactError if the pack does not hold what the engine needs."""
        plan = read_plan(pack)
        offsets = (ctypes.c_uint64 * len(plan.offsets))(*plan.offsets)
        handle = ctypes.c_void_p()
        status = library.calls.embk_open(
            pack.address,
            pack.size,
            ctypes.byref(plan.shape),
            ctypes.sizeof(Shape),
            offsets,
            len(offsets),
            isa.encode(),
            ctypes.byref(handle),
        )
        if status != 0:
            raise ArtifactError(f"encoder.pack: {_PACK_PROBLEMS.get(status, f'is refused by the engine ({status})')}")
        self._calls, self._handle = library.calls, handle
        self._pack = pack  # mapped as long as the model is open
        self.tells_types = plan.tells_types
        self.hidden = int(plan.shape.hidden)
        self.dimension = int(self._calls.embk_dimension(handle))

    def workspace(self, tokens: int, team: int) -> Workspace:
        """Return a workspace for batches of up to `tokens` tokens and teams of up to `team` threads.

        Raises EncodingError for more than the library can take.
        """
        size = self._calls.embk_workspace_bytes(self._handle, tokens, team)
        if size == 0:
            raise EncodingError(f"the native engine cannot take {tokens} tokens at once, on {team} threads")
        return Workspace(size)

    def encode(self, call: Call, workspace: Workspace, rank: int = 0, team: int = 1) -> None:
        """Do one thread's part of a call. Raises EncodingError for what cannot be encoded."""
        _check(self._calls.embk_encode(*self.arguments(call, workspace), rank, team))

    def arguments(self, call: Call, workspace: Workspace) -> tuple[Any, ...]:
        """Return what the library is told of a call."""
        output = (call.kind, call.output.ctypes.data, call.output.nbytes)
        return (self._handle, ctypes.byref(call.batch), *output, workspace.address, workspace.size)

    def close(self) -> None:
        """Free what the library holds."""
        self._calls.embk_close(self._handle)
        self._handle = ctypes.c_void_p()


class Crew:
    """Threads that wait inside the library to share single calls with the caller's: see embakery.h.

    They are daemons and do not keep the process alive. Those of a crew that is no longer used leave by themselves.
    """

    def __init__(self, library: Library, threads: int) -> None:
        self._calls = library.calls
        self._handle = library.calls.embk_crew_new(threads)
        if self._handle is None:
            raise ConfigurationError(f"{threads + 1} threads cannot share a text")
        self.dismiss = weakref.finalize(self, _dismiss, self._calls, self._handle, os.getpid())
        self.dismiss.atexit = False  # threads that sleep in the library end with the process
        for _ in range(threads):
            join = threading.Thread(target=self._calls.embk_crew_join, args=(self._handle,), name="encode-crew")
            join.daemon = True
            join.start()

    def encode(self, model: Model, call: Call, workspace: Workspace) -> None:
        """Do a whole call. One at a time. Raises EncodingError for what cannot be encoded."""
        _check(self._calls.embk_crew_encode(self._handle, *model.arguments(call, workspace)))


def _dismiss(calls: ctypes.CDLL, handle: int, process: int) -> None:
    # In a forked process the parent's crew has no threads, and its lock may be held by nobody for ever.
    if os.getpid() == process:
        calls.embk_crew_dismiss(handle)


class Call:
    """A batch as the library reads it, and room for what comes out: float32 (texts, dim) or (tokens, hidden)."""

    def __init__(self, model: Model, ids: Sequence[TokenIds], types: Sequence[TokenIds] | None, kind: int) -> None:
        self.kind = kind
        self.lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        tokens = int(self.lengths.sum())
        self._ids = _flat(ids, tokens)
        if types is not None and list(map(len, types)) != self.lengths.tolist():
            raise EncodingError("token types of other lengths than the texts")
        self._types = None if types is None else _flat(types, tokens)
        rows, columns = (len(ids), model.dimension) if kind == SENTENCES else (tokens, model.hidden)
        self.output: Vectors = np.empty((rows, columns), dtype=np.float32)
        self.batch = Batch(
            self._ids.ctypes.data,
            None if self._types is None else self._types.ctypes.data,
            self.lengths.ctypes.data,
            len(ids),
            tokens,
        )


def _check(status: int) -> None:
    if status != 0:
        raise EncodingError(f"the native engine refuses the input: {_CALL_PROBLEMS.get(status, status)}")


def _flat(rows: Sequence[TokenIds], count: int) -> NDArray[np.int32]:
    try:
        return np.fromiter(chain.from_iterable(rows), np.int32, count)
    except (OverflowError, ValueError) as error:
        raise EncodingError("a token id or type that is no 32-bit number") from error
