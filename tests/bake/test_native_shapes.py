"""Models of the sizes that people use run on the native engine and stay with the fp32 original.

EMBAKERY_FULL_SHAPES=1 gives them all their layers, which takes some minutes; a few layers are the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bake_models import save_cross_encoder, save_model

from embakery import Embedder
from embakery.cross_encoder import CrossEncoder
from model_bake.bake import Order, bake
from model_bake.gates import Gates
from model_bake.samples import pair_texts

FULL = os.environ.get("EMBAKERY_FULL_SHAPES") == "1"
LOOSE = Gates(min_cosine=0.9, min_mean_cosine=0.9, min_overlap=0.1, min_rank_agreement=0.1)
TEXTS = ["The quick brown fox jumps over the lazy dog", "return a copy of the object", "a dead-letter queue " * 9]


def size(hidden: int, layers: int, **others: Any) -> Mapping[str, Any]:
    heads = {"num_attention_heads": hidden // 64 if hidden == 768 else hidden // 32}
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers if FULL else max(1, 768 // hidden),
    }
    return {**sizes, **heads, "initializer_range": 0.05, **others}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("architecture", "pooling", "settings"),
    [
        pytest.param("bert", "cls", size(384, 12), id="bert-384-cls"),
        pytest.param("mpnet", "mean", size(768, 12), id="mpnet-768"),
        pytest.param("xlm-roberta", "mean", size(384, 12, hidden_act="gelu_new"), id="xlm-r-384-gelu-tanh"),
        pytest.param("bert", "max", size(312, 4, num_attention_heads=12), id="bert-312-heads-of-26"),
    ],
)
def test_encoders(tmp_path: Path, architecture: str, pooling: str, settings: Mapping[str, Any]) -> None:
    original = save_model(tmp_path / "model", architecture, pooling=pooling, settings=settings)
    artifact = bake(Order(str(tmp_path / "model"), gates=LOOSE), tmp_path / "artifact").artifact
    certificate = artifact.certificate()
    assert (artifact.manifest.engines, certificate["engine"]) == (("native", "onnx"), "native")
    assert certificate["cosine"]["min"] >= 0.999
    assert certificate["batch_invariant"] == certificate["inputs"] > 200
    embedder = Embedder.load(tmp_path / "artifact")
    assert (embedder.engine.name, embedder.golden_matches) == ("native", True)
    assert (embedder.embed(TEXTS) * original.encode(TEXTS)).sum(axis=1).min() >= 0.999


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_cross_encoders(tmp_path: Path, architecture: str) -> None:
    original = save_cross_encoder(tmp_path / "model", architecture, labels=3, settings=size(384, 6))
    artifact = bake(Order(str(tmp_path / "model"), gates=LOOSE), tmp_path / "artifact").artifact
    assert artifact.manifest.engines == ("native", "onnx")
    scorer = CrossEncoder.load(tmp_path / "artifact")
    assert (scorer.manifest.engine.name, scorer.golden_matches) == ("native", True)
    pairs: list[Any] = [(query, text) for query, texts in pair_texts() for text in texts[:6]]
    ours, theirs = scorer.predict(pairs), np.asarray(original.predict(pairs))
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() >= 0.999


def test_a_table_too_small_for_eight_bits_leaves_the_model_to_onnxruntime(tmp_path: Path) -> None:
    save_model(tmp_path / "model", settings={"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16})
    artifact = bake(Order(str(tmp_path / "model"), gates=LOOSE), tmp_path / "artifact").artifact
    assert (artifact.manifest.engines, artifact.pack) == (("onnx",), None)
    assert Embedder.load(tmp_path / "artifact").engine.name == "onnx"
