"""A cross-encoder that counts shared tokens: a graph of a few nodes, so that every score can be told beforehand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from embakery.artifact import SCHEMA, Artifact, EngineFacts, Golden, Manifest, file_facts, space_id
from embakery.engines.onnx import CONTRACT, OnnxPairScorer
from embakery.texts import TokenIds

MODEL_ID = "tests/overlap"
SHARED_ALWAYS = 1
"""What every pair shares: the separator after the query and the one after the document."""


def bake_beside(encoder: Path, folder: Path, *, golden_offset: float = 0.0) -> Path:
    """Copy an encoder's artifact to `folder` and bake the cross-encoder into it. golden_offset: added to its scores."""
    shutil.copytree(encoder, folder)
    _bake(folder / "reranker", tokenizer=encoder / "tokenizer.json", golden_offset=golden_offset)
    manifest = replace(Artifact.load(encoder).manifest, reranker=file_facts(folder / "reranker" / "manifest.json"))
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


def _bake(folder: Path, *, tokenizer: Path, golden_offset: float) -> None:
    folder.mkdir()
    shutil.copy(tokenizer, folder)
    onnx.save(_overlap(), folder / "encoder.onnx")
    (folder / "certificate.json").write_text(json.dumps({"rank_agreement": {"mean": 1.0}}))
    ids: tuple[TokenIds, ...] = ((101, 7592, 102, 7592, 102), (101, 7592, 102, 2088, 999, 102))
    types: tuple[TokenIds, ...] = ((0, 0, 0, 1, 1), (0, 0, 0, 1, 1, 1))
    scores = OnnxPairScorer(folder / "encoder.onnx").score(ids, types)
    Golden(ids, scores + np.float32(golden_offset), types).save(folder / "golden.npz")
    files = {path.name: file_facts(path) for path in sorted(folder.iterdir())}
    engine = EngineFacts(name="onnx", contract=CONTRACT, quantization="none")
    space = space_id(
        kind="cross-encoder",
        weights_sha256=files["encoder.onnx"].sha256,
        tokenizer_sha256=files["tokenizer.json"].sha256,
        golden_sha256=files["golden.npz"].sha256,
        max_tokens=64,
        pooling="none",
        normalize=False,
        prompts={},
        engine=engine,
    )
    manifest = Manifest(
        schema=SCHEMA,
        space_id=space,
        kind="cross-encoder",
        architecture="overlap",
        model_id=MODEL_ID,
        revision=None,
        licence=None,
        dimensions=(1,),
        max_tokens=64,
        pooling="none",
        normalize=False,
        prompts={},
        engine=engine,
        files=files,
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())


def _overlap() -> onnx.ModelProto:
    """How many of the document's tokens (type 1) equal one of the query's (type 0), counted for each such pair."""
    names = ("input_ids", "token_type_ids")
    constants = {"one": [1], "two": [2], "both": [1, 2], "column": [-1, 1]}
    nodes = [
        ("Unsqueeze", ["input_ids", "one"], "ids_across"),
        ("Unsqueeze", ["input_ids", "two"], "ids_down"),
        ("Equal", ["ids_across", "ids_down"], "same"),
        ("Cast", ["same"], "same_as_number"),
        ("Cast", ["token_type_ids"], "types"),
        ("Unsqueeze", ["types", "two"], "document"),
        ("Sub", ["unit", "types"], "query_flags"),
        ("Unsqueeze", ["query_flags", "one"], "query"),
        ("Mul", ["same_as_number", "document"], "of_document"),
        ("Mul", ["of_document", "query"], "shared"),
        ("ReduceSum", ["shared", "both"], "count"),
        ("Reshape", ["count", "column"], "scores"),
    ]
    attributes: dict[str, dict[str, Any]] = {"Cast": {"to": TensorProto.FLOAT}, "ReduceSum": {"keepdims": 0}}
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **attributes.get(kind, {})) for kind, inputs, output in nodes],
        "overlap",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1])],
        [
            *(numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in constants.items()),
            numpy_helper.from_array(np.array(1, dtype=np.float32), "unit"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
