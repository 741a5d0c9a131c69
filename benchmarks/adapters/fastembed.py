"""fastembed with a local model. It takes texts as they come, so they are handed to it longest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adapters import BATCH_SIZES, TextEncoder, Vectors

_NAME = "local/all-MiniLM-L6-v2"


def open_encoder(model: Path, threads: int, _options: Mapping[str, str]) -> TextEncoder:
    """Open onnx/model.onnx."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model=_NAME,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=_NAME),
        dim=384,
        model_file="onnx/model.onnx",
    )
    loaded = TextEmbedding(_NAME, threads=threads, specific_model_path=str(model))

    def embed(texts: Sequence[str], **setting: Any) -> Vectors:
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors = np.stack(list(loaded.embed([texts[index] for index in order], **setting)))
        restored = np.empty_like(vectors)
        restored[order] = vectors
        return restored

    return TextEncoder(embed, batch_size=BATCH_SIZES)
