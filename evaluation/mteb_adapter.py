"""Lets the `mteb` package run a baked artifact.

With mteb installed:

    import mteb
    from evaluation.mteb_adapter import MtebEncoder

    mteb.evaluate(MtebEncoder("build/all-MiniLM-L6-v2"), tasks=mteb.get_tasks(tasks=["STSBenchmark"]))

Written to mteb 2's EncoderProtocol. mteb is imported only for the model's description.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embakery import Embedder
from embakery.vectors import Vectors
from evaluation.metrics import unit_rows


class MtebEncoder:
    """An artifact as mteb sees a model. Queries and documents get the artifact's own prompts."""

    def __init__(self, model_name: str | Path, revision: str | None = None, *, device: str | None = None) -> None:
        """Open the artifact in the folder `model_name`. revision: its space id, if given; device: the CPU always."""
        self._embedder = Embedder.load(model_name)
        found = self._embedder.manifest.space_id
        if revision not in {None, found}:
            raise ValueError(f"the artifact's space is {found}, not {revision}")
        if device not in {None, "cpu"}:
            raise ValueError(f"an artifact runs on the CPU, not on {device}")

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        prompt_type: Any = None,
        **_: Any,
    ) -> Vectors:
        """Return float32 (n, dim) for batches of {"text": [...]}. prompt_type: `query`, `document` or none."""
        input_type = "query" if getattr(prompt_type, "value", prompt_type) == "query" else "document"
        return np.concatenate([self._embedder.embed(list(batch["text"]), input_type=input_type) for batch in inputs])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Return the cosine of every pair, float32 (n, m)."""
        return np.asarray(_unit(embeddings1) @ _unit(embeddings2).T, dtype=np.float32)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Vectors:
        """Return the cosine of each pair of rows, float32 (n,)."""
        return np.asarray((_unit(embeddings1) * _unit(embeddings2)).sum(axis=1), dtype=np.float32)

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb's results say of the model: its id, with the space as the revision."""
        from mteb.models import ModelMeta

        manifest = self._embedder.manifest
        name = manifest.model_id if "/" in manifest.model_id else f"embakery/{manifest.model_id}"
        return ModelMeta.create_empty(
            overwrites={
                "name": name,
                "revision": manifest.space_id,
                "max_tokens": manifest.max_tokens,
                "embed_dim": manifest.dimension,
            }
        )


def _unit(vectors: Any) -> Vectors:
    return unit_rows(np.atleast_2d(np.asarray(vectors, dtype=np.float32)))
