"""Reading a graph: who makes a tensor, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from model_bake.rounding import Floats

_FROM_CONTEXT_TO_VALUES = (("Reshape", 0), ("Transpose", 0), ("MatMul", 1), ("Transpose", 0), ("Reshape", 0))


@dataclass(frozen=True, slots=True)
class Links:
    """Who makes and who reads each tensor of a graph, by node index."""

    graph: onnx.GraphProto
    maker: dict[str, int]
    readers: dict[str, list[int]]
    weights: dict[str, onnx.TensorProto]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Links:
        """Index a graph."""
        readers: dict[str, list[int]] = {}
        for index, node in enumerate(graph.node):
            for name in node.input:
                readers.setdefault(name, []).append(index)
        for output in graph.output:
            readers.setdefault(output.name, []).append(-1)
        maker = {name: index for index, node in enumerate(graph.node) for name in node.output}
        return cls(graph, maker, readers, {tensor.name: tensor for tensor in graph.initializer})

    def node(self, index: int) -> onnx.NodeProto:
        """Return a node."""
        node: onnx.NodeProto = self.graph.node[index]
        return node

    def array(self, name: str) -> Floats:
        """Return a constant's values."""
        return numpy_helper.to_array(self.weights[name])

    def read_once(self, name: str) -> bool:
        """Whether exactly one node reads a tensor, once."""
        return len(self.readers.get(name, [])) == 1

    def made_by(self, name: str, op: str) -> int | None:
        """Return the node that makes a tensor, if it is an `op`."""
        index = self.maker.get(name)
        return index if index is not None and self.node(index).op_type == op else None

    def bias_after(self, index: int) -> str | None:
        """Return the name of the constant vector added to what a node makes, if nothing else is done to it."""
        output = self.node(index).output[0]
        while self.read_once(output):
            reader = self.readers[output][0]
            if reader < 0 or self.node(reader).op_type != "Add":
                return None
            bias = self.bias_of(reader)
            if bias is not None:
                return bias
            # The sum of two halves of one product (see outliers.py): its bias comes after it.
            halves = [self.made_by(name, "MatMul") for name in self.node(reader).input]
            if None in halves:
                return None
            output = self.node(reader).output[0]
        return None

    def bias_of(self, index: int) -> str | None:
        """Return the name of the constant vector of an Add, if nothing else reads it."""
        if index < 0 or self.node(index).op_type != "Add":
            return None
        for name in self.node(index).input:
            if name in self.weights and len(self.weights[name].dims) == 1 and self.read_once(name):
                return str(name)
        return None

    def is_plain_norm(self, name: str) -> bool:
        """Whether a tensor is a layer normalization's, with gain and bias of its own, and not the graph's result."""
        index = self.made_by(name, "LayerNormalization")
        if index is None or -1 in self.readers.get(name, []):
            return False
        constants = self.node(index).input[1:]
        return len(constants) == 2 and all(each in self.weights and self.read_once(each) for each in constants)

    def value_projection(self, context: str) -> tuple[str, str] | None:
        """Return the names of weight and bias of the values that attention mixes into the tensor `context`, if any.

        Followed backwards: heads joined, probabilities times values, heads parted, bias, product.
        """
        name = context
        for op, position in _FROM_CONTEXT_TO_VALUES:
            index = self.made_by(name, op)
            if index is None or not self.read_once(name):
                return None
            if op == "MatMul" and self.made_by(self.node(index).input[0], "Softmax") is None:
                return None
            name = self.node(index).input[position]
        add = self.made_by(name, "Add")
        bias = None if add is None or not self.read_once(name) else self.bias_of(add)
        if add is None or bias is None:
            return None
        (product,) = (each for each in self.node(add).input if each != bias)
        index = self.made_by(product, "MatMul")
        if index is None or not self.read_once(product):
            return None
        weight = self.node(index).input[1]
        return (weight, bias) if weight in self.weights and self.read_once(weight) else None
