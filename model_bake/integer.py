"""The stock operators that take the place of a MatMul or an embedding Gather.

    low, high = min(x), max(x)           over a token's k activations
    q = round((x - low) / step)          step = (high - low) / 255,  q in 0..255
    y = w_scale * step * (q @ Wq)  +  low * w_scale * colsum(Wq)

A *fine* product has sixteen bits of activation: what rounding left, in -step/2..step/2, is rounded to 255 levels of its
own, and both planes go through one integer product:

    f = round((x - low - q * step) * 255 / step + 127.5)
    y = w_scale * (step * (q @ Wq) + step/255 * (f @ Wq))  +  (low - step/2) * w_scale * colsum(Wq)

Nothing here looks beyond a token's own row. The integer products are exact, hence free of summation order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model_bake.rounding import LEVELS, SMALLEST_SPAN, QuantizedWeight


@dataclass(frozen=True, slots=True)
class _Activation:
    """Names of a quantized activation's tensors, and of what is left of it."""

    values: str
    step: str
    low: str
    rest: str
    span: str


class IntegerWriter:
    """Writes nodes, and puts their constants among `weights`.

    For a weight W: `W/int8` s8 (k, n), `W/scale` float32 (n,), `W/offset` float32 (n,), which is scale * colsum. For a
    table T: `T/int8` s8 (rows, dim), `T/scale` float32 (rows, 1).
    """

    def __init__(self, weights: dict[str, onnx.TensorProto]) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        # Query, key and value read the same activations: quantize those once.
        self._activations: dict[str, _Activation] = {}

    def gather(self, node: onnx.NodeProto, table: QuantizedWeight) -> list[onnx.NodeProto]:
        """Look rows of a table up and widen them."""
        self._nodes = []
        name, indices, output = node.input[0], node.input[1], node.output[0]
        values = self._constant(f"{name}/int8", table.values)
        scale = self._constant(f"{name}/scale", table.scale[:, None])
        rows = self._emit("Gather", [values, indices], f"{output}/rows")
        widened = self._emit("Cast", [rows], f"{output}/widened", to=TensorProto.FLOAT)
        scales = self._emit("Gather", [scale, indices], f"{output}/scales")
        self._emit("Mul", [widened, scales], output)
        return self._nodes

    def widened_matmul(self, node: onnx.NodeProto, weight: QuantizedWeight) -> list[onnx.NodeProto]:
        """Multiply fp32 activations by the weight as it comes back from s8."""
        self._nodes = []
        name = node.input[1]
        values = self._constant(f"{name}/int8", weight.values)
        widened = self._emit("Cast", [values], f"{name}/widened", to=TensorProto.FLOAT)
        real = self._emit("Mul", [widened, self._constant(f"{name}/scale", weight.scale)], f"{name}/real")
        self._emit("MatMul", [node.input[0], real], node.output[0])
        return self._nodes

    def matmul(self, node: onnx.NodeProto, weight: QuantizedWeight, *, fine: bool) -> list[onnx.NodeProto]:
        """Multiply in integers; `fine` with sixteen bits of activation."""
        self._nodes = []
        name, output = node.input[1], node.output[0]
        values = self._constant(f"{name}/int8", weight.values)
        scale = self._constant(f"{name}/scale", weight.scale)
        column_sum = weight.values.astype(np.int64).sum(axis=0).astype(np.float32)
        offset = self._constant(f"{name}/offset", column_sum * weight.scale)
        x = self._quantized(node.input[0])
        if fine:
            by_row, low = self._fine_product(x, values, output)
        else:
            product = self._emit("MatMulInteger", [x.values, values], f"{output}/integer")
            real = self._emit("Cast", [product], f"{output}/real", to=TensorProto.FLOAT)
            by_row, low = self._emit("Mul", [real, x.step], f"{output}/by_row"), x.low
        by_column = self._emit("Mul", [by_row, scale], f"{output}/by_column")
        self._emit("Add", [by_column, self._emit("Mul", [low, offset], f"{output}/low")], output)
        return self._nodes

    def _fine_product(self, x: _Activation, values: str, output: str) -> tuple[str, str]:
        """Return the names of the two planes' sum, times the steps, and of the offset that goes with it."""
        inverse = self._emit("Div", [self._scalar("levels_squared", LEVELS**2), x.span], f"{output}/fine_inverse")
        scaled = self._emit("Mul", [x.rest, inverse], f"{output}/fine_scaled")
        raised = self._emit("Add", [scaled, self._scalar("half_levels", LEVELS / 2)], f"{output}/fine_raised")
        rounded = self._emit("Round", [raised], f"{output}/fine_rounded")
        fine = self._emit("Cast", [rounded], f"{output}/fine", to=TensorProto.UINT8)
        # One product of both planes: onnxruntime can not load two that share a weight where it widens s8 (no VNNI).
        planes = self._emit("Concat", [x.values, fine], f"{output}/planes", axis=1)
        product = self._emit("MatMulInteger", [planes, values], f"{output}/integer")
        real = self._emit("Cast", [product], f"{output}/real", to=TensorProto.FLOAT)
        coarse_real, fine_real = f"{output}/coarse_real", f"{output}/fine_real"
        self._nodes.append(helper.make_node("Split", [real], [coarse_real, fine_real], name=f"{output}/parts", axis=1))
        fine_step = self._emit("Div", [x.step, self._scalar("levels", LEVELS)], f"{output}/fine_step")
        coarse = self._emit("Mul", [coarse_real, x.step], f"{output}/coarse_by_row")
        small = self._emit("Mul", [fine_real, fine_step], f"{output}/fine_by_row")
        half = self._emit("Mul", [x.step, self._scalar("half", 0.5)], f"{output}/half_step")
        low = self._emit("Sub", [x.low, half], f"{output}/fine_low")
        return self._emit("Add", [coarse, small], f"{output}/by_row"), low

    def _quantized(self, name: str) -> _Activation:
        if name not in self._activations:
            low = self._emit("ReduceMin", [name], f"{name}/low", axes=[-1], keepdims=1)
            high = self._emit("ReduceMax", [name], f"{name}/high", axes=[-1], keepdims=1)
            span = self._emit("Sub", [high, low], f"{name}/span")
            # A constant row would divide 0 by 0: with the smallest useful span it quantizes to all zeros.
            span = self._emit("Max", [span, self._scalar("smallest_span", SMALLEST_SPAN)], f"{name}/safe_span")
            inverse = self._emit("Div", [self._scalar("levels", LEVELS), span], f"{name}/inverse")
            step = self._emit("Div", [span, self._scalar("levels", LEVELS)], f"{name}/step")
            centred = self._emit("Sub", [name, low], f"{name}/centred")
            scaled = self._emit("Mul", [centred, inverse], f"{name}/scaled")
            rounded = self._emit("Round", [scaled], f"{name}/rounded")
            values = self._emit("Cast", [rounded], f"{name}/u8", to=TensorProto.UINT8)
            back = self._emit("Mul", [rounded, step], f"{name}/back")
            rest = self._emit("Sub", [centred, back], f"{name}/rest")
            self._activations[name] = _Activation(values, step, low, rest, span)
        return self._activations[name]

    def _scalar(self, name: str, value: float) -> str:
        return self._constant(f"quantize/{name}", np.array(value, dtype=np.float32))

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        return name

    def _emit(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], name=f"{output}:{op}", **attributes))
        return output
