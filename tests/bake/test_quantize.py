"""The quantizer against its own formula, in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from embakery.engines.onnx import open_session
from embakery.errors import ConfigurationError
from model_bake.graph import drop_attention_mask
from model_bake.quantize import quantize_model, quantize_symmetric


def test_each_channel_has_its_own_scale() -> None:
    weight = np.array([[1.0, -0.5, 0.0], [-2.0, 0.25, 0.0]], dtype=np.float32)
    by_column = quantize_symmetric(weight, axis=0)
    assert by_column.values.tolist() == [[64, -127, 0], [-127, 64, 0]]
    np.testing.assert_allclose(by_column.scale, [2 / 127, 0.5 / 127, 1], rtol=1e-6)
    by_row = quantize_symmetric(weight, axis=1)
    assert by_row.values.tolist() == [[127, -64, 0], [-127, 16, 0]]
    np.testing.assert_allclose(by_row.scale, [1 / 127, 2 / 127], rtol=1e-6)


def run(model: onnx.ModelProto, folder: Path, **feed: Any) -> Any:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return open_session(path).run(None, feed)[0]


def graph_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[str | int]]], weights: dict[str, Any]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def weight() -> Any:
    return np.random.default_rng(1).standard_normal((96, 40)).astype(np.float32)


@pytest.fixture
def linear(weight: Any) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return quantize_model(graph_of([node], {"x": (TensorProto.FLOAT, ["b", "t", 96])}, {"w": weight}))


def formula(x: Any, weight: Any) -> Any:
    """The docstring of model_bake.quantize, in float64."""
    quantized = quantize_symmetric(weight, axis=0)
    low, high = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    span = np.maximum(high - low, np.float32(1e-20))
    q = np.rint((x - low) * (np.float32(255) / span)).astype(np.int64)
    product = q @ quantized.values.astype(np.int64)
    sums = quantized.values.astype(np.int64).sum(axis=0)
    scale = quantized.scale.astype(np.float64)
    return (span.astype(np.float64) / 255) * scale * product + low.astype(np.float64) * scale * sums


def test_a_linear_layer_is_what_the_formula_says(linear: onnx.ModelProto, weight: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(2).standard_normal((3, 5, 96)).astype(np.float32)
    np.testing.assert_allclose(run(linear, tmp_path, x=x), formula(x, weight), rtol=2e-5, atol=2e-5)


def test_extreme_products_do_not_saturate(tmp_path: Path) -> None:
    """On x86 without VNNI u8 x s8 pairs overflow 16 bits, unless the session asks for exact products."""
    weight = np.ones((96, 40), dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = quantize_model(graph_of([node], {"x": (TensorProto.FLOAT, ["b", "t", 96])}, {"w": weight}))
    x = np.ones((1, 2, 96), dtype=np.float32)
    x[..., 0] = 0
    np.testing.assert_allclose(run(model, tmp_path, x=x), np.full((1, 2, 40), 95.0), rtol=1e-5)


def test_constant_rows_stay_finite(linear: onnx.ModelProto, weight: Any, tmp_path: Path) -> None:
    x = np.zeros((1, 3, 96), dtype=np.float32)
    x[0, 1], x[0, 2] = 7.0, -7.0
    y = run(linear, tmp_path, x=x)
    assert np.isfinite(y).all()
    assert not y[0, 0].any()
    # The rounding of the weights, 96 times over, is all that is left.
    np.testing.assert_allclose(y[0, 1], 7 * weight.sum(axis=0), atol=7 * 96 * np.abs(weight).max() / 254)


def test_a_large_table_is_int8_and_a_small_one_is_left(tmp_path: Path) -> None:
    table = np.random.default_rng(3).standard_normal((2048, 32)).astype(np.float32)
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    large = quantize_model(graph_of([node], {"ids": (TensorProto.INT64, ["b", "t"])}, {"table": table}))
    assert {tensor.data_type for tensor in large.graph.initializer} == {TensorProto.INT8, TensorProto.FLOAT}
    ids = np.array([[0, 5, 2047]])
    steps = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(run(large, tmp_path, ids=ids)[0] - table[ids[0]]) <= steps[ids[0]] / 2 + 1e-6).all()
    small = quantize_model(graph_of([node], {"ids": (TensorProto.INT64, ["b", "t"])}, {"table": table[:100]}))
    assert [item.op_type for item in small.graph.node] == ["Gather"]


def test_the_input_is_not_changed(weight: Any) -> None:
    model = graph_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (TensorProto.FLOAT, ["b", "t", 96])}, {"w": weight}
    )
    before = model.SerializeToString()
    quantize_model(model)
    assert model.SerializeToString() == before


def masked(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    inputs: dict[str, tuple[int, list[str | int]]] = {
        "scores": (TensorProto.FLOAT, ["b", "t"]),
        "attention_mask": (TensorProto.FLOAT, ["b", "t"]),
    }
    return graph_of(list(nodes), inputs, {"one": np.float32(1), "large": np.float32(-1e9)}).graph


def test_a_mask_that_is_added_is_dropped() -> None:
    graph = masked(
        helper.make_node("Sub", ["one", "attention_mask"], ["inverse"]),
        helper.make_node("Mul", ["inverse", "large"], ["bias"]),
        helper.make_node("Add", ["scores", "bias"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"]),
    )
    drop_attention_mask(graph)
    assert [(node.op_type, list(node.input)) for node in graph.node] == [("Softmax", ["scores"])]
    assert [value.name for value in graph.input] == ["scores"]


def test_a_mask_that_is_used_otherwise_is_refused() -> None:
    graph = masked(helper.make_node("Mul", ["scores", "attention_mask"], ["y"]))
    with pytest.raises(ConfigurationError, match="attention mask"):
        drop_attention_mask(graph)
