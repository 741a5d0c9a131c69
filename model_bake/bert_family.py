"""The fp32 ONNX graph of a BERT-like model, straight from config.json and its safetensors: no torch, no tracing.

In:  input_ids int64 (batch, tokens), texts of one length, so no padding and no attention mask. A cross-encoder whose
     model has more than one token type also takes token_type_ids.
Out: token_embeddings float32 (batch, tokens, hidden); a cross-encoder's logits float32 (batch, labels).

The initializers' names are a contract for the quantizer and the packer. Weights of products are (in, out):

    embeddings.word  embeddings.position  embeddings.norm.gain|bias  attention.relative_bias (MPNet: heads, distances)
    layers.{i}.attention.query|key|value|output.weight|bias          layers.{i}.attention.norm.gain|bias
    layers.{i}.ffn.up|down.weight|bias                               layers.{i}.ffn.norm.gain|bias

The query's weight and bias hold the factor 1/sqrt(head size). `embeddings.position` holds token type 0 too, unless
there is a token_type_ids input: then `embeddings.token_type` is apart. Where pad tokens take no position (RoBERTa,
MPNet) its row 0 is the pad token's, and row n that of the n-th other token. A head's weights are (out, in):
head.dense.weight|bias and head.output.weight|bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from model_bake import nodes
from model_bake.bert_layout import BUCKETS, FARTHEST, BertShape, Family, read_family, read_labels, read_shape
from model_bake.files import Settings
from model_bake.nodes import node
from model_bake.weights import Checkpoint, Floats, Shape, open_checkpoint

TOKENS = "token_embeddings"
LOGITS = "logits"

# Buffers of older checkpoints: they hold 0, 1, 2, ... and zeros.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


def build_encoder(folder: Path) -> onnx.ModelProto:
    """Build input_ids -> token_embeddings. Raises ConfigurationError for what cannot be built."""
    tensors = _open(folder, Settings.read(folder), labels=None)
    model = nodes.new_model("encoder")
    node(model.graph, "Identity", [_trunk(model.graph, tensors)], TOKENS)
    nodes.add_output(model.graph, TOKENS, ["batch", "tokens", tensors.shape.hidden])
    return model


def build_cross_encoder(folder: Path) -> onnx.ModelProto:
    """Build input_ids[, token_type_ids] -> logits. Raises ConfigurationError for what cannot be built."""
    settings = Settings.read(folder)
    labels = read_labels(settings)
    tensors = _open(folder, settings, labels=labels)
    model = nodes.new_model("cross-encoder")
    graph, head = model.graph, tensors.family.head
    tokens = _trunk(graph, tensors)
    first = node(graph, "Gather", [tokens, nodes.integers(graph, "zero", 0)], "head.first", axis=1)
    weight, bias = tensors("head.dense.weight"), tensors("head.dense.bias")
    dense = nodes.per_text_linear(graph, first, "head.dense", weight, bias)
    active = nodes.activate(graph, dense, head.activation, "head.active")
    weight, bias = tensors("head.output.weight"), tensors("head.output.bias")
    node(graph, "Identity", [nodes.per_text_linear(graph, active, "head.output", weight, bias)], LOGITS)
    nodes.add_output(graph, LOGITS, ["batch", labels])
    return model


@dataclass(frozen=True, slots=True)
class _Tensors:
    """The checkpoint's tensors under the graph's names. typed: token types are an input."""

    family: Family
    shape: BertShape
    checkpoint: Checkpoint
    stored: Mapping[str, str]
    typed: bool

    def __call__(self, ours: str) -> Floats:
        """Read a tensor as the graph wants it."""
        values = self.checkpoint.read(self.stored[ours])
        if ".attention.query." in ours:
            # In double, then rounded once: for most head sizes the factor is no power of two.
            values = (values * np.float64(self.shape.hidden // self.shape.heads) ** -0.5).astype(np.float32)
        return values.T if ours.startswith("layers.") else values

    def positions(self) -> Floats:
        """The position table from the pad token's row on, with token type 0 unless the types are an input."""
        table = self("embeddings.position")[self.shape.pad_token or 0 :]
        folded = self.shape.type_vocabulary > 0 and not self.typed
        return table + self("embeddings.token_type")[0] if folded else table

    def distances(self) -> Floats:
        """The attention bias for distances from -128 to 128, (heads, 257)."""
        buckets = [_bucket(distance) for distance in range(-FARTHEST, FARTHEST + 1)]
        return self("attention.relative_bias")[buckets].T


def _open(folder: Path, settings: Settings, *, labels: int | None) -> _Tensors:
    """Find every tensor and check its type and shape. labels: how many a cross-encoder has, None for an encoder."""
    shape, family = read_shape(settings), read_family(settings)
    checkpoint = open_checkpoint(folder)
    prefix = family.prefix if f"{family.prefix}embeddings.word_embeddings.weight" in checkpoint.tensors else ""
    wanted = {ours: (f"{prefix}{theirs}", size) for ours, theirs, size in _trunk_tensors(family, shape)}
    if labels is not None:
        wanted |= {ours: (theirs, size) for ours, theirs, size in _head_tensors(family, shape, labels, prefix)}
    stored = {ours: checkpoint.stored_name(theirs) for ours, (theirs, _) in wanted.items()}
    for ours, (_, size) in wanted.items():
        checkpoint.check(stored[ours], size)
    trunk = ("embeddings.", *(family.layers.format(number) for number in range(shape.layers)))
    buffers = {f"{prefix}{name}" for name in _BUFFERS}
    checkpoint.refuse_unknown(tuple(f"{prefix}{part}" for part in trunk), {*stored.values(), *buffers})
    return _Tensors(family, shape, checkpoint, stored, labels is not None and shape.type_vocabulary > 1)


