"""Batches in, vectors out: chunks for threads, or one chunk for a team of them."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embakery.engines.native.library import (
    MOST_THREADS,
    SENTENCES,
    TOKENS,
    Call,
    Crew,
    Model,
    Workspace,
    default_library,
)
from embakery.engines.pack import Pack
from embakery.errors import ConfigurationError, EncodingError
from embakery.texts import TokenIds
from embakery.vectors import Vectors

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# As many tokens as share the weights that pass through the cache once. See docs/roofline.md.
CHUNK_TOKENS = 512
# Fewer take less time alone, about 2 ms, than a sleeping core may take to wake up.
SHARED_TOKENS = 48


class NativeEngine:
    """A packed encoder. Safe to call from several threads, and after a fork."""

    name = "native"

    def __init__(
        self, pack: Path, *, threads: int | None = None, isa: str | None = None, chunk_tokens: int = CHUNK_TOKENS
    ) -> None:
        self._runner = _Runner(pack, threads=threads, isa=isa, chunk_tokens=chunk_tokens)

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._runner.isa

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        """Return sentence vectors, float32 (n, dim). Raises EncodingError for what the model cannot take."""
        return self._runner.sentences(batch, None)

    def encode_tokens(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        """Return token vectors, float32 (tokens, hidden) for each text."""
        return self._runner.tokens(batch)

    def close(self) -> None:
        """Stop the threads and free the model."""
        self._runner.close()


class NativePairScorer:
    """A packed cross-encoder. Safe to call from several threads, and after a fork."""

    name = "native"

    def __init__(self, pack: Path, *, threads: int | None = None, isa: str | None = None) -> None:
        self._runner = _Runner(pack, threads=threads, isa=isa, chunk_tokens=CHUNK_TOKENS)

    def score(self, ids: Sequence[TokenIds], types: Sequence[TokenIds]) -> Vectors:
        """Return scores of pairs, float32 (n, labels). types: each token's type, of the same lengths as `ids`."""
        return self._runner.sentences(ids, types if self._runner.tells_types else None)

    def close(self) -> None:
        """Stop the threads and free the model."""
        self._runner.close()


class _Runner:
    """An opened model, the threads that work on it and their workspaces."""

    def __init__(self, pack: Path, *, threads: int | None, isa: str | None, chunk_tokens: int) -> None:
        self._library = default_library()
        self.isa = self._library.choose_isa(isa or os.environ.get("EMBAKERY_ISA") or None)
        self._model = Model(self._library, Pack.open(pack), self.isa)
        if threads is not None and threads < 1:
            raise ConfigurationError(f"{threads} threads cannot encode: give at least 1")
        self._threads = min(threads or _usable_cores(), MOST_THREADS)
        self._chunk_tokens = chunk_tokens
        self._free: list[Workspace] = []
        self._closed = False
        self.begin_without_threads()
        os.register_at_fork(after_in_child=functools.partial(_after_fork, weakref.ref(self)))

    def begin_without_threads(self) -> None:
        """Also in a forked process: it has none of its parent's threads, and held locks are held by nobody there."""
        self._team, self._starting = threading.Lock(), threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._crew: Crew | None = None

    @property
    def tells_types(self) -> bool:
        return self._model.tells_types

    def sentences(self, ids: Sequence[TokenIds], types: Sequence[TokenIds] | None) -> Vectors:
        output = np.empty((len(ids), self._model.dimension), dtype=np.float32)
        for chunk, call in self._run(ids, types, SENTENCES):
            output[chunk] = call.output
        return output

    def tokens(self, ids: Sequence[TokenIds]) -> list[Vectors]:
        output: list[Vectors] = [np.empty((0, self._model.hidden), np.float32)] * len(ids)
        for chunk, call in self._run(ids, None, TOKENS):
            for index, part in zip(chunk, np.split(call.output, np.cumsum(call.lengths)[:-1]), strict=True):
                output[index] = part
        return output

    def close(self) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
        if self._crew is not None:
            self._crew.dismiss()
        self._pool = self._crew = None
        self._model.close()

    def _run(
        self, ids: Sequence[TokenIds], types: Sequence[TokenIds] | None, kind: int
    ) -> Iterator[tuple[list[int], Call]]:
        if self._closed:
            raise EncodingError("the native engine is closed")
        chunks = list(packed_chunks([len(one) for one in ids], self._chunk_tokens, self._threads))

        def call(chunk: list[int]) -> Call:
            return Call(self._model, [ids[i] for i in chunk], types and [types[i] for i in chunk], kind)

        if len(chunks) == 1:
            yield chunks[0], self._together(call(chunks[0]))
        elif self._threads == 1:
            for chunk in chunks:
                yield chunk, self._alone(call(chunk))
        else:
            done = self._helpers().map(lambda chunk: self._alone(call(chunk)), chunks)
            yield from zip(chunks, done, strict=True)

    def _alone(self, call: Call) -> Call:
        with self._workspace(call) as workspace:
            self._model.encode(call, workspace)
        return call

    def _together(self, call: Call) -> Call:
        """Share one chunk's work among all threads; while another call does that, go alone, with the same bits."""
        if self._threads == 1 or call.batch.tokens < SHARED_TOKENS or not self._team.acquire(blocking=False):
            return self._alone(call)
        try:
            if self._crew is None:
                self._crew = Crew(self._library, self._threads - 1)
            with self._workspace(call) as workspace:
                self._crew.encode(self._model, call, workspace)
        finally:
            self._team.release()
        return call

    @contextmanager
    def _workspace(self, call: Call) -> Iterator[Workspace]:
        """Lend one of the workspaces for chunks; a text that is longer gets one of its own."""
        if call.batch.tokens > self._chunk_tokens:
            yield self._model.workspace(call.batch.tokens, self._threads)
            return
        try:
            workspace = self._free.pop()
        except IndexError:
            workspace = self._model.workspace(self._chunk_tokens, self._threads)
        yield workspace
        self._free.append(workspace)

    def _helpers(self) -> ThreadPoolExecutor:
        """Threads for chunks, started when they are first needed."""
        with self._starting:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor  # small texts, as of a first request, need none

                self._pool = ThreadPoolExecutor(self._threads, "encode")
            return self._pool


def _after_fork(runner: weakref.ref[_Runner]) -> None:
    alive = runner()
    if alive is not None:
        alive.begin_without_threads()


def packed_chunks(lengths: Sequence[int], chunk_tokens: int, threads: int) -> Iterator[list[int]]:
    """Yield indices of texts, longest first, at most `chunk_tokens` tokens a chunk (or one text).

    The last chunks are smaller, so that threads finish together, but still worth a pass of the weights. What fits one
    chunk stays one: a team shares it.
    """
    left = sum(lengths)
    smallest = chunk_tokens if left <= chunk_tokens or threads == 1 else chunk_tokens // 3
    room = _room(left, chunk_tokens, threads, smallest)
    chunk: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if chunk and tokens + lengths[index] > room:
            yield chunk
            left -= tokens
            room = _room(left, chunk_tokens, threads, smallest)
            chunk, tokens = [], 0
        chunk.append(index)
        tokens += lengths[index]
    if chunk:
        yield chunk


def _room(left: int, chunk_tokens: int, threads: int, smallest: int) -> int:
    return max(smallest, min(chunk_tokens, left // (2 * threads) + 1))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
