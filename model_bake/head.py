"""From token vectors to what leaves the model: pooling, Dense, normalization; for a cross-encoder the activation.

In:  input_ids int64 (batch, tokens), and token_type_ids where the model has them. Every text of a call has the same
     length, so there is no padding and no attention mask.
Out: token_embeddings float32 (batch, tokens, hidden) and sentence_embedding float32 (batch, dim), or scores float32
     (batch, labels).

Every step works on each text alone: nothing here may let a batch change a text's bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from model_bake.bert_family import LOGITS, TOKENS
from model_bake.bert_layout import read_family
from model_bake.files import Settings
from model_bake.nodes import activate, add_output, integers, layer_norm, node, per_text_linear, scalar
from model_bake.pipeline import Dense, HeadStep, LayerNorm, Normalize
from model_bake.spec import CrossEncoderSpec, EncoderSpec, Spec

SENTENCE = "sentence_embedding"
SCORES = "scores"

_TORCH_LAYER_NORM_EPS = 1e-5
_ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}


def finish_encoder(trunk: onnx.ModelProto, spec: EncoderSpec) -> onnx.ModelProto:
    """Add pooling and head to a graph that ends in token vectors."""
    model = onnx.ModelProto()
    model.CopyFrom(trunk)
    graph = model.graph
    pooled = [_POOLINGS[mode](graph, f"pooling.{mode}") for mode in spec.pooling]
    vector = pooled[0] if len(pooled) == 1 else node(graph, "Concat", pooled, "pooling.joined", axis=-1)
    for number, step in enumerate(spec.head):
        vector = _head_step(graph, vector, step, f"head.{number}")
    node(graph, "Identity", [vector], SENTENCE)
    add_output(graph, SENTENCE, ["batch", spec.dimensions[0]])
    onnx.checker.check_model(model)
    return model


def finish_cross_encoder(trunk: onnx.ModelProto, spec: CrossEncoderSpec) -> onnx.ModelProto:
    """Add the activation to a graph that ends in logits."""
    model = onnx.ModelProto()
    model.CopyFrom(trunk)
    node(model.graph, {"sigmoid": "Sigmoid", "identity": "Identity"}[spec.activation], [LOGITS], SCORES)
    del model.graph.output[:]
    add_output(model.graph, SCORES, ["batch", spec.labels])
    onnx.checker.check_model(model)
    return model


def head_facts(spec: Spec) -> dict[str, Any]:
    """Describe, for the native engine, what follows the tokens, naming the initializers that these functions write."""
    if isinstance(spec, EncoderSpec):
        steps = [_step_facts(step, f"head.{number}") for number, step in enumerate(spec.head)]
        return {"pooling": list(spec.pooling), "head": steps, "tells_types": False}
    head = read_family(Settings.read(spec.folder)).head
    steps = [
        {"kind": "dense", "name": "head.dense", "activation": head.activation},
        {"kind": "dense", "name": "head.output", "activation": spec.activation},
    ]
    return {"pooling": ["cls"], "head": steps, "tells_types": spec.tells_types}


def _step_facts(step: HeadStep, name: str) -> dict[str, Any]:
    match step:
        case Dense(_, _, activation):
            plain = activation == "Identity"
            kind = {**_ACTIVATIONS, "Identity": "identity", "Sigmoid": "sigmoid"}[activation]
            return {"kind": "dense", "name": name if plain else f"{name}.linear", "activation": kind}
        case LayerNorm():
            return {"kind": "layer_norm", "name": name, "eps": _TORCH_LAYER_NORM_EPS}
        case Normalize():
            return {"kind": "normalize"}


def _head_step(graph: onnx.GraphProto, x: str, step: HeadStep, name: str) -> str:
    match step:
        case Dense(weight, bias, "Identity"):
            return per_text_linear(graph, x, name, weight, bias)
        case Dense(weight, bias, "Sigmoid"):
            return node(graph, "Sigmoid", [per_text_linear(graph, x, f"{name}.linear", weight, bias)], name)
        case Dense(weight, bias, activation):
            return activate(
                graph, per_text_linear(graph, x, f"{name}.linear", weight, bias), _ACTIVATIONS[activation], name
            )
        case LayerNorm(gain, bias):
            return layer_norm(graph, x, name, gain, bias, eps=_TORCH_LAYER_NORM_EPS)
        case Normalize():
            length = node(graph, "ReduceL2", [x], f"{name}.length", axes=[-1], keepdims=1)
            # As torch.nn.functional.normalize: never divide by less than 1e-12.
            safe = node(graph, "Max", [length, scalar(graph, "smallest_length", 1e-12)], f"{name}.safe_length")
            return node(graph, "Div", [x, safe], name)


def _mean(graph: onnx.GraphProto, output: str) -> str:
    return node(graph, "Div", [_total(graph, _ones(graph, output), output), _length(graph, output)], output)


def _mean_sqrt_len(graph: onnx.GraphProto, output: str) -> str:
    root = node(graph, "Sqrt", [_length(graph, output)], f"{output}.root")
    return node(graph, "Div", [_total(graph, _ones(graph, output), output), root], output)


def _weighted_mean(graph: onnx.GraphProto, output: str) -> str:
    """Weights 1, 2, 3, ... along the text (SGPT, arXiv 2202.08904)."""
    ones = _ones(graph, output)
    positions = node(graph, "CumSum", [ones, integers(graph, "second", 1)], f"{output}.positions")
    total = _total(graph, positions, output)
    weight = node(graph, "ReduceSum", [positions, integers(graph, "second_axis", [1])], f"{output}.weight", keepdims=1)
    return node(graph, "Div", [total, weight], output)


def _max(graph: onnx.GraphProto, output: str) -> str:
    return node(graph, "ReduceMax", [TOKENS], output, axes=[1], keepdims=0)


def _cls(graph: onnx.GraphProto, output: str) -> str:
    return node(graph, "Gather", [TOKENS, integers(graph, "first", 0)], output, axis=1)


def _last_token(graph: onnx.GraphProto, output: str) -> str:
    return node(graph, "Gather", [TOKENS, integers(graph, "last", -1)], output, axis=1)


def _total(graph: onnx.GraphProto, row: str, output: str) -> str:
    """A row of weights (1, tokens) times each text's matrix: (batch, hidden).

    Not ReduceSum or ReduceMean: over a middle axis onnxruntime adds in an order that depends on the batch (263 of 300
    texts changed their bits); a Transpose in front of it is optimized away. This product is each text's own affair.
    """
    total = node(graph, "MatMul", [row, TOKENS], f"{output}.total")
    return node(graph, "Squeeze", [total, integers(graph, "second_axis", [1])], f"{output}.total_flat")


def _ones(graph: onnx.GraphProto, output: str) -> str:
    row = node(graph, "Concat", [integers(graph, "single", [1]), _text_length(graph, output)], f"{output}.row", axis=0)
    one = numpy_helper.from_array(np.ones(1, np.float32))
    return node(graph, "ConstantOfShape", [row], f"{output}.ones", value=one)


def _length(graph: onnx.GraphProto, output: str) -> str:
    return node(graph, "Cast", [_text_length(graph, output)], f"{output}.length", to=TensorProto.FLOAT)


def _text_length(graph: onnx.GraphProto, output: str) -> str:
    name = f"{output}.tokens"
    if all(name not in other.output for other in graph.node):
        shape = node(graph, "Shape", ["input_ids"], f"{output}.shape")
        node(graph, "Gather", [shape, integers(graph, "second_axis", [1])], name)
    return name


_POOLINGS: dict[str, Callable[[onnx.GraphProto, str], str]] = {
    "mean": _mean,
    "cls": _cls,
    "max": _max,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
