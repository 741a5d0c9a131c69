"""The quantizer against its own formula, in numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bake_models import FAMILY_VOCABULARY, save_family
from onnx import TensorProto, helper, numpy_helper

from embakery.engines.onnx import open_session
from model_bake.bert_family import build_encoder
from model_bake.calibrate import batch_by_length
from model_bake.equalize import equalize
from model_bake.integer import IntegerWriter
from model_bake.outliers import split_loud_units
from model_bake.quantize import Precision, quantize_model
from model_bake.rounding import QuantizedWeight, covariance, quantize_symmetric, round_gptq


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


def calibration(width: int = 96) -> list[dict[str, Any]]:
    draw = np.random.default_rng(4)
    return [{"x": draw.standard_normal((tokens, width)).astype(np.float32)} for tokens in (5, 9, 9, 40)]


def linear_graph(weight: Any) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return graph_of([node], {"x": (TensorProto.FLOAT, ["b", "t", 96])}, {"w": weight})


@pytest.fixture
def linear(weight: Any) -> onnx.ModelProto:
    return quantize_model(linear_graph(weight), calibration=calibration())


def weight_of(model: onnx.ModelProto) -> QuantizedWeight:
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return QuantizedWeight(arrays["w/int8"], arrays["w/scale"])


def formula(x: Any, quantized: QuantizedWeight) -> Any:
    """The docstring of model_bake.integer, in float64."""
    low, high = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    span = np.maximum(high - low, np.float32(1e-20))
    q = np.rint((x - low) * (np.float32(255) / span)).astype(np.int64)
    product = q @ quantized.values.astype(np.int64)
    sums = quantized.values.astype(np.int64).sum(axis=0)
    scale = quantized.scale.astype(np.float64)
    return (span.astype(np.float64) / 255) * scale * product + low.astype(np.float64) * scale * sums


def test_a_linear_layer_is_what_the_formula_says(linear: onnx.ModelProto, weight: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(2).standard_normal((3, 5, 96)).astype(np.float32)
    np.testing.assert_allclose(run(linear, tmp_path, x=x), formula(x, weight_of(linear)), rtol=2e-5, atol=2e-5)
    assert weight_of(linear).scale.tolist() == (np.abs(weight).max(axis=0) / np.float32(127)).tolist()


def test_a_fine_product_loses_almost_nothing_of_the_activation(weight: Any, tmp_path: Path) -> None:
    model = linear_graph(weight)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    quantized = quantize_symmetric(weight, axis=0)
    nodes = IntegerWriter(weights).matmul(model.graph.node[0], quantized, fine=True)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights.values())
    x = np.random.default_rng(2).standard_normal((3, 5, 96)).astype(np.float32)
    x[0, 0], x[0, 1] = 3.0, 0.0
    exact = x.astype(np.float64) @ (quantized.values * quantized.scale.astype(np.float64))
    error = np.abs(run(model, tmp_path, x=x) - exact).max()
    assert error <= 2e-3
    assert error < np.abs(formula(x, quantized) - exact).max() / 50


def test_rounding_by_the_covariance_beats_nearest_on_its_own_objective(weight: Any) -> None:
    draw = np.random.default_rng(5)
    inputs = (draw.standard_normal((400, 12)) @ draw.standard_normal((12, 96))).astype(np.float32)
    hessian = covariance(inputs + draw.standard_normal(inputs.shape).astype(np.float32) * 0.1, ridge=0.01)
    nearest = quantize_symmetric(weight, axis=0)
    rounded = round_gptq(weight.astype(np.float64), nearest.scale, hessian)

    def loss(values: Any) -> float:
        error = values * nearest.scale - weight
        return float(np.trace(error.T @ hessian @ error))

    assert loss(rounded) < 0.5 * loss(nearest.values)
    assert np.abs(rounded).max() <= 127


def small_bert(folder: Path) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """Two layers, wide enough inside for loud units to be split off, and texts for it."""
    save_family(folder, "bert", settings={"intermediate_size": 512})
    draw = np.random.default_rng(6)
    return build_encoder(folder), [
        {"input_ids": draw.integers(0, FAMILY_VOCABULARY, tokens)} for tokens in (3, 8, 8, 20, 40, 40)
    ]


def test_splitting_and_equalizing_leave_the_function_as_it_is(tmp_path: Path) -> None:
    model, texts = small_bert(tmp_path / "model")
    chunks = batch_by_length(texts)
    split = split_loud_units(model, chunks)
    equal = equalize(split, chunks)
    ids = np.random.default_rng(7).integers(0, FAMILY_VOCABULARY, (2, 17))
    before = run(model, tmp_path, input_ids=ids)
    for changed in (split, equal):
        onnx.checker.check_model(changed)
        assert np.abs(run(changed, tmp_path, input_ids=ids) - before).max() <= 2e-5
    assert sum(node.op_type == "MatMul" for node in split.graph.node) == 2 + sum(
        node.op_type == "MatMul" for node in model.graph.node
    )
    names = {tensor.name for tensor in equal.graph.initializer}
    # The norm after the attention and the one before it; the last one's output leaves the graph and stays.
    assert {"embeddings.norm/residual_scale", "layers.1.attention.norm/residual_scale"} <= names


def test_values_are_fine_and_nothing_else_is(tmp_path: Path) -> None:
    model, texts = small_bert(tmp_path / "model")
    quantized = quantize_model(model, calibration=texts)
    fine = [node.input[0] for node in quantized.graph.node if node.op_type == "Concat" and "planes" in node.output[0]]
    assert len(fine) == 2
    integers = [node.input[1] for node in quantized.graph.node if node.op_type == "MatMulInteger"]
    assert len(integers) == 2 * 7
    assert not [node for node in quantized.graph.node if node.op_type == "MatMul" and node.input[1].endswith("weight")]


@pytest.mark.parametrize("precision", ["int8", "int8-weights"])
def test_quantized_graphs_are_close_and_do_not_see_the_batch(tmp_path: Path, precision: Precision) -> None:
    model, texts = small_bert(tmp_path / "model")
    quantized = quantize_model(model, calibration=texts, precision=precision)
    ids = np.random.default_rng(8).integers(0, FAMILY_VOCABULARY, (9, 17))
    before, together = run(model, tmp_path, input_ids=ids), run(quantized, tmp_path, input_ids=ids)
    cosine = (before * together).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(together, axis=-1)
    assert cosine.min() >= 0.99
    session = open_session(tmp_path / "model.onnx")
    for row, expected in zip(ids, together, strict=True):
        assert session.run(None, {"input_ids": row[None]})[0].tobytes() == expected.tobytes()


def test_the_same_graph_and_texts_give_the_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    script = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, "tests/bake")
from test_quantize import quantize_model, small_bert
model, texts = small_bert(Path(sys.argv[1]))
print(hashlib.sha256(quantize_model(model, calibration=texts).SerializeToString(deterministic=True)).hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / f"model{threads}")],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2", "2")
    }
    assert len(digests) == 1


def test_extreme_products_do_not_saturate(tmp_path: Path) -> None:
    """On x86 without VNNI u8 x s8 pairs overflow 16 bits, unless the session asks for exact products."""
    weight = np.ones((96, 40), dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = graph_of([node], {"x": (TensorProto.FLOAT, ["b", "t", 96])}, {"w": weight})
    model = quantize_model(graph, calibration=calibration())
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
    node = helper.make_node("Gather", ["table", "input_ids"], ["y"])
    texts = [{"input_ids": np.array([0, 5, 2047])}]
    inputs: dict[str, tuple[int, list[str | int]]] = {"input_ids": (TensorProto.INT64, ["b", "t"])}
    large = quantize_model(graph_of([node], inputs, {"table": table}), calibration=texts)
    assert {tensor.data_type for tensor in large.graph.initializer} == {TensorProto.INT8, TensorProto.FLOAT}
    ids = np.array([[0, 5, 2047]])
    steps = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(run(large, tmp_path, input_ids=ids)[0] - table[ids[0]]) <= steps[ids[0]] / 2 + 1e-6).all()
    small = quantize_model(graph_of([node], inputs, {"table": table[:100]}), calibration=texts)
    assert [item.op_type for item in small.graph.node] == ["Gather"]


def test_the_input_is_not_changed(weight: Any) -> None:
    model = linear_graph(weight)
    before = model.SerializeToString()
    quantize_model(model, calibration=calibration())
    assert model.SerializeToString() == before
