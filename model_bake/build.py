"""A model's fp32 graph: from its files for the BERT family and static tables, exported from torch for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from model_bake.bert_family import TOKENS, build_cross_encoder, build_encoder
from model_bake.bert_layout import family_shape, is_family
from model_bake.files import read_json
from model_bake.head import finish_cross_encoder, finish_encoder, head_facts
from model_bake.nodes import add_input, add_output, constant, fill_in_input, new_model, node
from model_bake.pipeline import read_static_table
from model_bake.source import ModelSource
from model_bake.spec import STATIC, CrossEncoderSpec, EncoderSpec, Spec

if TYPE_CHECKING:
    from model_bake.export import Original

Route = Literal["auto", "torch"]


@dataclass(frozen=True, slots=True)
class Fp32:
    """An fp32 graph, pooling or activation included.

    shape: the architecture's, where the native engine knows it. original: the model in torch, where that was needed.
    """

    model: onnx.ModelProto
    shape: Mapping[str, Any] | None = None
    original: Original | None = None


def build_fp32(source: ModelSource, spec: Spec, *, route: Route) -> Fp32:
    """Build or export the graph. Raises ConfigurationError.

    route: `auto` takes torch only where it must; `torch` takes it wherever it can.
    """
    is_static = spec.architecture == STATIC
    if not is_static and (route == "torch" or not is_family(read_json(spec.folder / "config.json"))):
        from model_bake.export import Original  # torch, transformers, optimum: by need

        original = Original(source, spec)
        return Fp32(_finish(original.export(), spec), original=original)
    if is_static:
        return Fp32(_finish(_static_trunk(spec.folder), spec))
    build = build_cross_encoder if isinstance(spec, CrossEncoderSpec) else build_encoder
    return Fp32(_finish(build(spec.folder), spec), shape={**asdict(family_shape(spec.folder)), **head_facts(spec)})


def _finish(trunk: onnx.ModelProto, spec: Spec) -> onnx.ModelProto:
    if isinstance(spec, EncoderSpec):
        return finish_encoder(trunk, spec)
    if not spec.tells_types:
        fill_in_input(trunk.graph, "token_type_ids", 0)
    return finish_cross_encoder(trunk, spec)


def _static_trunk(folder: Path) -> onnx.ModelProto:
    """A table of token vectors."""
    table = read_static_table(folder)
    model = new_model("static")
    ids = add_input(model.graph, "input_ids", ["batch", "tokens"])
    tokens = node(model.graph, "Gather", [constant(model.graph, "embeddings.word", table), ids], TOKENS, axis=0)
    add_output(model.graph, tokens, ["batch", "tokens", table.shape[1]])
    return model
