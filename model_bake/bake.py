"""The bake: find, read, build, quantize, certify, write. All or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from tokenizers import Tokenizer

from embakery.artifact import (
    CERTIFICATE,
    ENCODER,
    MANIFEST,
    PACK,
    REPORT,
    RERANKER,
    SCHEMA,
    TOKENIZER,
    Artifact,
    EngineFacts,
    Kind,
    Manifest,
    Space,
    file_facts,
    golden_file,
    space_id,
)
from embakery.engines import native
from embakery.engines import onnx as onnx_engine
from embakery.engines.native.library import default_library
from embakery.engines.native.plan import read_plan
from embakery.engines.pack import Pack
from embakery.errors import ArtifactError, ConfigurationError
from model_bake import certify
from model_bake.build import Fp32, Route, build_fp32
from model_bake.cross_encoder import CrossEncoderTrial
from model_bake.encoder import EncoderTrial
from model_bake.gates import Gates
from model_bake.given import GivenData
from model_bake.pack import pack_encoder
from model_bake.progress import SILENT, Report
from model_bake.quantize import SCHEMES, Precision, quantize_model
from model_bake.source import ModelSource, find_model
from model_bake.spec import CrossEncoderSpec, EncoderSpec, Spec, Wishes, read_spec
from model_bake.tokenizer import check_vocabulary, load_tokenizer
from model_bake.trial import Certificate, Trial

# protobuf's limit is 2 GiB.
_LARGEST_MESSAGE = 2_000_000_000
# The numeric rules that each engine keeps, part of the space id.
_CONTRACTS = {"native": native.CONTRACT, "onnx": onnx_engine.CONTRACT}
# Above this the graph is wrong, not merely rounded: another pooling, a lost layer, a wrong prompt.
EXPORT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be baked.

    model, reranker: the default model's name, a local folder, or a hub id; a reranker is a cross-encoder of one label.
    precision: `int8`, `int8-weights` (8-bit weights, fp32 arithmetic) or `fp32`. evaluation: a folder with `stsb/` and
    `scifact/` to judge an encoder on as well.
    """

    model: str
    revision: str | None = None
    reranker: str | None = None
    reranker_revision: str | None = None
    precision: Precision = "int8"
    route: Route = "auto"
    wishes: Wishes = field(default_factory=Wishes)
    gates: Gates = field(default_factory=Gates)
    evaluation: Path | None = None


@dataclass(frozen=True, slots=True)
class Baked:
    """A finished bake."""

    artifact: Artifact
    seconds: float


@dataclass(frozen=True, slots=True)
class _Dough:
    """A model that has been read and found fit to bake."""

    source: ModelSource
    spec: Spec
    tokenizer: Tokenizer
    fp32: Fp32


def bake(order: Order, out: Path, *, report: Report = SILENT) -> Baked:
    """Bake a model into the folder `out`.

    Raises ConfigurationError for what cannot be baked, before any file is written, and EncodingError below a gate;
    then `out` is not made.
    """
    started = time.monotonic()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"{out}: is there already and not empty; remove it or name another folder")
    given = None if order.evaluation is None else GivenData.read(order.evaluation)
    encoder = _prepare(order.model, order.revision, order, order.wishes, report)
    reranker = None if order.reranker is None else _prepare_reranker(order.reranker, order, encoder, report)
    with _staging(out) as folder:
        manifest = _bake_one(encoder, folder, order, report, given)
        if reranker is not None:
            (folder / RERANKER).mkdir()
            beside = _bake_one(reranker, folder / RERANKER, order, report)
            (folder / RERANKER / MANIFEST).write_bytes(beside.to_bytes())
            manifest = replace(manifest, reranker=file_facts(folder / RERANKER / MANIFEST))
        (folder / MANIFEST).write_bytes(manifest.to_bytes())
        Artifact.load(folder)
    return Baked(Artifact.load(out), time.monotonic() - started)


def _prepare(model: str, revision: str | None, order: Order, wishes: Wishes, report: Report) -> _Dough:
    """Read everything that can refuse a model."""
    source = find_model(model, revision=revision)
    report.say("read", source.model_id)
    spec = read_spec(source.folder, wishes=wishes, card_prompts=source.card_prompts)
    tokenizer = load_tokenizer(spec)
    fp32 = build_fp32(source, spec, route=order.route)
    check_vocabulary(tokenizer, fp32.model.graph)
    return _Dough(source, spec, tokenizer, fp32)


def _prepare_reranker(model: str, order: Order, encoder: _Dough, report: Report) -> _Dough:
    reranker = _prepare(model, order.reranker_revision, order, Wishes(), report)
    if not isinstance(encoder.spec, EncoderSpec):
        raise ConfigurationError("--reranker: only an encoder can have one beside it")
    if not isinstance(reranker.spec, CrossEncoderSpec):
        raise ConfigurationError(f"--reranker {order.reranker}: is not a cross-encoder")
    if reranker.spec.labels != 1:
        raise ConfigurationError(f"--reranker {order.reranker}: gives {reranker.spec.labels} labels, a reranker one")
    return reranker


