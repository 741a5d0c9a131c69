"""Graph surgery on the exported encoder: no mask, pooled and normalized, one clean interface.

In:  input_ids int64 (batch, tokens), and token_type_ids where the model has them. Every text of a call has the same
     length, so there is no padding and no attention mask.
Out: token_embeddings float32 (batch, tokens, hidden) and sentence_embedding float32 (batch, hidden).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embakery.errors import ConfigurationError
from model_bake.spec import EncoderSpec

_MASK = "attention_mask"
TOKENS = "token_embeddings"
SENTENCE = "sentence_embedding"


def finish_encoder(exported: onnx.ModelProto, spec: EncoderSpec) -> onnx.ModelProto:
    """Turn the exported transformer (`last_hidden_state`) into the encoder of the artifact."""
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    drop_attention_mask(model.graph)
    _rename(model.graph, "last_hidden_state", TOKENS)
    _append_pooling(model.graph, spec)
    hidden = spec.dimensions[0]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(TOKENS, TensorProto.FLOAT, ["batch", "tokens", hidden]))
    model.graph.output.append(helper.make_tensor_value_info(SENTENCE, TensorProto.FLOAT, ["batch", hidden]))
    # Nothing of the machine or the day may enter the digest.
    model.producer_name, model.producer_version, model.doc_string = "embakery", "", ""
    for node in model.graph.node:
        node.doc_string = ""
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    return model


def drop_attention_mask(graph: onnx.GraphProto) -> None:
    """Remove the mask input and the additions that apply it.

    Texts are never padded, so the mask is all ones and adds exactly zero to every attention score.
    Raises ConfigurationError if the mask is used in any other way.
    """
    masked: set[str] = {_MASK}
    replaced: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = replaced.get(name, name)
        tainted = [name for name in node.input if name in masked]
        if not tainted:
            kept.append(node)
        elif node.op_type == "Add" and len(tainted) == 1:
            (scores,) = (name for name in node.input if name not in masked)
            replaced[node.output[0]] = scores
        else:
            masked.update(node.output)
    if masked & {output.name for output in graph.output}:
        raise ConfigurationError("the model uses its attention mask in a way that cannot be baked")
    del graph.node[:]
    graph.node.extend(_reachable(kept, {replaced.get(output.name, output.name) for output in graph.output}))
    inputs = [value for value in graph.input if value.name != _MASK]
    del graph.input[:]
    graph.input.extend(inputs)


def _reachable(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Keep, in order, the nodes that the wanted values need."""
    needed = set(wanted)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new


def _append_pooling(graph: onnx.GraphProto, spec: EncoderSpec) -> None:
    pooled = "pooled" if spec.normalize else SENTENCE
    _POOLINGS[spec.pooling](graph, pooled)
    if not spec.normalize:
        return
    length = _node(graph, "ReduceL2", [pooled], "length", axes=[-1], keepdims=1)
    # As torch.nn.functional.normalize: never divide by less than 1e-12.
    safe = _node(graph, "Max", [length, _constant(graph, "smallest_length", np.float32(1e-12))], "safe_length")
    _node(graph, "Div", [pooled, safe], SENTENCE)


def _mean(graph: onnx.GraphProto, output: str) -> None:
    # Not ReduceMean: over a middle axis onnxruntime adds in an order that depends on the batch (263 of 300 texts
    # changed their bits); a Transpose in front of it is optimized away. A row of ones times a text's matrix is that
    # text's own affair.
    shape = _node(graph, "Shape", ["input_ids"], "shape")
    length = _node(graph, "Gather", [shape, _constant(graph, "second", np.array([1]))], "text_length")
    row = _node(graph, "Concat", [_constant(graph, "one", np.array([1])), length], "row_shape", axis=0)
    ones = _node(graph, "ConstantOfShape", [row], "ones", value=numpy_helper.from_array(np.ones(1, np.float32)))
    total = _node(graph, "MatMul", [ones, TOKENS], "total")
    total = _node(graph, "Squeeze", [total, _constant(graph, "token_axis", np.array([1]))], "total_flat")
    _node(graph, "Div", [total, _node(graph, "Cast", [length], "divisor", to=TensorProto.FLOAT)], output)


def _max(graph: onnx.GraphProto, output: str) -> None:
    _node(graph, "ReduceMax", [TOKENS], output, axes=[1], keepdims=0)


def _cls(graph: onnx.GraphProto, output: str) -> None:
    _node(graph, "Gather", [TOKENS, _constant(graph, "first", np.int64(0))], output, axis=1)


def _last_token(graph: onnx.GraphProto, output: str) -> None:
    _node(graph, "Gather", [TOKENS, _constant(graph, "last", np.int64(-1))], output, axis=1)


_POOLINGS: dict[str, Callable[[onnx.GraphProto, str], None]] = {
    "mean": _mean,
    "max": _max,
    "cls": _cls,
    "lasttoken": _last_token,
}


def _node(graph: onnx.GraphProto, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
    graph.node.append(helper.make_node(op, inputs, [output], name=f"pooling/{output}", **attributes))
    return output


def _constant(graph: onnx.GraphProto, name: str, value: np.generic | NDArray[np.int64]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return name
