"""Architectures, poolings, prompts, heads: fp32 artifacts equal sentence-transformers, int8 ones are certified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bake_models import HIDDEN, save_cross_encoder, save_model, save_static
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm
from torch import nn

from embakery import CrossEncoder, Embedder
from model_bake.bake import Order, bake
from model_bake.build import Route
from model_bake.corpus import standard_library_passages
from model_bake.gates import Gates
from model_bake.samples import pair_texts

TEXTS = [passage.text for passage in standard_library_passages(limit=40)] + ["one", "two words"]
PROMPTS = {"query": "the question is ", "document": "the text is "}
TOLERANCE = 1e-4
# Random weights of width 32 quantize worse than trained ones of width 384.
LOOSE = Gates(min_cosine=0.97, min_mean_cosine=0.99, min_overlap=0.7, min_rank_agreement=0.9)

Save = Callable[[Path], SentenceTransformer]


def model(architecture: str, **settings: Any) -> Save:
    return lambda folder: save_model(folder, architecture, **settings)


MATRIX: dict[str, Save] = {
    "bert-mean": model("bert"),
    "bert-cls-dense": model("bert", pooling="cls", extra=(Dense(HIDDEN, 16),)),
    "bert-mean+max-not-normalized": model("bert", pooling=("mean", "max"), normalize=False),
    "bert-two-dense-layernorm": model(
        "bert", extra=(Dense(HIDDEN, 24, activation_function=nn.GELU()), LayerNorm(24), Dense(24, 8, bias=False))
    ),
    "distilbert-mean-prompts": model("distilbert", prompts=PROMPTS),
    "distilbert-max": model("distilbert", pooling="max"),
    "roberta-mean": model("roberta"),
    "roberta-weightedmean-prompts": model("roberta", pooling="weightedmean", prompts=PROMPTS),
    "xlm-roberta-cls": model("xlm-roberta", pooling="cls"),
    "camembert-mean_sqrt_len": model("camembert", pooling="mean_sqrt_len_tokens", normalize=False),
    "mpnet-mean": model("mpnet"),
    "mpnet-lasttoken-dense-prompts": model(
        "mpnet", pooling="lasttoken", extra=(Dense(HIDDEN, 16, activation_function=nn.Identity()),), prompts=PROMPTS
    ),
    "electra-mean": model("electra"),
    "modernbert-mean": model("modernbert"),
    "albert-cls": model("albert", pooling="cls"),
    "static-prompts": lambda folder: save_static(folder, prompts=PROMPTS),
}


@pytest.mark.parametrize("save", MATRIX.values(), ids=MATRIX.keys())
def test_fp32_equals_the_original_and_int8_is_certified(tmp_path: Path, save: Save) -> None:
    original = save(tmp_path / "model")
    exact = Order(str(tmp_path / "model"), precision="fp32", gates=Gates(0.99999, 0.99999, 0.99))
    bake(exact, tmp_path / "fp32")
    embedder = Embedder.load(tmp_path / "fp32")
    for input_type, encode in (("document", original.encode_document), ("query", original.encode_query)):
        ours = embedder.embed(TEXTS, input_type=input_type)
        assert np.abs(ours - encode(TEXTS)).max() <= TOLERANCE

    artifact = bake(Order(str(tmp_path / "model"), gates=LOOSE), tmp_path / "int8").artifact
    certificate = artifact.certificate()
    assert certificate["batch_invariant"] == certificate["inputs"] > 200
    vectors = Embedder.load(tmp_path / "int8").embed(TEXTS)
    reference = original.encode_document(TEXTS)
    cosines = (vectors * reference).sum(axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(reference, axis=1)
    assert cosines.min() >= LOOSE.min_cosine
    assert artifact.manifest.space_id != embedder.manifest.space_id


def test_eight_bit_weights_alone(tmp_path: Path) -> None:
    original = save_model(tmp_path / "model")
    artifact = bake(Order(str(tmp_path / "model"), precision="int8-weights", gates=LOOSE), tmp_path / "out").artifact
    assert artifact.pack is None
    vectors = Embedder.load(tmp_path / "out").embed(TEXTS)
    assert (vectors * original.encode_document(TEXTS)).sum(axis=1).min() >= 0.99


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "mpnet", "modernbert"])
@pytest.mark.parametrize(("labels", "activation"), [(1, None), (1, nn.Identity()), (3, None)])
def test_cross_encoders(tmp_path: Path, architecture: str, labels: int, activation: Any) -> None:
    original = save_cross_encoder(tmp_path / "model", architecture, labels=labels, activation=activation)
    bake(Order(str(tmp_path / "model"), precision="fp32", gates=Gates(min_rank_agreement=0.999)), tmp_path / "fp32")
    pairs = [(query, text) for query, texts in pair_texts() for text in texts[:6]]
    given: list[Any] = list(pairs)
    theirs = np.asarray(original.predict(given)).reshape(len(pairs), -1)
    assert np.abs(CrossEncoder.load(tmp_path / "fp32").predict(pairs) - theirs).max() <= TOLERANCE

    artifact = bake(Order(str(tmp_path / "model"), gates=LOOSE), tmp_path / "int8").artifact
    certificate = artifact.certificate()
    assert certificate["batch_invariant"] == certificate["inputs"] > 200
    assert np.abs(CrossEncoder.load(tmp_path / "int8").predict(pairs) - theirs).max() <= 0.1


def test_the_files_alone_and_torch_give_the_same(tmp_path: Path) -> None:
    """The route through torch is the cross-check of the route without it."""
    save_model(tmp_path / "model", "mpnet")
    gates = Gates(0.99999, 0.99999, 0.99)
    routes: tuple[Route, ...] = ("auto", "torch")
    for route in routes:
        bake(Order(str(tmp_path / "model"), precision="fp32", route=route, gates=gates), tmp_path / route)
    first, second = (Embedder.load(tmp_path / route).embed(TEXTS) for route in ("auto", "torch"))
    assert np.abs(first - second).max() <= 1e-5
    measured = [Embedder.load(tmp_path / route).certificate["export_difference"] for route in ("auto", "torch")]
    assert measured[0] is None
    assert measured[1] <= TOLERANCE
