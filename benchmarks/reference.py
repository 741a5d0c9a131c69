"""The fp32 vectors that every system is compared with: the original's graph, built from its files without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.environments import BUILD
from embakery.texts import TextTokenizer
from embakery.vectors import Vectors


def reference_vectors(texts: Sequence[str]) -> Vectors:
    """Return float32 (n, dim); kept on disk, since they cost as much as a round of the slowest system."""
    digest = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    path = BUILD / "reference" / f"{digest[:32]}.npy"
    if not path.exists():
        vectors = _encode(texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
    found: Vectors = np.load(path)
    return found


def _encode(texts: Sequence[str]) -> Vectors:
    import onnx

    from embakery.engines.onnx import OnnxEngine
    from model_bake.build import build_fp32
    from model_bake.certify import encode
    from model_bake.samples import token_ids
    from model_bake.source import DEFAULT_MODEL, find_model
    from model_bake.spec import EncoderSpec, Wishes, read_spec
    from model_bake.tokenizer import load_tokenizer

    source = find_model(DEFAULT_MODEL)
    spec = read_spec(source.folder, wishes=Wishes(), card_prompts={})
    assert isinstance(spec, EncoderSpec)  # noqa: S101 - the default model is one
    with TemporaryDirectory() as folder:
        tokenizer_file, graph = Path(folder) / "tokenizer.json", Path(folder) / "fp32.onnx"
        tokenizer_file.write_text(load_tokenizer(spec).to_str(), encoding="utf-8")
        onnx.save(build_fp32(source, spec, route="auto").model, graph)
        tokenizer = TextTokenizer(tokenizer_file, max_tokens=spec.max_tokens, prompts={})
        engine = OnnxEngine(graph)
        vectors = encode(engine, token_ids(tokenizer, texts))
        engine.close()
    return vectors
