"""The bake: load, export, quantize, certify, write. All or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from embakery.artifact import (
    CERTIFICATE,
    ENCODER,
    GOLDEN,
    MANIFEST,
    SCHEMA,
    TOKENIZER,
    Artifact,
    EngineFacts,
    Golden,
    Manifest,
    file_facts,
    space_id,
)
from embakery.engines.onnx import CONTRACT, OnnxEngine
from embakery.errors import ConfigurationError, EncodingError
from embakery.texts import TextTokenizer
from model_bake import certify
from model_bake.export import export_transformer, load_model
from model_bake.graph import finish_encoder
from model_bake.quantize import SCHEME, quantize_model
from model_bake.source import ModelSource, find_model
from model_bake.spec import EncoderSpec, read_spec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Baked:
    """A finished bake."""

    artifact: Artifact
    seconds: float


def bake(
    model: str, out: Path, *, revision: str | None = None, min_cosine: float = 0.99, report: Report = lambda _: None
) -> Baked:
    """Bake `model` into the folder `out`.

    model: `all-MiniLM-L6-v2` (the default model, from its package), a local folder, or a hub id.
    min_cosine: the smallest cosine to the original that any of the certificate's texts may have.
    Raises ConfigurationError for what cannot be baked and EncodingError below `min_cosine`; then `out` is not made.
    """
    started = time.monotonic()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"{out}: is there already and not empty; remove it or name another folder")
    source = find_model(model, revision=revision)
    report(f"load      {source.model_id}")
    original = load_model(source)
    spec = read_spec(original)
    with _staging(out) as folder:
        report("export    to ONNX, fp32")
        exported = finish_encoder(export_transformer(original), spec)
        _write_tokenizer(original, folder / TOKENIZER)
        report("quantize  weights per channel, activations per token")
        onnx.save(quantize_model(exported), folder / ENCODER)
        report(f"certify   {certify.TEXTS} texts against the original")
        certificate = _measure(original, spec, exported, folder)
        _check_gate(certificate, min_cosine)
        _write_json(folder / CERTIFICATE, certificate)
        (folder / MANIFEST).write_bytes(_manifest(source, spec, folder).to_bytes())
        Artifact.load(folder)
    return Baked(Artifact.load(out), time.monotonic() - started)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` that takes its name only when everything in it is written and synced."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield staging
        for path in staging.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        staging.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        staging.rename(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _write_tokenizer(original: SentenceTransformer, path: Path) -> None:
    fast = getattr(original.tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise ConfigurationError("the model has only a slow tokenizer: a fast one (tokenizer.json) is needed")
    fast.no_padding()
    fast.no_truncation()
    path.write_text(fast.to_str(pretty=False), encoding="utf-8")


def _measure(
    original: SentenceTransformer, spec: EncoderSpec, exported: onnx.ModelProto, folder: Path
) -> dict[str, Any]:
    tokenizer = TextTokenizer(folder / TOKENIZER, max_tokens=spec.max_tokens, prompts=spec.prompts)
    texts = certify.sample_texts()
    ids = certify.token_ids(tokenizer, texts)
    reference = certify.reference_vectors(original, texts)
    with tempfile.TemporaryDirectory(prefix="embakery-fp32-") as scratch:
        fp32 = Path(scratch) / ENCODER
        onnx.save(exported, fp32)
        difference = certify.check_export(OnnxEngine(fp32), ids[:32], reference[:32])
    engine = OnnxEngine(folder / ENCODER)
    golden = certify.token_ids(tokenizer, certify.GOLDEN_TEXTS)
    Golden(tuple(golden), engine.encode(golden)).save(folder / GOLDEN)
    return certify.certify(engine, ids, reference, export_difference=difference)


def _check_gate(certificate: dict[str, Any], min_cosine: float) -> None:
    lowest, invariant = certificate["cosine"]["min"], certificate["batch_invariant_texts"]
    if not lowest >= min_cosine:
        raise EncodingError(f"the lowest cosine to the original is {lowest}, the gate asks for {min_cosine}")
    if invariant != certificate["texts"]:
        raise EncodingError(f"only {invariant} of {certificate['texts']} texts have the same bits alone and in a batch")


def _manifest(source: ModelSource, spec: EncoderSpec, folder: Path) -> Manifest:
    files = {path.name: file_facts(path) for path in sorted(folder.iterdir())}
    engine = EngineFacts(name="onnx", contract=CONTRACT, quantization=SCHEME)
    return Manifest(
        schema=SCHEMA,
        space_id=space_id(
            encoder_sha256=files[ENCODER].sha256,
            tokenizer_sha256=files[TOKENIZER].sha256,
            golden_sha256=files[GOLDEN].sha256,
            max_tokens=spec.max_tokens,
            pooling=spec.pooling,
            normalize=spec.normalize,
            prompts=spec.prompts,
            engine=engine,
        ),
        model_id=source.model_id,
        revision=source.revision,
        licence=source.licence,
        dimensions=spec.dimensions,
        max_tokens=spec.max_tokens,
        pooling=spec.pooling,
        normalize=spec.normalize,
        prompts=dict(spec.prompts),
        engine=engine,
        files=files,
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
