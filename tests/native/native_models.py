"""Small random encoders as packs, of shapes that no published model has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embakery.texts import TokenIds
from model_bake.pack import write_pack

SEED = 20261123

# float64; numpy has no types for what is computed with a matrix from a pack.
Floats = Any


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the head. outputs: of a dense layer."""

    kind: str
    outputs: int = 0
    activation: str = "identity"
    has_bias: bool = True
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Design:
    """A model's shape. farthest: distances with a relative bias of their own, 0 for none."""

    name: str
    hidden: int
    heads: int
    intermediate: int
    layers: int = 2
    loud: int = 0
    activation: str = "gelu"
    vocabulary: int = 50
    positions: int = 80
    token_types: int = 0
    pad_token: int | None = None
    farthest: int = 0
    pooling: tuple[str, ...] = ("mean",)
    head: tuple[Step, ...] = ()


_UNIT = Step("normalize")
_SMALLEST = Step("dense", 3, scale=1e-40)

# Heads of 1, 4, 7, 8, 12, 26, 32, 64, 96, 128 and 512; hidden sizes below, at, between and above whole panels of 64.
DESIGNS = (
    Design("one", 1, 1, 1, layers=1, vocabulary=2, positions=3),
    Design("head4", 24, 6, 40, head=(_UNIT,)),
    Design("head7", 49, 7, 50, activation="relu", token_types=2, pooling=("cls", "max")),
    Design("head8", 40, 5, 100, loud=64, activation="silu", pad_token=1, head=(_UNIT,)),
    Design("head12", 24, 2, 130, loud=64, farthest=5, pooling=("lasttoken",)),
    Design("head26", 104, 4, 70, activation="gelu_tanh", farthest=70, token_types=1),
    Design("head32", 96, 3, 192, loud=64, token_types=2, pooling=("weightedmean", "mean_sqrt_len_tokens")),
    Design("head64", 192, 3, 200, layers=1, loud=128, pad_token=0, pooling=("mean", "cls", "max", "lasttoken", "mean")),
    Design("head96", 96, 1, 64, activation="tanh", head=(Step("dense", 5, "gelu", has_bias=False),)),
    Design("head128", 128, 1, 65, layers=1, activation="sigmoid", head=(Step("activate", activation="sigmoid"),)),
    Design("head512", 512, 1, 64, layers=1, activation="identity", head=(_UNIT,)),
    Design(
        "steps",
        *(40, 5, 64),
        pooling=("mean", "max"),
        head=(
            Step("dense", 70, "tanh"),
            Step("layer_norm"),
            Step("dense", 17, "sigmoid"),
            Step("layer_norm"),
            _UNIT,
        ),
    ),
    # What leaves it is subnormal: flushed to zero it would be 0.
    Design("subnormal", 32, 4, 64, head=(_SMALLEST,)),
)
BY_NAME = {design.name: design for design in DESIGNS}


def write_model(design: Design, path: Path, *, facts: Mapping[str, Any] | None = None) -> Path:
    """Write a model with random weights, always the same ones, and return the path. facts: another header."""
    builder = _Builder(design)
    write_pack(path, builder.model() if facts is None else facts, builder.tensors, tiled=frozenset(builder.tiled))
    return path


# Below, at and above the sizes of tiles: 6 rows, 16 lanes, 48 rows of a feed-forward layer, 64 columns.
LENGTHS = (1, 2, 6, 7, 16, 17, 33, 49, 64, 65, 80)


def random_texts(design: Design) -> list[TokenIds]:
    """Return texts of LENGTHS, cut to the model's positions. Where a token pads, every seventh does."""
    draw = np.random.default_rng(SEED)
    texts = [draw.integers(0, design.vocabulary, min(length, design.positions)) for length in LENGTHS]
    if design.pad_token is not None:
        for text in texts:
            text[3::7] = design.pad_token
    return [tuple(text.tolist()) for text in texts]


def random_types(design: Design, texts: Sequence[TokenIds]) -> list[TokenIds] | None:
    """Return types for texts, None for a model that has no more than one."""
    if design.token_types < 2:
        return None
    draw = np.random.default_rng(SEED)
    return [tuple(draw.integers(0, design.token_types, len(text)).tolist()) for text in texts]


