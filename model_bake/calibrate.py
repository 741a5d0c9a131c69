"""The calibration walk: real texts through a graph, one segment at a time, each node executed once.

The MatMuls with constant weights cut the graph into segments. A `Walk` keeps the tensors that are still needed, for
every calibration text, and runs the next segment as a small model of its own; in between, the caller may replace nodes
that have not run yet. Two walks side by side, one through the fp32 graph and one through the graph as quantized so far,
give a layer's inputs as they should be and as they will be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from embakery.engines.runtime import onnxruntime as ort
from model_bake.rounding import Floats

Feed = Mapping[str, NDArray[Any]]
Plan = list[list[onnx.NodeProto]]

# Tokens of one run: more texts of one length go into further runs.
_CHUNK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Site:
    """MatMuls with constant weights that read one activation; they are quantized together.

    activation: the tensor's name. nodes: indices of the MatMuls in the graph, ascending.
    """

    activation: str
    nodes: tuple[int, ...]


def find_sites(graph: onnx.GraphProto) -> list[Site]:
    """Return the sites in the order in which the graph reaches them."""
    weights = {
        tensor.name for tensor in graph.initializer if len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT
    }
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        if node.op_type == "MatMul" and node.input[1] in weights and node.input[0] not in weights:
            readers.setdefault(node.input[0], []).append(index)
    return [Site(activation, tuple(nodes)) for activation, nodes in readers.items()]


def batch_by_length(texts: Sequence[Feed], *, chunk_tokens: int = _CHUNK_TOKENS) -> list[dict[str, NDArray[Any]]]:
    """Stack texts, each with inputs int64 (tokens,), into chunks of one exact length: nothing is padded."""
    groups: dict[int, list[Feed]] = {}
    for text in texts:
        groups.setdefault(len(next(iter(text.values()))), []).append(text)
    chunks = []
    for length, group in sorted(groups.items(), reverse=True):
        size = max(1, chunk_tokens // length)
        for start in range(0, len(group), size):
            part = group[start : start + size]
            chunks.append({name: np.stack([text[name] for text in part]) for name in part[0]})
    return chunks


@dataclass(slots=True)
class Walk:
    """One stream of calibration texts through a graph.

    plan: for each node of the original graph the nodes that take its place, at first itself. weights: what they may
    read. live: for each chunk the tensors still needed.
    """

    plan: Plan
    weights: dict[str, onnx.TensorProto]
    live: list[dict[str, NDArray[Any]]]
    position: int = 0
    threads: int = 2
    _opset: list[onnx.OperatorSetIdProto] = field(default_factory=list)

    @classmethod
    def start(cls, model: onnx.ModelProto, chunks: Sequence[Feed]) -> Walk:
        """Stand before the first node. Of the chunks only what the graph takes as input counts."""
        inputs = [value.name for value in model.graph.input]
        return cls(
            plan=[[node] for node in model.graph.node],
            weights={tensor.name: tensor for tensor in model.graph.initializer},
            live=[{name: chunk[name] for name in inputs} for chunk in chunks],
            _opset=list(model.opset_import),
        )

    def run_to(self, site: Site) -> Floats:
        """Run up to the first MatMul of a site; return its inputs, float32 (tokens of all chunks, k)."""
        self._advance(site.nodes[0])
        rows = [chunk[site.activation] for chunk in self.live]
        return np.concatenate([part.reshape(-1, part.shape[-1]) for part in rows]).astype(np.float32, copy=False)

    def _advance(self, end: int) -> None:
        nodes = [node for group in self.plan[self.position : end] for node in group]
        self.position = end
        needed = set(_read(node for group in self.plan[end:] for node in group))
        made = sorted({name for node in nodes for name in node.output if name in needed})
        if made:
            session = _open(nodes, made, self.live[0], self.weights, self._opset)
            wanted = [value.name for value in session.get_inputs()]

            def run(chunk: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
                results = session.run(made, {name: chunk[name] for name in wanted})
                return dict(zip(made, results, strict=True))

            with ThreadPoolExecutor(self.threads) as pool:
                for chunk, results in zip(self.live, pool.map(run, self.live), strict=True):
                    chunk.update(results)
        for chunk in self.live:
            for name in chunk.keys() - needed:
                del chunk[name]


def _read(nodes: Iterator[onnx.NodeProto]) -> Iterator[str]:
    return (name for node in nodes for name in node.input)


def _open(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    example: Feed,
    weights: Mapping[str, onnx.TensorProto],
    opset: Sequence[onnx.OperatorSetIdProto],
) -> Any:
    """Make a session of some nodes. They read live tensors and weights; types are taken from an example."""
    read = sorted(set(_read(iter(nodes))))
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(example[name].dtype), [None] * example[name].ndim
        )
        for name in read
        if name in example
    ]
    graph = helper.make_graph(
        list(nodes),
        "segment",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [weights[name] for name in read if name in weights],
    )
    model = helper.make_model(graph, opset_imports=list(opset), ir_version=9)
    options = ort.SessionOptions()
    # As the engine runs them: one thread, exact integer products.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
