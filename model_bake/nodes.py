"""Write stock ONNX operators: a node, a constant, and the few blocks that BERT-like models are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# LayerNormalization is one operator from 17 on; ReduceMean and ReduceMax keep their axes as attributes up to 17.
OPSET = 17
# The representation that came with opset 17: every onnxruntime since 1.12 reads it.
IR_VERSION = 8

Floats = NDArray[np.float32]
# A model's tensors by the initializer's name.
Weights = Callable[[str], Floats]
Constant = NDArray[np.float32] | NDArray[np.int64]


def new_model(name: str) -> onnx.ModelProto:
    """An empty model. Nothing of the machine, the day or a library's version enters its bytes."""
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="embakery")
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.graph.name = name
    return model


def add_input(graph: onnx.GraphProto, name: str, shape: Sequence[str | int]) -> str:
    """Declare an int64 input; a name in the shape is a free dimension."""
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, shape))
    return name


def add_output(graph: onnx.GraphProto, name: str, shape: Sequence[str | int]) -> None:
    """Declare a float32 output."""
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def node(graph: onnx.GraphProto, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
    """Append a node of one output, which names it too; returns that name."""
    graph.node.append(helper.make_node(op, inputs, [output], name=output, **attributes))
    return output


def constant(graph: onnx.GraphProto, name: str, value: Constant) -> str:
    """Append an initializer of float32 or int64."""
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def fill_in_input(graph: onnx.GraphProto, name: str, value: int) -> None:
    """Make an int64 input (batch, tokens), if the graph has it, inside the graph instead: everywhere `value`."""
    kept = [each for each in graph.input if each.name != name]
    if len(kept) == len(graph.input):
        return
    del graph.input[:]
    graph.input.extend(kept)
    nodes = list(graph.node)
    del graph.node[:]
    shape = node(graph, "Shape", ["input_ids"], f"{name}.shape")
    filling = numpy_helper.from_array(np.array([value], np.int64))
    node(graph, "ConstantOfShape", [shape], name, value=filling)
    graph.node.extend(nodes)


def integers(graph: onnx.GraphProto, name: str, values: int | Sequence[int]) -> str:
    """Return an int64 constant `constants.{name}`, written once however often it is asked for."""
    return _shared(graph, name, np.array(values, np.int64))


def scalar(graph: onnx.GraphProto, name: str, value: float) -> str:
    """Return a float32 constant `constants.{name}`, written once however often it is asked for."""
    return _shared(graph, name, np.array(value, np.float32))


def _shared(graph: onnx.GraphProto, name: str, value: Constant) -> str:
    full = f"constants.{name}"
    if all(tensor.name != full for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(value, full))
    return full


def linear(graph: onnx.GraphProto, x: str, name: str, weights: Weights) -> str:
    """Multiply (..., K) by `{name}.weight` (K, N) and add `{name}.bias` (N,): (..., N)."""
    product = node(graph, "MatMul", [x, _weight(graph, f"{name}.weight", weights)], f"{name}.product")
    return node(graph, "Add", [product, _weight(graph, f"{name}.bias", weights)], name)


def _weight(graph: onnx.GraphProto, name: str, weights: Weights) -> str:
    return constant(graph, name, weights(name))


def per_text_linear(graph: onnx.GraphProto, x: str, name: str, weight: Floats, bias: Floats | None) -> str:
    """Multiply one vector a text, (batch, K), by weight (N, K), add bias (N,): (batch, N), the same bits in any batch.

    (batch, K) x (K, N) would not do: unless it has prepacked the weight, onnxruntime takes another kernel for a batch
    of one, with another order of summation. weight x (batch, K, 1) is one (N, K) x (K, 1) product for each text.
    Initializers `{name}.weight` and `{name}.bias`.
    """
    last = integers(graph, "last_axis", [2])
    column = node(graph, "Unsqueeze", [x, last], f"{name}.column")
    product = node(graph, "MatMul", [constant(graph, f"{name}.weight", weight), column], f"{name}.product")
    if bias is None:
        return node(graph, "Squeeze", [product, last], name)
    flat = node(graph, "Squeeze", [product, last], f"{name}.flat")
    return node(graph, "Add", [flat, constant(graph, f"{name}.bias", bias)], name)


def layer_norm(graph: onnx.GraphProto, x: str, name: str, gain: Floats, bias: Floats, *, eps: float) -> str:
    """Normalize over the last axis. Initializers `{name}.gain` and `{name}.bias`."""
    inputs = [x, constant(graph, f"{name}.gain", gain), constant(graph, f"{name}.bias", bias)]
    return node(graph, "LayerNormalization", inputs, name, axis=-1, epsilon=eps)


def attention(
    graph: onnx.GraphProto, x: str, name: str, weights: Weights, *, heads: int, hidden: int, bias: str | None
) -> str:
    """Self-attention over (batch, tokens, hidden), without a mask: every token sees every other.

    The query's weights hold the scores' scale. bias: a tensor of shape (heads, tokens, tokens) to add to the scores.
    Initializers `{name}.query|key|value|output.weight|bias`.
    """
    split = integers(graph, "split_heads", [0, 0, heads, hidden // heads])
    parts = {}
    for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        full = f"{name}.{part}"
        flat = linear(graph, x, full, weights)
        apart = node(graph, "Reshape", [flat, split], f"{full}.split")
        parts[part] = node(graph, "Transpose", [apart], f"{full}.heads", perm=order)
    scores = node(graph, "MatMul", [parts["query"], parts["key"]], f"{name}.scores")
    if bias is not None:
        scores = node(graph, "Add", [scores, bias], f"{name}.biased")
    shares = node(graph, "Softmax", [scores], f"{name}.shares", axis=-1)
    context = node(graph, "MatMul", [shares, parts["value"]], f"{name}.context.heads")
    context = node(graph, "Transpose", [context], f"{name}.context.split", perm=[0, 2, 1, 3])
    joined = integers(graph, "join_heads", [0, 0, hidden])
    context = node(graph, "Reshape", [context, joined], f"{name}.context")
    return linear(graph, context, f"{name}.output", weights)


def positions(graph: onnx.GraphProto, ids: str, name: str) -> str:
    """0 .. tokens-1, of shape (tokens,), for ids (batch, tokens)."""
    shape = node(graph, "Shape", [ids], f"{name}.shape")
    length = node(graph, "Gather", [shape, integers(graph, "token_axis", 1)], f"{name}.length")
    return node(graph, "Range", [integers(graph, "zero", 0), length, integers(graph, "step", 1)], name)


def positions_past_pad(graph: onnx.GraphProto, ids: str, name: str, *, pad: int) -> str:
    """Count the tokens other than pad from 1, and give 0 to pad, of shape (batch, tokens).

    As transformers' create_position_ids_from_input_ids, less its offset.
    """
    is_pad = node(graph, "Equal", [ids, integers(graph, "pad_token", pad)], f"{name}.is_pad")
    counts = node(graph, "Not", [is_pad], f"{name}.counts")
    mask = node(graph, "Cast", [counts], f"{name}.mask", to=TensorProto.INT64)
    running = node(graph, "CumSum", [mask, integers(graph, "token_axis", 1)], f"{name}.running")
    return node(graph, "Mul", [running, mask], name)


def relative_bias(graph: onnx.GraphProto, places: str, table: Floats) -> str:
    """Look up (heads, tokens, tokens) in a table (heads, 2 * farthest + 1) by the distance j - i of key j to query i.

    places: the tokens' places, 0 .. tokens-1. Distances beyond the farthest take its bias. Initializer
    `attention.relative_bias`.
    """
    farthest = table.shape[1] // 2
    row = node(graph, "Unsqueeze", [places, integers(graph, "first_axis", [0])], "distance.to")
    column = node(graph, "Unsqueeze", [places, integers(graph, "second_axis", [1])], "distance.from")
    distance = node(graph, "Sub", [row, column], "distance")
    far = integers(graph, "farthest", farthest)
    near = node(graph, "Clip", [distance, integers(graph, "farthest_back", -farthest), far], "distance.clipped")
    index = node(graph, "Add", [near, far], "distance.index")
    rows = constant(graph, "attention.relative_bias", table)
    return node(graph, "Gather", [rows, index], "attention.bias", axis=1)


def activate(graph: onnx.GraphProto, x: str, kind: str, output: str) -> str:
    """Apply gelu (by Erf), gelu_tanh, relu, silu or tanh."""
    _ACTIVATIONS[kind](graph, x, output)
    return output


def _gelu(graph: onnx.GraphProto, x: str, output: str) -> None:
    scaled = node(graph, "Div", [x, scalar(graph, "sqrt_2", 2**0.5)], f"{output}.scaled")
    erf = node(graph, "Erf", [scaled], f"{output}.erf")
    _half_gate(graph, x, erf, output)


def _gelu_tanh(graph: onnx.GraphProto, x: str, output: str) -> None:
    square = node(graph, "Mul", [x, x], f"{output}.square")
    cube = node(graph, "Mul", [square, x], f"{output}.cube")
    small = node(graph, "Mul", [cube, scalar(graph, "gelu_cubic", 0.044715)], f"{output}.small")
    inner = node(graph, "Add", [x, small], f"{output}.inner")
    scaled = node(graph, "Mul", [inner, scalar(graph, "sqrt_2_over_pi", (2 / np.pi) ** 0.5)], f"{output}.scaled")
    _half_gate(graph, x, node(graph, "Tanh", [scaled], f"{output}.tanh"), output)


def _half_gate(graph: onnx.GraphProto, x: str, gate: str, output: str) -> None:
    """X * (1 + gate) / 2, in the order in which onnxruntime's fusions expect a gelu."""
    raised = node(graph, "Add", [gate, scalar(graph, "one", 1.0)], f"{output}.raised")
    gated = node(graph, "Mul", [x, raised], f"{output}.gated")
    node(graph, "Mul", [gated, scalar(graph, "half", 0.5)], output)


def _silu(graph: onnx.GraphProto, x: str, output: str) -> None:
    node(graph, "Mul", [x, node(graph, "Sigmoid", [x], f"{output}.sigmoid")], output)


def _relu(graph: onnx.GraphProto, x: str, output: str) -> None:
    node(graph, "Relu", [x], output)


def _tanh(graph: onnx.GraphProto, x: str, output: str) -> None:
    node(graph, "Tanh", [x], output)


_ACTIVATIONS: dict[str, Callable[[onnx.GraphProto, str, str], None]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
    "silu": _silu,
    "tanh": _tanh,
}
