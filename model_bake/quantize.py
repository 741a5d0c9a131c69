"""Batch-invariant int8: which parts of a graph become integers, and with which weights.

    split      the loud units of each feed-forward layer from the rest (outliers.py)
    equalize   channels that share a scale (equalize.py)
    then site by site, in the graph's order:
    calibrate  the inputs in fp32, and as they will be after everything quantized so far (calibrate.py)
    round      the weights, so that the outputs stay (rounding.py); the mean of the error goes into the bias
    write      the integer operators (integer.py)

Nothing that a token is batched with can change its bits: scales of activations are per token, integer sums are exact.
Weights are s8 with one scale for each output channel, large embedding tables s8 with one for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from model_bake.calibrate import Feed, Site, Walk, batch_by_length, find_sites
from model_bake.equalize import equalize
from model_bake.graph import Links
from model_bake.integer import IntegerWriter
from model_bake.outliers import split_loud_units
from model_bake.progress import SILENT, Report
from model_bake.rounding import (
    Bytes,
    Doubles,
    Floats,
    QuantizedWeight,
    absmax_scale,
    covariance,
    quantize_symmetric,
    round_gptq,
    round_rows,
)

Precision = Literal["int8", "int8-weights", "fp32"]

# What each precision does to a weight and an activation; part of the space id.
SCHEMES: dict[Precision, str] = {
    "int8": "w8-s8-per-channel-gptq/a8-u8-per-token/values-a16/embedding-s8-per-row/2",
    "int8-weights": "w8-s8-per-channel-gptq/a32/embedding-s8-per-row/2",
    "fp32": "fp32",
}

# A table below this many elements (token types, say) gains nothing from int8.
_SMALL_TABLE = 1 << 16
# Measured from .001 to .1, relative to the mean diagonal: less trusts the calibration texts too much.
_RIDGE = 0.03


def quantize_model(
    model: onnx.ModelProto,
    *,
    calibration: Sequence[Feed],
    precision: Precision = "int8",
    report: Report = SILENT,
) -> onnx.ModelProto:
    """Return a copy of an fp32 graph in a precision. calibration: inputs int64 (tokens,) by name, for each text."""
    if precision == "fp32":
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    chunks = batch_by_length(calibration)
    if precision == "int8":
        model = equalize(split_loud_units(model, chunks), chunks)
    return Quantizer(model, chunks, precision).run(report)


class Quantizer:
    """Two walks through one graph: as it is, and as quantized so far."""

    def __init__(self, model: onnx.ModelProto, chunks: Sequence[Feed], precision: Precision) -> None:
        self._model = model
        self._links = Links.of(model.graph)
        self._exact, self._seen = Walk.start(model, chunks), Walk.start(model, chunks)
        self._writer = IntegerWriter(self._seen.weights)
        self._precision = precision
        contexts = (self._links.value_projection(site.activation) for site in find_sites(model.graph))
        self._value_weights = {found[0] for found in contexts if found is not None}

    def run(self, report: Report = SILENT) -> onnx.ModelProto:
        """Quantize everything that can be; returns the new graph."""
        self._tables()
        sites = find_sites(self._model.graph)
        with report.progress("quantize", len(sites)) as advance:
            for site in sites:
                self._site(site)
                advance(1)
        return self._finish()

    def rounded(self, weight: Doubles, scale: Floats, seen: Floats) -> Bytes:
        """Round weights (k, n) of one scale for each column, knowing the inputs (tokens, k) that they will see."""
        return round_gptq(weight, scale, covariance(seen, ridge=_RIDGE))

    def is_fine(self, weight: str) -> bool:
        """Whether a weight's activations get sixteen bits."""
        # Rounding what the values are made of costs more than all other activations' rounding: docs/decisions/0007.
        return weight in self._value_weights

    def _tables(self) -> None:
        """Quantize the large tables that ids look up; positions are few and stay as they are."""
        for index, node in enumerate(self._model.graph.node):
            if node.op_type == "Gather" and node.input[1] == "input_ids" and self._is_large_table(node.input[0]):
                table = quantize_symmetric(self._links.array(node.input[0]), axis=1)
                self._seen.plan[index] = self._writer.gather(node, table)

    def _site(self, site: Site) -> None:
        """Quantize the products that read one activation."""
        exact, seen = self._exact.run_to(site), self._seen.run_to(site)
        if self._precision == "int8":
            seen = round_rows(seen)
        weights = [self._links.array(self._links.node(index).input[1]) for index in site.nodes]
        joined = np.concatenate(weights, axis=1).astype(np.float64)
        scale = absmax_scale(joined, axis=0)
        values = self.rounded(joined, scale, seen)
        error = exact.mean(axis=0, dtype=np.float64) @ joined - seen.mean(axis=0, dtype=np.float64) @ (values * scale)
        start = 0
        for index, weight in zip(site.nodes, weights, strict=True):
            columns = slice(start, start + weight.shape[1])
            start = columns.stop
            bias = self._links.bias_after(index)
            if bias is not None:
                self._shift_bias(bias, error[columns])
            rounded = QuantizedWeight(np.ascontiguousarray(values[:, columns]), scale[columns])
            self._seen.plan[index] = self._write(self._links.node(index), rounded)

    def _finish(self) -> onnx.ModelProto:
        """Return the quantized graph."""
        out = onnx.ModelProto()
        out.CopyFrom(self._model)
        del out.graph.node[:]
        out.graph.node.extend(remove_unread([node for group in self._seen.plan for node in group], out.graph))
        del out.graph.initializer[:]
        read = {name for node in out.graph.node for name in node.input}
        out.graph.initializer.extend(tensor for name, tensor in self._seen.weights.items() if name in read)
        return out

    def _write(self, node: onnx.NodeProto, weight: QuantizedWeight) -> list[onnx.NodeProto]:
        if self._precision == "int8-weights":
            return self._writer.widened_matmul(node, weight)
        return self._writer.matmul(node, weight, fine=self.is_fine(node.input[1]))

    def _shift_bias(self, name: str, error: Doubles) -> None:
        """Add to a bias. Two halves of one product share theirs, so it is the walk's that counts."""
        bias = numpy_helper.to_array(self._seen.weights[name]) + error
        self._seen.weights[name] = numpy_helper.from_array(bias.astype(np.float32), name)

    def _is_large_table(self, name: str) -> bool:
        tensor = self._links.weights.get(name)
        return (
            tensor is not None
            and tensor.data_type == TensorProto.FLOAT
            and len(tensor.dims) == 2
            and tensor.dims[0] * tensor.dims[1] >= _SMALL_TABLE
        )


def remove_unread(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Drop, in order, the nodes whose results nothing reads."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
