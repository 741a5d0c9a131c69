"""The `onnx` engine: onnxruntime on the CPU, any exported encoder or cross-encoder.

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

from embakery.engines.runtime import onnxruntime as ort
from embakery.errors import ArtifactError, EncodingError
from embakery.texts import TokenIds
from embakery.vectors import Vectors

# Measured on two cores: 512 tokens keep a chunk's activations in L2; from 1024 on it is slower, and memory grows.
CHUNK_TOKENS = 512

# Names the numeric rules that this engine keeps; whoever changes a vector's bits changes it, and with it the space.
CONTRACT = "onnxruntime/exact-length-groups/1"


class OnnxEngine:
    """An encoder's graph. Safe to call from several threads."""

    name = "onnx"

    def __init__(self, model: Path, *, threads: int | None = None, chunk_tokens: int = CHUNK_TOKENS) -> None:
        self._runner = _Runner(model, threads=threads, chunk_tokens=chunk_tokens)

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        """Return sentence vectors, float32 (n, dim)."""
        return np.stack(self._runner.run("sentence_embedding", batch))

    def encode_tokens(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        """Return token vectors, float32 (tokens, hidden) for each text."""
        return self._runner.run("token_embeddings", batch)

    def close(self) -> None:
        """Stop the threads."""
        self._runner.close()


class OnnxPairScorer:
    """A cross-encoder's graph. Safe to call from several threads."""

    name = "onnx"

    def __init__(self, model: Path, *, threads: int | None = None, chunk_tokens: int = CHUNK_TOKENS) -> None:
        self._runner = _Runner(model, threads=threads, chunk_tokens=chunk_tokens)

    def score(self, ids: Sequence[TokenIds], types: Sequence[TokenIds]) -> Vectors:
        """Return scores of pairs, float32 (n, labels). types: each token's type, of the same lengths as `ids`."""
        return np.stack(self._runner.run("scores", ids, types))

    def close(self) -> None:
        """Stop the threads."""
        self._runner.close()


class _Runner:
    """One onnxruntime session and the threads that feed it."""

    def __init__(self, model: Path, *, threads: int | None, chunk_tokens: int) -> None:
        self._session = open_session(model)
        self._has_types = any(argument.name == "token_type_ids" for argument in self._session.get_inputs())
        self._threads = threads or os.cpu_count() or 1
        self._chunk_tokens = chunk_tokens
        # Its threads start with the first calls that need them: a Lambda INIT does not pay for them.
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encode")

    def run(self, output: str, ids: Sequence[TokenIds], types: Sequence[TokenIds] | None = None) -> list[Vectors]:
        """Return each input's part of an output, in the order given. types: all 0 if None."""
        chunks = list(exact_length_chunks([len(one) for one in ids], self._chunk_tokens))

        def call(chunk: list[int]) -> Vectors:
            return self._call(output, [ids[i] for i in chunk], None if types is None else [types[i] for i in chunk])

        results: list[Vectors | None] = [None] * len(ids)
        for chunk, values in zip(chunks, self._map(call, chunks), strict=True):
            for index, value in zip(chunk, values, strict=True):
                results[index] = value
        return [value for value in results if value is not None]

    def close(self) -> None:
        self._pool.shutdown()

    def _map(self, call: Callable[[list[int]], Vectors], chunks: list[list[int]]) -> Iterator[Vectors]:
        if self._threads == 1 or len(chunks) == 1:
            return map(call, chunks)
        return self._pool.map(call, chunks)

    def _call(self, output: str, ids: Sequence[TokenIds], types: Sequence[TokenIds] | None) -> Vectors:
        feed = {"input_ids": np.array(ids, dtype=np.int64)}
        shape = feed["input_ids"].shape
        if self._has_types:
            feed["token_type_ids"] = np.zeros(shape, np.int64) if types is None else np.array(types, dtype=np.int64)
        try:
            (value,) = self._session.run([output], feed)
        except Exception as error:  # onnxruntime's errors share no public base class
            raise EncodingError(f"onnxruntime failed on {shape[0]} inputs of {shape[1]} tokens") from error
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