class _Builder:
    def __init__(self, design: Design) -> None:
        self.design = design
        self.tensors: dict[str, NDArray[Any]] = {}
        self.tiled: set[str] = set()
        self._draw = np.random.default_rng([SEED, *design.name.encode()])
        self._embeddings()
        for number in range(design.layers):
            self._layer(f"layers.{number}")
        self._steps = list(self._head())

    def model(self) -> dict[str, Any]:
        """What the pack's header says."""
        sizes = ("layers", "hidden", "heads", "intermediate", "activation", "vocabulary", "positions", "pad_token")
        return {name: getattr(self.design, name) for name in sizes} | {
            "eps": 1e-12,
            "relative_bias": self.design.farthest > 0,
            "pooling": list(self.design.pooling),
            "head": self._steps,
            "tells_types": self.design.token_types > 1,
        }

    def _embeddings(self) -> None:
        design, hidden = self.design, self.design.hidden
        self.tensors["embeddings.word/int8"] = self._draw.integers(-127, 128, (design.vocabulary, hidden), np.int8)
        self._add("embeddings.word/scale", 0.01 + 0.01 * self._draw.random((design.vocabulary, 1)))
        self._add("embeddings.position", self._normal(design.positions + (design.pad_token is not None), hidden))
        if design.token_types:
            self._add("embeddings.token_type", self._normal(design.token_types, hidden))
        if design.farthest:
            self._add("attention.relative_bias", self._normal(design.heads, 2 * design.farthest + 1))
        self._norm("embeddings.norm")

    def _layer(self, name: str) -> None:
        design, hidden = self.design, self.design.hidden
        for part in ("query", "key", "value", "output"):
            sharp = 3 / math.sqrt(hidden // design.heads) if part == "query" else 1.0
            self._matrix(f"{name}.attention.{part}.weight", hidden, hidden, sharp)
            self._add(f"{name}.attention.{part}.bias", 0.1 * self._normal(hidden))
        self._norm(f"{name}.attention.norm")
        self._matrix(f"{name}.ffn.up.weight", hidden, design.intermediate)
        self._add(f"{name}.ffn.up.bias", self._normal(design.intermediate))
        down = f"{name}.ffn.down.weight"
        if design.loud:
            self._matrix(f"{down}.loud", design.loud, hidden, 3.0)
        self._matrix(f"{down}.rest" if design.loud else down, design.intermediate - design.loud, hidden)
        self._add(f"{name}.ffn.down.bias", self._normal(hidden))
        self._norm(f"{name}.ffn.norm")

    def _head(self) -> Iterator[dict[str, Any]]:
        size = self.design.hidden * len(self.design.pooling)
        for number, step in enumerate(self.design.head):
            name = f"head.{number}"
            facts: dict[str, Any] = {"kind": step.kind, "name": name, "activation": step.activation}
            if step.kind == "dense":
                self._add(f"{name}.weight", step.scale * self._normal(step.outputs, size))
                if step.has_bias:
                    self._add(f"{name}.bias", step.scale * self._normal(step.outputs))
                size = step.outputs
            elif step.kind == "layer_norm":
                facts["eps"] = 1e-5
                self._add(f"{name}.gain", self._normal(size))
                self._add(f"{name}.bias", self._normal(size))
            yield facts

    def _matrix(self, name: str, inputs: int, outputs: int, factor: float = 1.0) -> None:
        weight = factor * self._normal(inputs, outputs) / math.sqrt(inputs)
        scale = np.abs(weight).max(axis=0) / 127
        rounded = np.rint(weight / scale).astype(np.int8)
        sums = rounded.sum(axis=0, dtype=np.int32)
        self.tensors |= {f"{name}/int8": rounded, f"{name}/sums": sums}
        self.tiled.add(f"{name}/int8")
        self._add(f"{name}/scale", scale)
        self._add(f"{name}/offset", scale * sums)

    def _norm(self, name: str) -> None:
        hidden = self.design.hidden
        self._add(f"{name}.gain", 1 + 0.2 * self._normal(hidden))
        self._add(f"{name}.bias", 0.2 * self._normal(hidden))
        self._add(f"{name}/residual_scale", 1 + 0.2 * self._normal(hidden))

    def _add(self, name: str, values: Floats) -> None:
        self.tensors[name] = values.astype(np.float32)

    def _normal(self, *shape: int) -> Floats:
        return self._draw.normal(size=shape)