def _bake_one(dough: _Dough, folder: Path, order: Order, report: Report, given: GivenData | None = None) -> Manifest:
    """Write all files of one model but its manifest, which is returned."""
    (folder / TOKENIZER).write_text(dough.tokenizer.to_str(pretty=False), encoding="utf-8")
    trial = _trial(dough.spec, folder / TOKENIZER, given, report)
    with tempfile.TemporaryDirectory(prefix="embakery-fp32-") as scratch:
        reference = Path(scratch) / ENCODER
        _save(dough.fp32.model, reference)
        difference = _check_original(trial, dough.fp32, reference)
        baked = quantize_model(
            dough.fp32.model, calibration=trial.calibration(), precision=order.precision, report=report
        )
        _save(baked, folder / ENCODER)
        if dough.fp32.shape is not None and order.precision == "int8":
            pack_encoder(baked, dough.fp32.shape, folder / PACK)
        engines = _engines(folder, report)
        for engine in engines:
            trial.golden(folder, engine).save(folder / golden_file(engine))
        report.say("certify", f"{' and '.join(engines)}, against the fp32 original")
        facts = {"precision": order.precision, "export_difference": difference}
        # What the caller gave is judged once, through the best engine: that alone may take ten minutes.
        trials = [trial, *(_trial(dough.spec, folder / TOKENIZER, None, report) for _ in engines[1:])]
        measured = {
            engine: each.certify(reference, folder, engine) for engine, each in zip(engines, trials, strict=True)
        }
        _certify(measured, folder, order.gates, facts)
    return _manifest(dough.source, dough.spec, order.precision, folder, engines)


def _engines(folder: Path, report: Report) -> tuple[str, ...]:
    """Return the engines that can run what was baked, best first. A pack that native cannot run is thrown away."""
    if not (folder / PACK).exists():
        return ("onnx",)
    try:
        default_library()
        read_plan(Pack.open(folder / PACK))
    except (ConfigurationError, ArtifactError) as error:
        report.say("native", f"left out: {error}")
        if isinstance(error, ArtifactError):
            (folder / PACK).unlink()
        return ("onnx",)
    return ("native", "onnx")


def _trial(spec: Spec, tokenizer: Path, given: GivenData | None, report: Report) -> Trial:
    if isinstance(spec, EncoderSpec):
        return EncoderTrial(spec, tokenizer, given, report)
    return CrossEncoderTrial(spec, tokenizer)


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Save a graph; what is too large for one protobuf message gets its weights in a file beside it."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save(model, path, save_as_external_data=size > _LARGEST_MESSAGE, location=f"{path.name}.data")


def _check_original(trial: Trial, fp32: Fp32, reference: Path) -> float | None:
    """Compare the fp32 graph with the original, where torch is at hand. Raises ConfigurationError if they differ."""
    if fp32.original is None:
        return None
    difference = trial.difference(reference, fp32.original)
    if not difference <= EXPORT_TOLERANCE:
        raise ConfigurationError(
            f"the exported graph differs from the original by {difference:.2g}, more than {EXPORT_TOLERANCE:.0e}: "
            "this model needs something that the bake does not know"
        )
    return difference


def _certify(measured: Mapping[str, Certificate], folder: Path, gates: Gates, facts: Mapping[str, Any]) -> None:
    """Every engine must pass the gates; the first one's figures are the certificate's."""
    for certificate in measured.values():
        gates.check(certificate.figures)
    (best, certificate), *others = measured.items()
    others_figures = {name: other.figures for name, other in others}
    figures = {**facts, "engine": best, **certificate.figures, "other_engines": others_figures}
    figures |= certify.circumstances()
    (folder / CERTIFICATE).write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / REPORT).write_text(certificate.page(figures), encoding="utf-8")


def _manifest(source: ModelSource, spec: Spec, precision: Precision, folder: Path, engines: Sequence[str]) -> Manifest:
    files = {path.name: file_facts(path) for path in sorted(folder.iterdir())}
    kind: Kind = "encoder" if isinstance(spec, EncoderSpec) else "cross-encoder"
    shape = _encoder_shape(spec) if isinstance(spec, EncoderSpec) else _Shape((spec.labels,), "none", False, {})

    def space(engine: str) -> Space:
        facts = EngineFacts(engine, _CONTRACTS[engine], SCHEMES[precision])
        identity = space_id(
            kind=kind,
            weights_sha256=files[PACK if engine == "native" else ENCODER].sha256,
            tokenizer_sha256=files[TOKENIZER].sha256,
            golden_sha256=files[golden_file(engine)].sha256,
            max_tokens=spec.max_tokens,
            pooling=shape.pooling,
            normalize=shape.normalize,
            prompts=shape.prompts,
            engine=facts,
        )
        return Space(identity, facts)

    best, *others = map(space, engines)
    return Manifest(
        schema=SCHEMA,
        space_id=best.space_id,
        kind=kind,
        architecture=spec.architecture,
        model_id=source.model_id,
        revision=source.revision,
        licence=source.licence,
        dimensions=shape.dimensions,
        max_tokens=spec.max_tokens,
        pooling=shape.pooling,
        normalize=shape.normalize,
        prompts=shape.prompts,
        engine=best.engine,
        files=files,
        other_space=others[0] if others else None,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a manifest says of a model's output and prompts."""

    dimensions: tuple[int, ...]
    pooling: str
    normalize: bool
    prompts: Mapping[str, str]


def _encoder_shape(spec: EncoderSpec) -> _Shape:
    return _Shape(spec.dimensions, "+".join(spec.pooling), spec.normalizes, dict(spec.prompts))


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` that takes its name only when everything in it is written and synced."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield staging
        for path in (path for path in staging.rglob("*") if path.is_file()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        staging.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        staging.rename(out)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise ConfigurationError(f"{out}: cannot be written: {error.strerror}; nothing was kept") from error
        raise
