"""Reshaping activations, without changing the model's function, so that eight bits lose less of them.

A token's k activations share one u8 scale, so a few large channels make the rounding of all others coarse. Where the
graph lets it, a channel's offset and size move into constants: x' = (x - shift) / scale is what is quantized, and

    before it   a LayerNormalization's gain and bias, or the value projection's columns and bias, take them
    after it    the rows of the weights that read it take the scale, their bias takes shift @ W
    elsewhere   the residual that reads x multiplies by the scale again, and the bias added there takes the shift

Scales alone are SmoothQuant (2211.10438); shifts are from Outlier Suppression+ (2304.09145). Here both are chosen per
site by descent on the expected rounding noise of the layer's output, of the activations and of the weights together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from model_bake.calibrate import Feed, Site, Walk, find_sites
from model_bake.graph import Links
from model_bake.rounding import LEVELS, PEAK, Doubles, Floats

# Tokens that the descent looks at; more changed nothing.
_TOKENS = 1536
_STEPS = 120
_RATE = 0.04
# GPTQ brings the weights' noise down to about this part of what plain rounding has.
_WEIGHT_NOISE = 0.3


@dataclass(frozen=True, slots=True)
class Affine:
    """x' = (x - shift) / scale for each channel, float64 (k,)."""

    shift: Doubles
    scale: Doubles


def choose(x: Floats, weight: Floats, *, shifts: bool = True) -> Affine:
    """Return the affine map that makes rounding x (n, k) and weight (k, n_out) cost least, by Adam (1412.6980)."""
    noise = _Noise.of(x[:: max(1, len(x) // _TOKENS)], weight)
    # log(scale) and, in standard deviations from the mean, the shift.
    point = np.stack([0.5 * np.log(noise.spread) - 0.25 * np.log(noise.energy), np.zeros_like(noise.centre)])
    point[0] -= point[0].mean()
    if not shifts:
        point[1] = -noise.centre / noise.spread
    best, best_cost = point, np.inf
    first, second = np.zeros_like(point), np.zeros_like(point)
    for step in range(_STEPS):
        cost, gradient = noise.at(point)
        if cost < best_cost:
            best, best_cost = point, cost
        if not shifts:
            gradient[1] = 0
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        move = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.99 ** (step + 1))) + 1e-12)
        point = point - _RATE * (1 - step / _STEPS) * move
    shift = noise.centre + best[1] * noise.spread if shifts else np.zeros_like(noise.centre)
    return Affine(shift, np.exp(best[0] - best[0].mean()))


@dataclass(frozen=True, slots=True)
class _Noise:
    """What rounding costs, as a function of scales and shifts.

    unit: inputs less their mean, in standard deviations, float32 (n, k). centre, spread: those, float64 (k,).
    energy: squares of each row of the weights, summed, float64 (k,). peaks: their magnitudes, float32 (k, n_out).
    """

    unit: Floats
    centre: Doubles
    spread: Doubles
    energy: Doubles
    peaks: Floats

    @classmethod
    def of(cls, x: Floats, weight: Floats) -> _Noise:
        centre = x.mean(axis=0, dtype=np.float64)
        spread = np.maximum(x.std(axis=0, dtype=np.float64), 1e-12)
        energy = np.maximum((weight.astype(np.float64) ** 2).sum(axis=1), 1e-12)
        unit = (x - centre).astype(np.float32) / spread.astype(np.float32)
        return cls(unit, centre, spread, energy, np.abs(weight))

    def at(self, point: Doubles) -> tuple[float, Doubles]:
        """Return the cost, and its gradient relative to it, float64 (2, k).

        With r_t the range of token t's x' and V = scale * W, the noise of the output is, up to 1/12,

            mean(r_t^2) / 255^2 * sum(V^2)   +   c * mean(|x'|^2) * sum_n max_k(V_kn)^2 / 127^2

        Its subgradient is cheap: a range has two ends, and a channel counts where it is one.
        """
        k, rows = len(self.centre), np.arange(len(self.unit))
        scale = np.exp(point[0])
        gain = (self.spread / scale).astype(np.float32)
        seen = (self.unit - point[1].astype(np.float32)) * gain
        top, bottom = seen.argmax(axis=1), seen.argmin(axis=1)
        high, low = seen[rows, top].astype(np.float64), seen[rows, bottom].astype(np.float64)
        span = high - low
        loud = (scale**2 * self.energy).sum()
        size = (seen.astype(np.float64) ** 2).mean(axis=0)
        scaled = self.peaks * scale[:, None].astype(np.float32)
        widest, column = scaled.argmax(axis=0), scaled.max(axis=0).astype(np.float64) ** 2
        activation = (span**2).mean() / LEVELS**2 * loud
        weights = _WEIGHT_NOISE * size.sum() * column.sum() / PEAK**2
        ends = np.bincount(top, span * high, k) - np.bincount(bottom, span * low, k)
        moved = np.bincount(top, span, k) - np.bincount(bottom, span, k)
        slope = activation * (2 * scale**2 * self.energy / loud - 2 * ends / (span**2).sum())
        slope += weights * (2 * np.bincount(widest, column, k) / column.sum() - 2 * size / size.sum())
        lean = activation * -2 * moved * gain / (span**2).sum()
        lean += weights * -2 * seen.mean(axis=0, dtype=np.float64) * gain / size.sum()
        cost = float(activation + weights)
        return cost, np.stack([slope, lean]) / cost


