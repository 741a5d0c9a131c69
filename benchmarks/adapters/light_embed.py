"""light-embed with a local model. It sorts by length by itself and offers no choice of threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.adapters import BATCH_SIZES, TextEncoder


def open_encoder(model: Path, _threads: int, _options: Mapping[str, str]) -> TextEncoder:
    """Open onnx/model.onnx."""
    from light_embed import TextEmbedding

    config = {
        "onnx_file": "onnx/model.onnx",
        "onnx_output_map": {"last_hidden_state": "token_embeddings"},
        "pooling_mode": "mean",
        "normalize": True,
    }
    loaded = TextEmbedding(str(model), model_config=config, device="cpu")
    return TextEncoder(loaded.encode, batch_size=BATCH_SIZES)
