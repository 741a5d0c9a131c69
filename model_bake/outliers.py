"""Giving the few loud hidden units of a feed-forward layer scales of their own.

Some units of the wide hidden layer are an order of magnitude louder than all others, and so are the weights that read
them: one u8 scale for the token and one s8 scale for the column then serve them alone. (LLM.int8, arXiv 2208.07339,
keeps such units in 16 bits.) Here the units are put in order of loudness, which costs nothing, and the product is cut
in two, which both are eight bits again:

    act(x Wup + b) Wdown   =   act(..)[:, :64] Wdown[:64]  +  act(..)[:, 64:] Wdown[64:]

All in fp32: the function is the same. What quantizes later finds two products instead of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from model_bake.calibrate import Walk, find_sites
from model_bake.graph import Links
from model_bake.rounding import Floats

# One tile of columns of the native engine's dot product.
LOUD_UNITS = 64

# What may stand between the two products: each value on its own, whatever its unit.
_ELEMENTWISE = frozenset({"Add", "Mul", "Div", "Erf", "Gelu", "Relu", "Tanh", "Sigmoid", "Pow", "Identity"})


@dataclass(frozen=True, slots=True)
class _FeedForward:
    """Node indices of the two products, and the names of the first one's weight and bias."""

    up: int
    down: int
    weight: str
    bias: str


def split_loud_units(model: onnx.ModelProto, chunks: list[dict[str, NDArray[np.int64]]]) -> onnx.ModelProto:
    """Return an equal fp32 graph with every feed-forward layer that is wide enough cut in two."""
    links = Links.of(model.graph)
    walk = Walk.start(model, chunks)
    plan: dict[int, list[onnx.NodeProto]] = {}
    weights = dict(links.weights)
    for site in find_sites(model.graph):
        found = _feed_forward(links, site.nodes)
        if found is None:
            continue
        x = walk.run_to(site)
        order = np.argsort(-np.ptp(x, axis=0), kind="stable")
        for name in (found.weight, found.bias):
            weights[name] = numpy_helper.from_array(np.ascontiguousarray(links.array(name)[..., order]), name)
        plan[found.down] = _cut(links.node(found.down), links.array(links.node(found.down).input[1])[order], weights)
    split = onnx.ModelProto()
    split.CopyFrom(model)
    nodes = [node for index, old in enumerate(model.graph.node) for node in plan.get(index, [old])]
    del split.graph.node[:]
    split.graph.node.extend(nodes)
    del split.graph.initializer[:]
    split.graph.initializer.extend(weights.values())
    return split


def _cut(node: onnx.NodeProto, weight: Floats, weights: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    x, name, output = node.input[0], node.input[1], node.output[0]
    sizes = f"{name}.parts"
    del weights[name]
    parts = {f"{name}.loud": weight[:LOUD_UNITS], f"{name}.rest": weight[LOUD_UNITS:]}
    weights |= {part: numpy_helper.from_array(np.ascontiguousarray(value), part) for part, value in parts.items()}
    weights[sizes] = numpy_helper.from_array(np.array([LOUD_UNITS, len(weight) - LOUD_UNITS]), sizes)
    return [
        helper.make_node("Split", [x, sizes], [f"{x}.loud", f"{x}.rest"], name=f"{x}:Split", axis=-1),
        helper.make_node("MatMul", [f"{x}.loud", f"{name}.loud"], [f"{output}.loud"], name=f"{output}.loud"),
        helper.make_node("MatMul", [f"{x}.rest", f"{name}.rest"], [f"{output}.rest"], name=f"{output}.rest"),
        helper.make_node("Add", [f"{output}.loud", f"{output}.rest"], [output], name=output),
    ]


def _feed_forward(links: Links, nodes: tuple[int, ...]) -> _FeedForward | None:
    """Find the product and bias before a product, if only elementwise steps lie between and nobody else reads them."""
    if len(nodes) != 1:
        return None
    (down,) = nodes
    weight = links.node(down).input[1]
    rows = links.weights[weight].dims[0]
    if rows < 8 * LOUD_UNITS or not links.read_once(weight):
        return None
    up, bias = None, None
    waiting, seen = [links.node(down).input[0]], {down}
    while waiting:
        index = links.maker.get(waiting.pop())
        if index is None or index in seen:
            continue
        seen.add(index)
        node = links.node(index)
        if node.op_type == "MatMul":
            if up is not None or links.weights.get(node.input[1]) is None:
                return None
            up = index
            continue
        if node.op_type not in _ELEMENTWISE:
            return None
        for name in node.input:
            constant = links.weights.get(name)
            if constant is None:
                waiting.append(name)
            elif list(constant.dims) == [rows]:
                if bias is not None or node.op_type != "Add" or not links.read_once(name):
                    return None
                bias = name
            elif any(side != 1 for side in constant.dims):
                return None
    if up is None or bias is None:
        return None
    made = {name for index in seen for name in links.node(index).output} - set(links.node(down).output)
    if any(reader not in seen for name in made for reader in links.readers.get(name, [])):
        return None
    first = links.node(up).input[1]
    if not links.read_once(first) or links.weights[first].dims[-1] != rows:
        return None
    return _FeedForward(up, down, first, bias)