def equalize(model: onnx.ModelProto, chunks: Sequence[Feed]) -> onnx.ModelProto:
    """Return an equal fp32 graph whose activations and weights round better. chunks: calibration texts, stacked."""
    links = Links.of(model.graph)
    folding = _Folding(model, links)
    walk = Walk.start(model, chunks)
    for site in find_sites(model.graph):
        names = [links.node(index).input[1] for index in site.nodes]
        values = links.value_projection(site.activation)
        if not all(links.read_once(name) for name in names) or not (values or links.is_plain_norm(site.activation)):
            continue
        weight = np.concatenate([links.array(name) for name in names], axis=1)
        biased = all(links.bias_after(index) for index in site.nodes)
        affine = choose(walk.run_to(site), weight, shifts=biased)
        folding.fold_readers(site, affine)
        if values is not None:
            folding.fold_values(values, affine)
        else:
            folding.fold_norm(site, affine)
    return folding.finish()


class _Folding:
    """Edits a copy of the graph: constants change, and what restores a residual is put in."""

    def __init__(self, model: onnx.ModelProto, links: Links) -> None:
        self._model, self._links = model, links
        self._changed: dict[str, Doubles] = {}
        self._after: dict[int, list[onnx.NodeProto]] = {}
        self._renamed: dict[tuple[int, str], str] = {}

    def fold_readers(self, site: Site, affine: Affine) -> None:
        """Let the weights that read the activation take the scale, and their biases the shift."""
        for index in site.nodes:
            name, bias = self._links.node(index).input[1], self._links.bias_after(index)
            if bias is not None:
                self._changed[bias] = self._value(bias) + affine.shift @ self._value(name)
            self._changed[name] = self._value(name) * affine.scale[:, None]

    def fold_values(self, values: tuple[str, str], affine: Affine) -> None:
        """Let the value projection give scaled and shifted values: attention's weights add up to one."""
        weight, bias = values
        self._changed[weight] = self._value(weight) / affine.scale
        self._changed[bias] = (self._value(bias) - affine.shift) / affine.scale

    def fold_norm(self, site: Site, affine: Affine) -> None:
        """Let the normalization give scaled and shifted values; whoever else reads them gets the old ones back."""
        links, name = self._links, site.activation
        index = links.maker[name]
        gain, bias = links.node(index).input[1:]
        self._changed[gain] = self._value(gain) / affine.scale
        self._changed[bias] = (self._value(bias) - affine.shift) / affine.scale
        others = [i for i in links.readers[name] if i not in site.nodes and links.node(i).op_type != "Shape"]
        if not others:
            return
        scaled, restored = f"{name}/residual", f"{name}/restored"
        self._changed[f"{name}/residual_scale"] = affine.scale
        nodes = [helper.make_node("Mul", [name, f"{name}/residual_scale"], [scaled], name=scaled)]
        for reader in others:
            taken = self._bias_beside(reader, name)
            self._renamed[reader, name] = restored if taken is None else scaled
            if taken is not None:
                self._changed[taken] = self._value(taken) + affine.shift
        if restored in self._renamed.values():
            self._changed[f"{name}/residual_shift"] = affine.shift
            nodes.append(helper.make_node("Add", [scaled, f"{name}/residual_shift"], [restored], name=restored))
        self._after[index] = nodes

    def finish(self) -> onnx.ModelProto:
        """Return the edited copy."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(self._model.graph.node):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for position, name in enumerate(copy.input):
                copy.input[position] = self._renamed.get((index, name), name)
            nodes += [copy, *self._after.get(index, [])]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        changed = {
            name: numpy_helper.from_array(value.astype(np.float32), name) for name, value in self._changed.items()
        }
        tensors = {tensor.name: tensor for tensor in self._model.graph.initializer} | changed
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors.values())
        return model

    def _value(self, name: str) -> Doubles:
        return self._changed.setdefault(name, self._links.array(name).astype(np.float64))

    def _bias_beside(self, reader: int, name: str) -> str | None:
        """Return the bias in the other branch of a residual addition: it can take the shift at no cost."""
        links = self._links
        if links.node(reader).op_type != "Add":
            return None
        (other,) = (each for each in links.node(reader).input if each != name)
        add = links.made_by(other, "Add")
        return links.bias_of(add) if add is not None and links.read_once(other) else None
