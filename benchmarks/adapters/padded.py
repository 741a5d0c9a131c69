"""For runtimes that take padded batches of token ids: tokenization, length sorting, streams, pooling.

The care that a good engineer would take with such a runtime: without length sorting they are up to four times slower on
texts of mixed lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.adapters import BATCH_SIZES, MAX_TOKENS, Axes, Setting, Vectors

Ids = list[list[int]]


class Session(Protocol):
    """A model compiled for some number of streams. Called from as many threads at once."""

    def __call__(self, ids: Ids) -> Vectors:
        """Return the last layer, float32 (batch, longest, hidden); what stands behind a text's end is not looked at."""


class PaddedEncoder:
    """Texts to vectors by a runtime that knows padded batches only.

    A stream is a share of the threads with a batch of its own: for small models two batches on a core each are often
    faster than one batch on two cores. open_session: (streams, other settings) -> session, called when they change.
    """

    def __init__(self, folder: Path, threads: int, open_session: Callable[..., Session], **axes: Sequence[Any]) -> None:
        from tokenizers import Tokenizer

        self.axes: Axes = {"streams": sorted({1, threads}), **axes, "batch_size": BATCH_SIZES}
        # One at a time: idle threads of another would get in the way.
        self._sessions = lru_cache(maxsize=1)(open_session)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def encode(self, texts: Sequence[str], setting: Setting) -> Vectors:
        """Return float32 (n, dim). Longest first, so that batches hold texts of like lengths."""
        session = self._session(setting)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        size = setting["batch_size"]
        batches = [[ids[index] for index in order[start : start + size]] for start in range(0, len(order), size)]
        vectors = np.concatenate(_in_streams(lambda batch: pooled(session(batch), batch), batches, setting["streams"]))
        restored = np.empty_like(vectors)
        restored[order] = vectors
        return restored

    def _session(self, setting: Setting) -> Session:
        # Sorted: the cache tells the same names in another order apart.
        return self._sessions(**{name: setting[name] for name in sorted(setting) if name != "batch_size"})


def _in_streams(run: Callable[[Ids], Vectors], batches: Sequence[Ids], streams: int) -> list[Vectors]:
    if streams == 1 or len(batches) == 1:
        return [run(batch) for batch in batches]
    with ThreadPoolExecutor(streams) as pool:
        return list(pool.map(run, batches))


def padded(ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return input ids and attention mask, int64 (batch, longest)."""
    lengths = np.array([len(row) for row in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    padded_ids = np.zeros(mask.shape, dtype=np.int64)
    padded_ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in ids])
    return padded_ids, mask.astype(np.int64)


def pooled(hidden: Vectors, ids: Ids) -> Vectors:
    """Return the mean over each text's own tokens, of length 1."""
    lengths = np.array([len(row) for row in ids])
    mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.float32)
    # The mean's divisor does not change the direction.
    sums: Vectors = np.matmul(mask[:, None, :], hidden)[:, 0]
    unit: Vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return unit
