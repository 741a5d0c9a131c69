"""The engine's arithmetic in numpy: an encoder as its pack says, in float64, rounded where the engine rounds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from native_models import Floats
from numpy.typing import NDArray

from embakery.engines.pack import Pack
from embakery.texts import TokenIds


class Reference:
    """A packed encoder, one text at a time, with all that the engine rounds and nothing else."""

    def __init__(self, path: Path) -> None:
        self._pack = Pack.open(path)
        self._model = self._pack.model

    def tokens(self, ids: TokenIds, types: TokenIds | None = None) -> Floats:
        """Return token vectors, (tokens, hidden)."""
        words = self._wide("embeddings.word/int8")[list(ids)] * self._wide("embeddings.word/scale")[list(ids)]
        x = words + self._wide("embeddings.position")[self._places(ids)]
        if self._has("embeddings.token_type"):
            x = x + self._wide("embeddings.token_type")[list(types or [0] * len(ids))]
        before = "embeddings.norm"
        x = self._norm(x, before)
        for number in range(self._model["layers"]):
            attention, ffn = f"layers.{number}.attention", f"layers.{number}.ffn"
            residual = x * self._wide(f"{before}/residual_scale")
            x = self._norm(self._attention(x, attention) + residual, f"{attention}.norm")
            residual = x * self._wide(f"{attention}.norm/residual_scale")
            x = self._norm(self._feed_forward(x, ffn) + residual, f"{ffn}.norm")
            before = f"{ffn}.norm"
        return x

    def sentence(self, ids: TokenIds, types: TokenIds | None = None) -> Floats:
        """Return the text's vector."""
        x = self.tokens(ids, types)
        vector = np.concatenate([_pooled(x, pooling) for pooling in self._model["pooling"]])
        for step in self._model["head"]:
            if step["kind"] == "dense":
                vector = self._wide(f"{step['name']}.weight") @ vector
                vector = vector + self._wide(f"{step['name']}.bias") if self._has(f"{step['name']}.bias") else vector
            elif step["kind"] == "layer_norm":
                vector = self._norm(vector[None], step["name"], step["eps"])[0]
            elif step["kind"] == "normalize":
                vector = vector / np.linalg.norm(vector)
            vector = activated(vector, step["activation"])
        return vector

    def _places(self, ids: TokenIds) -> NDArray[np.int64]:
        if self._model["pad_token"] is None:
            return np.arange(len(ids))
        counts = np.array(ids) != self._model["pad_token"]
        return np.where(counts, np.cumsum(counts), 0)

    def _attention(self, x: Floats, name: str) -> Floats:
        query, _ = _symmetric(self._heads(x, f"{name}.query", "coarse"))
        key, _ = _symmetric(self._heads(x, f"{name}.key", "coarse"))
        value, scale = _symmetric(self._heads(x, f"{name}.value", "fine"))
        scores = query @ key.transpose(0, 2, 1)
        if self._has("attention.relative_bias"):
            bias, places = self._wide("attention.relative_bias"), np.arange(len(x))
            farthest = bias.shape[1] // 2
            scores += bias[:, np.clip(places[None, :] - places[:, None], -farthest, farthest) + farthest]
        scores += np.log(scale).transpose(0, 2, 1)
        share = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = np.rint(255 * share) / 255 @ (value / scale) / (share @ (1 / scale))
        return self._linear(mixed.transpose(1, 0, 2).reshape(x.shape), f"{name}.output")

    def _heads(self, x: Floats, name: str, how: str) -> Floats:
        """Return (heads, tokens, head size)."""
        product = _rounded(x, how) @ self._weight(f"{name}.weight") + self._wide(f"{name}.bias")
        return product.reshape(len(x), self._model["heads"], -1).transpose(1, 0, 2)

    def _feed_forward(self, x: Floats, name: str) -> Floats:
        x = activated(self._linear(x, f"{name}.up"), self._model["activation"])
        if self._has(f"{name}.down.weight/int8"):
            return self._linear(x, f"{name}.down")
        loud = self._weight(f"{name}.down.weight.loud")
        rest = self._weight(f"{name}.down.weight.rest")
        down = _rounded(x[:, : len(loud)]) @ loud + _rounded(x[:, len(loud) :]) @ rest
        return down + self._wide(f"{name}.down.bias")

    def _linear(self, x: Floats, name: str) -> Floats:
        return _rounded(x) @ self._weight(f"{name}.weight") + self._wide(f"{name}.bias")

    def _norm(self, x: Floats, name: str, eps: float = 1e-12) -> Floats:
        centred = x - x.mean(axis=1, keepdims=True)
        deviation: Floats = np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps)
        return centred / deviation * self._wide(f"{name}.gain") + self._wide(f"{name}.bias")

    def _weight(self, name: str) -> Floats:
        return self._wide(f"{name}/int8") * self._wide(f"{name}/scale")

    def _wide(self, name: str) -> Floats:
        return self._pack.matrix(name).astype(np.float64)

    def _has(self, name: str) -> bool:
        return name in self._pack.tensors


def _rounded(x: Floats, how: str = "plain") -> Floats:
    """Round rows to 8 bits, to 16, or to the upper half of 16. What fills a row up to whole panels counts: it is 0."""
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    if x.shape[1] % 64:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    step = np.maximum(high - low, 1e-20) / (255 if how == "plain" else 65535)
    level: Floats = np.rint((x - low) / step)
    return low + step * (level // 256 * 256 + 127.5 if how == "coarse" else level)


def _symmetric(x: Floats) -> tuple[Floats, Floats]:
    """Round each token's part of a head to -127..127. Returns it and the scales."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(x / scale) * scale, scale


def _pooled(x: Floats, pooling: str) -> Floats:
    weights = np.arange(1, len(x) + 1)
    results: dict[str, Floats] = {
        "mean": x.mean(axis=0),
        "cls": x[0],
        "max": x.max(axis=0),
        "mean_sqrt_len_tokens": x.sum(axis=0) / math.sqrt(len(x)),
        "weightedmean": weights @ x / weights.sum(),
        "lasttoken": x[-1],
    }
    return results[pooling]


def activated(x: Floats, activation: str) -> Floats:
    """Apply an activation by its name in the pack."""
    match activation:
        case "identity":
            return x
        case "gelu":
            return x * (1 + np.array([math.erf(value / math.sqrt(2)) for value in x.flat]).reshape(x.shape)) / 2
        case "gelu_tanh":
            return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        case "relu":
            return np.maximum(x, 0)
        case "silu":
            return x / (1 + np.exp(-x))
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return 1 / (1 + np.exp(-x))
    raise ValueError(activation)
