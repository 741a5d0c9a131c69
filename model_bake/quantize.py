"""Batch-invariant int8 in stock ONNX operators.

Every MatMul with a constant weight W (k, n) becomes an integer one. The weight is s8, symmetric, with one scale for
each output channel; the activation is u8 with a scale and an offset for each token (row), so that nothing a token is
batched with can change its bits:

    low, high = min(x), max(x)           over the token's k activations
    q = round((x - low) / scale)         scale = (high - low) / 255,  q in 0..255
    y = scale * w_scale * (q @ Wq)  +  low * w_scale * colsum(Wq)  +  bias

The integer product is exact, hence free of summation order. Embedding tables are s8 with one scale for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SCHEME = "w8-s8-per-channel/a8-u8-per-token/embedding-s8-per-row"

Floats = NDArray[np.float32]
Bytes = NDArray[np.int8]

# A table below this many elements (token types, say) gains nothing from int8.
_SMALL_TABLE = 1 << 16


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A symmetric int8 tensor and the scales that undo it: `values * scale`, scale along one axis."""

    values: Bytes
    scale: Floats


def quantize_symmetric(weight: Floats, *, axis: int) -> QuantizedWeight:
    """Quantize to s8 in -127..127 with one absmax scale for each index along the *other* axis of a matrix.

    `axis` is the one reduced over: 0 gives a scale per column (output channel), 1 per row. An all-zero channel gets
    scale 1, so that it stays exactly zero.
    """
    peak = np.abs(weight).max(axis=axis, keepdims=True)
    scale = np.where(peak > 0, peak / np.float32(127), np.float32(1)).astype(np.float32)
    values = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    return QuantizedWeight(values, scale.squeeze(axis))


def quantize_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of an fp32 graph with its constant-weight MatMuls and large embedding Gathers in int8."""
    return _Rewriter(model).run()


class _Rewriter:
    """One pass over the nodes, in order; each is kept or replaced by its integer equivalent."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._added: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        # Query, key and value read the same activations: quantize those once.
        self._activations: dict[str, _Activation] = {}

    def run(self) -> onnx.ModelProto:
        graph = self._model.graph
        for node in graph.node:
            weight = self._weights.get(node.input[1]) if node.op_type == "MatMul" else None
            if weight is not None and len(weight.dims) == 2:
                self._matmul(node, numpy_helper.to_array(weight))
            elif node.op_type == "Gather" and self._is_large_table(node.input[0]):
                self._gather(node, numpy_helper.to_array(self._weights[node.input[0]]))
            else:
                self._nodes.append(node)
        nodes = list(self._nodes)
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(self._added.values())
        remove_unused_initializers(graph)
        return self._model

    def _is_large_table(self, name: str) -> bool:
        tensor = self._weights.get(name)
        return (
            tensor is not None
            and tensor.data_type == TensorProto.FLOAT
            and len(tensor.dims) == 2
            and tensor.dims[0] * tensor.dims[1] >= _SMALL_TABLE
        )

    def _gather(self, node: onnx.NodeProto, table: Floats) -> None:
        prefix, indices = node.output[0], node.input[1]
        quantized = quantize_symmetric(table, axis=1)
        values = self._constant(f"{prefix}/table", quantized.values)
        scale = self._constant(f"{prefix}/row_scale", quantized.scale[:, None])
        rows = self._emit("Gather", [values, indices], f"{prefix}/rows")
        widened = self._emit("Cast", [rows], f"{prefix}/widened", to=TensorProto.FLOAT)
        scales = self._emit("Gather", [scale, indices], f"{prefix}/scales")
        self._emit("Mul", [widened, scales], prefix)

    def _matmul(self, node: onnx.NodeProto, weight: Floats) -> None:
        prefix = node.output[0]
        quantized = quantize_symmetric(weight, axis=0)
        column_sum = quantized.values.astype(np.int64).sum(axis=0).astype(np.float32) * quantized.scale
        values = self._constant(f"{prefix}/weight", quantized.values)
        column_scale = self._constant(f"{prefix}/weight_scale", quantized.scale)
        column_offset = self._constant(f"{prefix}/weight_sum", column_sum)
        x = self._quantize_activation(node.input[0])
        product = self._emit("MatMulInteger", [x.values, values], f"{prefix}/integer")
        real = self._emit("Cast", [product], f"{prefix}/real", to=TensorProto.FLOAT)
        by_row = self._emit("Mul", [real, x.scale], f"{prefix}/by_row")
        by_column = self._emit("Mul", [by_row, column_scale], f"{prefix}/by_column")
        offset = self._emit("Mul", [x.low, column_offset], f"{prefix}/offset")
        self._emit("Add", [by_column, offset], prefix)

    def _quantize_activation(self, name: str) -> _Activation:
        if name not in self._activations:
            low = self._emit("ReduceMin", [name], f"{name}/low", axes=[-1], keepdims=1)
            high = self._emit("ReduceMax", [name], f"{name}/high", axes=[-1], keepdims=1)
            span = self._emit("Sub", [high, low], f"{name}/span")
            # A constant row would divide 0 by 0: with the smallest useful span it quantizes to all zeros.
            span = self._emit("Max", [span, self._scalar("smallest_span", 1e-20)], f"{name}/safe_span")
            inverse = self._emit("Div", [self._scalar("levels", 255.0), span], f"{name}/inverse")
            scale = self._emit("Div", [span, self._scalar("levels", 255.0)], f"{name}/scale")
            centred = self._emit("Sub", [name, low], f"{name}/centred")
            scaled = self._emit("Mul", [centred, inverse], f"{name}/scaled")
            rounded = self._emit("Round", [scaled], f"{name}/rounded")
            values = self._emit("Cast", [rounded], f"{name}/u8", to=TensorProto.UINT8)
            self._activations[name] = _Activation(values, scale, low)
        return self._activations[name]

    def _scalar(self, name: str, value: float) -> str:
        return self._constant(f"quantize/{name}", np.array(value, dtype=np.float32))

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        if name not in self._added:
            self._added[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _emit(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=f"{output}:{op}", **attributes))
        return output


@dataclass(frozen=True, slots=True)
class _Activation:
    """Names of a quantized activation's tensors: u8 values, scale per token, low (offset) per token."""

    values: str
    scale: str
    low: str


def remove_unused_initializers(graph: onnx.GraphProto) -> None:
    """Drop weights that no node reads any more."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
