"""sentence-transformers, by torch or by its onnx backend. It sorts by length by itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.adapters import BATCH_SIZES, MAX_TOKENS, TextEncoder


def open_encoder(model: Path, threads: int, options: Mapping[str, str]) -> TextEncoder:
    """Open the folder with the backend that options name."""
    from sentence_transformers import SentenceTransformer

    backend = options["backend"]
    choices = _onnx_choices(threads) if backend == "onnx" else _torch_choices(threads)
    loaded = SentenceTransformer(str(model), device="cpu", backend=backend, model_kwargs=choices)
    loaded.max_seq_length = MAX_TOKENS
    return TextEncoder(partial(loaded.encode, show_progress_bar=False), batch_size=BATCH_SIZES)


def _torch_choices(threads: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    return {"dtype": "float32"}


def _onnx_choices(threads: int) -> dict[str, Any]:
    import onnxruntime  # noqa: TID251 - a peer, in a process where the driver has switched its telemetry off

    choices = onnxruntime.SessionOptions()
    choices.intra_op_num_threads = threads
    return {"provider": "CPUExecutionProvider", "file_name": "model.onnx", "session_options": choices}