def _trunk_tensors(family: Family, shape: BertShape) -> Iterator[tuple[str, str, Shape]]:
    """Give each initializer's name, its tensor's name without the prefix, and the tensor's shape."""
    hidden, middle = shape.hidden, shape.intermediate
    rows = shape.positions + (0 if shape.pad_token is None else shape.pad_token + 1)
    yield "embeddings.word", "embeddings.word_embeddings.weight", (shape.vocabulary, hidden)
    yield "embeddings.position", "embeddings.position_embeddings.weight", (rows, hidden)
    if shape.type_vocabulary:
        yield "embeddings.token_type", "embeddings.token_type_embeddings.weight", (shape.type_vocabulary, hidden)
    if family.relative_bias:
        yield "attention.relative_bias", family.relative_bias, (BUCKETS, shape.heads)
    norms = [("embeddings.norm", "embeddings.LayerNorm")]
    sizes = {"ffn_up": (middle, hidden), "ffn_down": (hidden, middle)}
    for number in range(shape.layers):
        for part, name in asdict(family.layer).items():
            ours, theirs = f"layers.{number}.{part.replace('_', '.')}", f"{family.layers.format(number)}{name}"
            if part.endswith("norm"):
                norms.append((ours, theirs))
                continue
            size = sizes.get(part, (hidden, hidden))
            yield f"{ours}.weight", f"{theirs}.weight", size
            yield f"{ours}.bias", f"{theirs}.bias", size[:1]
    for ours, theirs in norms:
        yield f"{ours}.gain", f"{theirs}.weight", (hidden,)
        yield f"{ours}.bias", f"{theirs}.bias", (hidden,)


def _head_tensors(family: Family, shape: BertShape, labels: int, prefix: str) -> Iterator[tuple[str, str, Shape]]:
    for ours, theirs, width in (("dense", family.head.dense, shape.hidden), ("output", family.head.output, labels)):
        yield f"head.{ours}.weight", f"{theirs.format(prefix)}.weight", (width, shape.hidden)
        yield f"head.{ours}.bias", f"{theirs.format(prefix)}.bias", (width,)


def _bucket(distance: int) -> int:
    """Give MPNet's bucket: from 8 tokens on 8 + floor(2 log2(tokens / 8)), in integers and therefore exact."""
    tokens = abs(distance)
    bucket = tokens if tokens < 8 else min(8 + (tokens * tokens // 64).bit_length() - 1, 15)
    return bucket + 16 if distance > 0 else bucket


def _trunk(graph: onnx.GraphProto, tensors: _Tensors) -> str:
    """Write everything from the token ids to the last layer's output; returns its name."""
    shape = tensors.shape
    ids = nodes.add_input(graph, "input_ids", ["batch", "tokens"])
    x = _embeddings(graph, tensors, ids)
    bias = None
    if shape.relative_bias:
        bias = nodes.relative_bias(graph, nodes.positions(graph, ids, "places"), tensors.distances())
    for number in range(shape.layers):
        attention, ffn = f"layers.{number}.attention", f"layers.{number}.ffn"
        attended = nodes.attention(graph, x, attention, tensors, heads=shape.heads, hidden=shape.hidden, bias=bias)
        x = node(graph, "Add", [attended, x], f"{attention}.sum")
        x = _norm(graph, tensors, x, f"{attention}.norm")
        up = nodes.linear(graph, x, f"{ffn}.up", tensors)
        down = nodes.linear(graph, nodes.activate(graph, up, shape.activation, f"{ffn}.active"), f"{ffn}.down", tensors)
        x = node(graph, "Add", [down, x], f"{ffn}.sum")
        x = _norm(graph, tensors, x, f"{ffn}.norm")
    return x


def _embeddings(graph: onnx.GraphProto, tensors: _Tensors, ids: str) -> str:
    shape = tensors.shape
    x = _look_up(graph, "embeddings.word", tensors("embeddings.word"), ids)
    if tensors.typed:
        types = nodes.add_input(graph, "token_type_ids", ["batch", "tokens"])
        rows = _look_up(graph, "embeddings.token_type", tensors("embeddings.token_type"), types)
        x = node(graph, "Add", [x, rows], "embeddings.typed")
    if shape.pad_token is None:
        places = nodes.positions(graph, ids, "positions")
    else:
        places = nodes.positions_past_pad(graph, ids, "positions", pad=shape.pad_token)
    x = node(graph, "Add", [x, _look_up(graph, "embeddings.position", tensors.positions(), places)], "embeddings.sum")
    return _norm(graph, tensors, x, "embeddings.norm")


def _look_up(graph: onnx.GraphProto, name: str, table: Floats, indices: str) -> str:
    return node(graph, "Gather", [nodes.constant(graph, name, table), indices], f"{name}.rows", axis=0)


def _norm(graph: onnx.GraphProto, tensors: _Tensors, x: str, name: str) -> str:
    gain, bias = tensors(f"{name}.gain"), tensors(f"{name}.bias")
    return nodes.layer_norm(graph, x, name, gain, bias, eps=tensors.shape.eps)
