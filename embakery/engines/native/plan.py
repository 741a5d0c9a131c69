"""From a pack to what the C library is told of it: the model's shape, and where its tensors are."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embakery.engines.pack import Pack
from embakery.errors import ArtifactError

# The numbers of embakery.h's enums, by the pack's names.
ACTIVATIONS = {"identity": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4, "tanh": 5, "sigmoid": 6}
POOLINGS = {"mean": 0, "cls": 1, "max": 2, "mean_sqrt_len_tokens": 3, "weightedmean": 4, "lasttoken": 5}
STEPS = {"dense": 0, "layer_norm": 1, "normalize": 2, "activate": 3}

MOST_POOLINGS = 6
MOST_STEPS = 16


class Step(ctypes.Structure):
    """embakery.h's struct embk_step."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "activation", "inputs", "outputs")),
        ("eps", ctypes.c_float),
        ("reserved", ctypes.c_int32),
        ("weight", ctypes.c_uint64),
        ("bias", ctypes.c_uint64),
    )


_SIZES = (
    *("layers", "hidden", "heads", "intermediate", "loud", "activation", "vocabulary", "positions", "token_types"),
    *("pad_token", "farthest"),
)


class Shape(ctypes.Structure):
    """embakery.h's struct embk_shape."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _SIZES),
        ("eps", ctypes.c_float),
        ("poolings", ctypes.c_int32),
        ("steps", ctypes.c_int32),
        ("pooling", ctypes.c_int32 * MOST_POOLINGS),
        ("step", Step * MOST_STEPS),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """A model's shape, and its tensors' offsets in the order that embakery.h gives; 0 for what it does not have.

    tells_types: whether the model is told query and document apart by token types.
    """

    shape: Shape
    offsets: tuple[int, ...]
    tells_types: bool


def read_plan(pack: Pack) -> Plan:
    """Read off a pack what the library must know. Raises ArtifactError for what the engine cannot run."""
    try:
        return _Planner(pack).plan()
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, ctypes.ArgumentError) as error:
        raise ArtifactError(f"encoder.pack: the native engine cannot run it: {error!r}") from error


class _Planner:
    def __init__(self, pack: Pack) -> None:
        self._model: Mapping[str, Any] = pack.model
        self._tensors = pack.tensors

    def plan(self) -> Plan:
        """Collect shape and offsets."""
        model, head = self._model, list(self._model["head"])
        pooling: Sequence[str] = self._model["pooling"]
        shape = Shape(
            layers=model["layers"],
            hidden=model["hidden"],
            heads=model["heads"],
            intermediate=model["intermediate"],
            loud=self._rows("layers.0.ffn.down.weight.loud/int8"),
            activation=ACTIVATIONS[model["activation"]],
            vocabulary=model["vocabulary"],
            positions=model["positions"],
            token_types=self._rows("embeddings.token_type"),
            pad_token=-1 if model["pad_token"] is None else model["pad_token"],
            farthest=(self._columns("attention.relative_bias") - 1) // 2 if model["relative_bias"] else 0,
            eps=model["eps"],
            poolings=len(pooling),
            steps=len(head),
            pooling=(ctypes.c_int32 * MOST_POOLINGS)(*(POOLINGS[name] for name in pooling)),
            step=(Step * MOST_STEPS)(*self._steps(head, model["hidden"] * len(pooling))),
        )
        return Plan(shape, tuple(self._offsets(model["layers"])), bool(model["tells_types"]))

    def _steps(self, head: Sequence[Mapping[str, Any]], size: int) -> Iterator[Step]:
        for facts in head:
            kind, name = facts["kind"], facts.get("name", "")
            step = Step(kind=STEPS[kind], activation=ACTIVATIONS[facts.get("activation", "identity")], inputs=size)
            if kind == "dense":
                size = self._tensors[f"{name}.weight"].shape[0]
                step.weight, step.bias = self._at(f"{name}.weight"), self._maybe(f"{name}.bias")
            elif kind == "layer_norm":
                step.weight, step.bias, step.eps = self._at(f"{name}.gain"), self._at(f"{name}.bias"), facts["eps"]
            step.outputs = size
            yield step

    def _offsets(self, layers: int) -> Iterator[int]:
        yield self._at("embeddings.word/int8")
        yield self._at("embeddings.word/scale")
        yield self._at("embeddings.position")
        yield self._maybe("embeddings.token_type")
        yield self._maybe("attention.relative_bias")
        yield from self._norm("embeddings.norm")
        for number in range(layers):
            attention, ffn = f"layers.{number}.attention", f"layers.{number}.ffn"
            for part in ("query", "key", "value", "output"):
                yield from self._matrix(f"{attention}.{part}.weight", f"{attention}.{part}.bias")
            yield from self._norm(f"{attention}.norm")
            yield from self._matrix(f"{ffn}.up.weight", f"{ffn}.up.bias")
            yield from self._down(f"{ffn}.down")
            yield from self._norm(f"{ffn}.norm")

    def _down(self, name: str) -> Iterator[int]:
        """The loud units' product and that of the rest, which has the bias of both; or one product of all."""
        if f"{name}.weight.loud/int8" not in self._tensors:
            yield from (0,) * 5
            yield from self._matrix(f"{name}.weight", f"{name}.bias")
            return
        yield from self._matrix(f"{name}.weight.loud", f"{name}.bias")
        yield from self._matrix(f"{name}.weight.rest", f"{name}.bias")

    def _matrix(self, weight: str, bias: str) -> Iterator[int]:
        for part in (f"{weight}/int8", f"{weight}/scale", f"{weight}/offset", f"{weight}/sums", bias):
            yield self._at(part)

    def _norm(self, name: str) -> Iterator[int]:
        for part in (f"{name}.gain", f"{name}.bias", f"{name}/residual_scale"):
            yield self._at(part)

    def _at(self, name: str) -> int:
        return self._tensors[name].offset

    def _maybe(self, name: str) -> int:
        return self._tensors[name].offset if name in self._tensors else 0

    def _rows(self, name: str) -> int:
        return self._tensors[name].shape[0] if name in self._tensors else 0

    def _columns(self, name: str) -> int:
        return self._tensors[name].shape[1]
