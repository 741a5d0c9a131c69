"""The `onnx` engine: onnxruntime on the CPU, any exported encoder.

Texts run in groups of one exact length, so that nothing is padded. Each group runs on one thread; several groups run
side by side. Together with the per-token quantization of the bake this makes a vector independent of its batch mates,
of their order and of the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from embakery.errors import ArtifactError, EncodingError
from embakery.texts import TokenIds
from embakery.vectors import Vectors

# Measured on two cores: 512 tokens keep a chunk's activations in L2; from 1024 on it is slower, and memory grows.
CHUNK_TOKENS = 512

# Names the numeric rules that this engine keeps; whoever changes a vector's bits changes it, and with it the space.
CONTRACT = "onnxruntime/exact-length-groups/1"

_Run = Callable[[Sequence[TokenIds]], Vectors]


class OnnxEngine:
    """One onnxruntime session and the threads that feed it."""

    name = "onnx"

    def __init__(self, model: Path, *, threads: int | None = None, chunk_tokens: int = CHUNK_TOKENS) -> None:
        self._session = open_session(model)
        self._inputs = frozenset(argument.name for argument in self._session.get_inputs())
        self._threads = threads or os.cpu_count() or 1
        self._chunk_tokens = chunk_tokens
        # Its threads start with the first calls that need them: a Lambda INIT does not pay for them.
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encode")

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        """Return sentence vectors, float32 (n, dim)."""
        return np.stack(self._run(batch, self._sentence_vectors))

    def encode_tokens(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        """Return token vectors, float32 (tokens, hidden) for each text."""
        return self._run(batch, self._token_vectors)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _run(self, batch: Sequence[TokenIds], run: _Run) -> list[Vectors]:
        chunks = list(exact_length_chunks([len(ids) for ids in batch], self._chunk_tokens))
        jobs = [[batch[index] for index in chunk] for chunk in chunks]
        results: list[Vectors | None] = [None] * len(batch)
        for chunk, vectors in zip(chunks, self._map(run, jobs), strict=True):
            for index, vector in zip(chunk, vectors, strict=True):
                results[index] = vector
        return [vector for vector in results if vector is not None]

    def _map(self, run: _Run, jobs: list[list[TokenIds]]) -> Iterator[Vectors]:
        if self._threads == 1 or len(jobs) == 1:
            return map(run, jobs)
        return self._pool.map(run, jobs)

    def _sentence_vectors(self, chunk: Sequence[TokenIds]) -> Vectors:
        return self._call("sentence_embedding", chunk)

    def _token_vectors(self, chunk: Sequence[TokenIds]) -> Vectors:
        return self._call("token_embeddings", chunk)

    def _call(self, output: str, chunk: Sequence[TokenIds]) -> Vectors:
        ids = np.array(chunk, dtype=np.int64)
        feed = {"input_ids": ids}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(ids)
        try:
            (value,) = self._session.run([output], feed)
        except Exception as error:  # onnxruntime's errors share no public base class
            raise EncodingError(f"onnxruntime failed on {ids.shape[0]} texts of {ids.shape[1]} tokens") from error
        return np.asarray(value, dtype=np.float32)


def exact_length_chunks(lengths: Sequence[int], chunk_tokens: int) -> Iterator[list[int]]:
    """Yield indices of texts of one length each, longest first, at most `chunk_tokens` tokens a chunk (or one text).

    Longest first: the first chunks size every buffer, and the last, small ones even out the threads' loads.
    """
    chunk: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if chunk and (length != lengths[chunk[0]] or (len(chunk) + 1) * length > chunk_tokens):
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk


def open_session(model: Path) -> Any:
    """Open a graph for exact, single-threaded runs. Raises ArtifactError."""
    options = ort.SessionOptions()
    # One thread a run: threads take whole chunks instead, which is faster and cannot change a sum's order.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Without VNNI, u8 x s8 products saturate at 16 bits and vectors are wrong (onnxruntime #6004): use exact ones.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no public base class
        raise ArtifactError(f"{model.name}: onnxruntime {ort.__version__} cannot load it") from error
