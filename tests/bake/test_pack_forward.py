"""encoder.pack alone is enough to encode: a forward pass in numpy, in doubles, gives the vectors of encoder.onnx.

It is the plainest statement of what the pack means, and of what an engine must do with it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bake_models import save_model

from embakery.artifact import ENCODER, PACK, Artifact
from embakery.engines.onnx import OnnxEngine
from embakery.engines.pack import Pack
from embakery.texts import TokenIds
from model_bake.bake import Order, bake
from model_bake.gates import Gates

LOOSE = Gates(min_cosine=0.9, min_mean_cosine=0.9, min_overlap=0.1)
FARTHEST = 128


class Forward:
    """A packed encoder, run one text at a time."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._model = pack.model

    def __call__(self, ids: TokenIds) -> Any:
        """Return token vectors, float64 (tokens, hidden)."""
        words = self._wide("embeddings.word/int8")[list(ids)] * self._wide("embeddings.word/scale")[list(ids)]
        x = self._norm(words + self._wide("embeddings.position")[self._places(ids)], "embeddings.norm")
        came_from = "embeddings.norm"
        for number in range(self._model["layers"]):
            attention, ffn = f"layers.{number}.attention", f"layers.{number}.ffn"
            x = self._norm(self._attention(x, attention) + self._residual(x, came_from), f"{attention}.norm")
            x = self._norm(self._feed_forward(x, ffn) + self._residual(x, f"{attention}.norm"), f"{ffn}.norm")
            came_from = f"{ffn}.norm"
        return x

    def _places(self, ids: TokenIds) -> Any:
        """Rows of the table of positions. Where padding has a place of its own, it is row 0 and is not counted."""
        if self._model["pad_token"] is None:
            return np.arange(len(ids))
        counts = np.array(ids) != self._model["pad_token"]
        return np.cumsum(counts) * counts

    def _attention(self, x: Any, name: str) -> Any:
        shape = (len(x), self._model["heads"], -1)
        query = self._linear(x, f"{name}.query").reshape(shape).transpose(1, 0, 2)
        key = self._linear(x, f"{name}.key").reshape(shape).transpose(1, 2, 0)
        value = self._linear(x, f"{name}.value", fine=True).reshape(shape).transpose(1, 0, 2)
        scores = query @ key
        if self._model["relative_bias"]:
            places = np.arange(len(x))
            distance = np.clip(places[None, :] - places[:, None], -FARTHEST, FARTHEST)
            scores += self._wide("attention.relative_bias")[:, distance + FARTHEST]
        chances = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = chances / chances.sum(axis=-1, keepdims=True) @ value
        return self._linear(mixed.transpose(1, 0, 2).reshape(x.shape), f"{name}.output")

    def _feed_forward(self, x: Any, name: str) -> Any:
        assert self._model["activation"] == "gelu"
        x = self._linear(x, f"{name}.up")
        x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
        if f"{name}.down.weight/int8" in self._pack.tensors:
            return self._linear(x, f"{name}.down")
        loud = self._wide(f"{name}.down.weight.loud/int8").shape[0]
        down = self._product(x[:, :loud], f"{name}.down.weight.loud")
        return down + self._product(x[:, loud:], f"{name}.down.weight.rest") + self._wide(f"{name}.down.bias")

    def _linear(self, x: Any, name: str, *, fine: bool = False) -> Any:
        return self._product(x, f"{name}.weight", fine=fine) + self._wide(f"{name}.bias")

    def _product(self, x: Any, name: str, *, fine: bool = False) -> Any:
        """Multiply rows, rounded to 8 bits or to 16, by weights of 8."""
        low, levels = x.min(axis=1, keepdims=True), 255 if not fine else 255 * 255
        step = (x.max(axis=1, keepdims=True) - low) / levels
        rounded = low + np.rint((x - low) / step) * step
        return rounded @ self._wide(f"{name}/int8") * self._wide(f"{name}/scale")

    def _norm(self, x: Any, name: str) -> Any:
        centred = x - x.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + self._model["eps"])
        return centred / deviation * self._wide(f"{name}.gain") + self._wide(f"{name}.bias")

    def _residual(self, x: Any, norm: str) -> Any:
        """Undo the scale that a normalization gives the products that read it; their biases hold the shift."""
        return x * self._wide(f"{norm}/residual_scale")

    def _wide(self, name: str) -> Any:
        return self._pack.matrix(name).astype(np.float64)


def token_vectors(artifact: Path, ids: TokenIds) -> Any:
    (vectors,) = OnnxEngine(artifact / ENCODER).encode_tokens([ids])
    return vectors


def cosines(left: Any, right: Any) -> Any:
    return (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def check(folder: Path, *, tokens_least: float, pooled_least: float) -> None:
    artifact = Artifact.load(folder)
    forward, golden = Forward(Pack.open(folder / PACK)), artifact.golden("onnx")
    for ids, vector in zip(golden.ids, golden.vectors, strict=True):
        tokens = forward(ids)
        assert cosines(tokens, token_vectors(folder, ids)).min() > tokens_least
        assert cosines(tokens.mean(axis=0)[None], vector[None])[0] > pooled_least


def test_the_default_model(default_artifact: Path) -> None:
    """Through six layers the last bit of a float turns activations over to the next of their 255 levels."""
    check(default_artifact, tokens_least=0.998, pooled_least=0.9995)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "mpnet", "distilbert"])
def test_small_models(tmp_path: Path, architecture: str) -> None:
    save_model(tmp_path / "model", architecture)
    bake(Order(str(tmp_path / "model"), gates=LOOSE), tmp_path / "artifact")
    check(tmp_path / "artifact", tokens_least=0.9999, pooled_least=0.9999)
