"""A baked model on disk: what is in it, and the proof that it is what was baked.

manifest.json     what this is, and sha256 and size of every other file
encoder.onnx      stock ONNX operators
encoder.pack      the same weights for the native engine (BERT family, int8)
tokenizer.json    Hugging Face fast tokenizer
golden.npz        a few texts' token ids and vectors, as the onnx engine computes them
golden.native.npz the same, as the native engine does, where the artifact has a pack
certificate.json  fidelity against the fp32 original
certificate.html  the same, to be read
reranker/         a cross-encoder in the same layout, if one was asked for
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embakery.errors import ArtifactError, DigestMismatchError, NotFoundError
from embakery.texts import TextTokenizer, TokenIds
from embakery.vectors import Vectors

if TYPE_CHECKING:
    from embakery.pairs import PairTokenizer

SCHEMA = 3
MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
PACK = "encoder.pack"
TOKENIZER = "tokenizer.json"
GOLDEN = "golden.npz"
NATIVE_GOLDEN = "golden.native.npz"
CERTIFICATE = "certificate.json"
REPORT = "certificate.html"
RERANKER = "reranker"

# What one engine alone reads. A copy of the artifact may do without an engine, all of its files or none.
ENGINE_FILES = {"native": frozenset({PACK, NATIVE_GOLDEN}), "onnx": frozenset({ENCODER, GOLDEN})}

_ZIP_FROM_UNIX = 3

Kind = Literal["encoder", "cross-encoder"]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's digest (hex sha256) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Which engine's bits the space is made of. `contract` names its numeric rules; a change of them is a new space."""

    name: str
    contract: str
    quantization: str


@dataclass(frozen=True, slots=True)
class Space:
    """A set of vectors that may be compared, and the engine whose bits they are."""

    space_id: str
    engine: EngineFacts


@dataclass(frozen=True, slots=True)
class Manifest:
    """The artifact's description.

    kind: an encoder gives vectors, a cross-encoder gives scores of pairs.
    space_id, engine: those of the best engine, which serves wherever it can; of a loaded model, those of the one that
    does. other_space: the onnx engine's, where the best one is another: near vectors, but other bits.
    architecture: the original's `model_type`, or `static`.
    dimensions: the allowed output lengths, the full one first (Matryoshka); of a cross-encoder, its number of labels.
    reranker: facts of `reranker/manifest.json`, which in turn lists the files beside it.
    """

    schema: int
    space_id: str
    kind: Kind
    architecture: str
    model_id: str
    revision: str | None
    licence: str | None
    dimensions: tuple[int, ...]
    max_tokens: int
    pooling: str
    normalize: bool
    prompts: Mapping[str, str]
    engine: EngineFacts
    files: Mapping[str, FileFacts]
    reranker: FileFacts | None = None
    other_space: Space | None = None

    def served_by(self, engine: str) -> Manifest:
        """Return this manifest with the space of the engine that serves. Raises ArtifactError if it has none."""
        if engine == self.engine.name:
            return self
        other = self.other_space
        if other is None or other.engine.name != engine:
            raise ArtifactError(f"{MANIFEST}: was baked without the engine {engine}; bake the model again")
        return replace(self, space_id=other.space_id, engine=other.engine, other_space=None)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that have a space, best first."""
        return (self.engine.name, *(() if self.other_space is None else (self.other_space.engine.name,)))

    def check_model(self, wanted: object, field: str) -> None:
        """Raise NotFoundError under `field` if a caller names another model: it must not get this one's vectors."""
        if wanted is not None and not self.is_called(wanted):
            raise NotFoundError(field, f"this deployment serves {self.model_id}")

    def is_called(self, name: object) -> bool:
        """Say whether a caller's name for a model, with or without its owner, means this one."""
        return name in (self.model_id, self.model_id.rpartition("/")[2])

    @property
    def dimension(self) -> int:
        """The length of a whole vector."""
        return self.dimensions[0]

    def to_bytes(self) -> bytes:
        """Return the one way this manifest is written: canonical JSON with a digest of itself."""
        content = asdict(self)
        body = {"digest": _digest(content), **content}
        return (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read what `to_bytes` wrote. Raises ArtifactError; any changed byte is refused."""
        try:
            raw = json.loads(data)
            manifest = cls._from_json(raw)
            canonical = manifest.to_bytes()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"{MANIFEST}: not a manifest of schema {SCHEMA}; bake the model again") from error
        if canonical != data:
            raise DigestMismatchError(f"{MANIFEST}: changed since it was baked; bake or deploy it again")
        return manifest

    @classmethod
    def _from_json(cls, raw: Mapping[str, Any]) -> Manifest:
        if raw["schema"] != SCHEMA or raw["kind"] not in get_args(Kind):
            raise ValueError("unknown schema or kind")
        values = {item.name: raw[item.name] for item in fields(cls)}
        return cls(
            **{
                **values,
                "dimensions": tuple(raw["dimensions"]),
                "engine": EngineFacts(**raw["engine"]),
                "files": {name: FileFacts(**facts) for name, facts in raw["files"].items()},
                "reranker": None if raw["reranker"] is None else FileFacts(**raw["reranker"]),
                "other_space": None if raw["other_space"] is None else _space(raw["other_space"]),
            }
        )


def _space(raw: Mapping[str, Any]) -> Space:
    return Space(raw["space_id"], EngineFacts(**raw["engine"]))


def space_id(
    *,
    kind: Kind,
    weights_sha256: str,
    tokenizer_sha256: str,
    golden_sha256: str,
    max_tokens: int,
    pooling: str,
    normalize: bool,
    prompts: Mapping[str, str],
    engine: EngineFacts,
) -> str:
    """Hash everything that changes a vector's bits. The model's name and the files' order are not among it.

    weights_sha256: of the file that the engine reads. The golden vectors take part: baked on two kinds of CPU, the same
    weights may give other bits with onnxruntime, and then another space.
    """
    content = {
        "kind": kind,
        "weights": weights_sha256,
        "tokenizer": tokenizer_sha256,
        "golden": golden_sha256,
        "max_tokens": max_tokens,
        "pooling": pooling,
        "normalize": normalize,
        "prompts": dict(prompts),
        "engine": asdict(engine),
    }
    return _digest(content)[:32]


@dataclass(frozen=True, slots=True)
class Golden:
    """Token ids of a few inputs and what the bake's engine made of them, float32 (n, dim), or (n, labels) of pairs.

    types: each pair's token types, for a cross-encoder; empty for an encoder.
    """

    ids: tuple[TokenIds, ...]
    vectors: Vectors
    types: tuple[TokenIds, ...] = ()

    def save(self, path: Path) -> None:
        """Write golden.npz. The same content gives the same bytes, whatever the version of Python."""
        lengths = np.array([len(ids) for ids in self.ids], dtype=np.int32)
        arrays = {"lengths": lengths, "ids": _flat(self.ids), "types": _flat(self.types), "vectors": self.vectors}
        # Not np.savez: it streams, and how a streamed entry's header looks changed within Python 3.11.
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.save(content, array)
                entry = zipfile.ZipInfo(f"{name}.npy")
                entry.create_system = _ZIP_FROM_UNIX
                archive.writestr(entry, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read golden.npz. Raises ArtifactError."""
        try:
            # Opened here: numpy leaves the file of a broken zip archive open.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                lengths, ids, types, vectors = (arrays[name] for name in ("lengths", "ids", "types", "vectors"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path.name}: cannot be read") from error
        types_split = _split(types, lengths) if types.size else ()
        return cls(_split(ids, lengths), np.asarray(vectors, dtype=np.float32), types_split)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder whose every file has been checked against the manifest, the cross-encoder's beside it included.

    engines: those that have a space and whose files are here, best first.
    """

    path: Path
    manifest: Manifest
    engines: tuple[str, ...]
    reranker: Artifact | None = None

    @classmethod
    def load(cls, path: Path | str) -> Artifact:
        """Read and check an artifact. Raises ArtifactError naming the file that is missing, extra or changed.

        An image that carries one engine needs not carry the other's files, half of the whole: where all of them are
        missing, the artifact is as one that was baked without that engine.
        """
        folder = Path(path)
        try:
            data = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{folder}: no {MANIFEST} can be read there; bake one with `embakery bake`") from error
        manifest = Manifest.from_bytes(data)
        left_out = _engines_left_out(folder, manifest)
        unneeded = frozenset().union(*(ENGINE_FILES[name] for name in left_out))
        files = {name: facts for name, facts in manifest.files.items() if name not in unneeded}
        _check_names(folder, manifest, files.keys())
        for name, facts in files.items():
            _check_file(folder / name, name, facts)
        reranker = None if manifest.reranker is None else _load_reranker(folder, manifest.reranker)
        engines = tuple(name for name in manifest.engines if name not in left_out)
        return cls(folder, manifest, engines, reranker)

    @property
    def encoder(self) -> Path:
        """The ONNX encoder."""
        return self.path / ENCODER

    @property
    def pack(self) -> Path | None:
        """The native engine's weights, where the architecture has them."""
        return self.path / PACK if PACK in self.manifest.files else None

    def tokenizer(self) -> TextTokenizer:
        """Open the tokenizer."""
        manifest = self.manifest
        return TextTokenizer(self.path / TOKENIZER, max_tokens=manifest.max_tokens, prompts=manifest.prompts)

    def pair_tokenizer(self) -> PairTokenizer:
        """Open a cross-encoder's tokenizer."""
        # By need, as everything that only some artifacts have: a start counts every class that it makes.
        from embakery.pairs import PairTokenizer

        return PairTokenizer(self.path / TOKENIZER, max_tokens=self.manifest.max_tokens)

    def golden(self, engine: str) -> Golden:
        """Read the golden vectors of an engine."""
        return Golden.load(self.path / golden_file(engine))

    def certificate(self) -> Mapping[str, Any]:
        """Read the fidelity certificate."""
        content: Mapping[str, Any] = json.loads((self.path / CERTIFICATE).read_bytes())
        return content


def golden_file(engine: str) -> str:
    """Return the name of the file with an engine's golden vectors."""
    return NATIVE_GOLDEN if engine == "native" else GOLDEN


def file_facts(path: Path) -> FileFacts:
    """Return a file's digest and size."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return FileFacts(hashlib.sha256().hexdigest(), 0)
        # Mapped, because a tenth of the time would go into copying.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return FileFacts(hashlib.sha256(content).hexdigest(), size)


def _engines_left_out(folder: Path, manifest: Manifest) -> frozenset[str]:
    """Return the engines of which no file is here; none where that would leave nothing, so that files are missed."""
    wanted = {name: ENGINE_FILES.get(name, frozenset()) for name in manifest.engines}
    gone = frozenset(
        name for name, files in wanted.items() if files and not any((folder / file).exists() for file in files)
    )
    return frozenset() if gone == wanted.keys() else gone


def _check_names(folder: Path, manifest: Manifest, wanted: Collection[str]) -> None:
    """Refuse names that lead out of the folder, links, and any file that the manifest does not list."""
    listed = set(wanted)
    if any(name != Path(name).name or name in {"", ".", "..", MANIFEST, RERANKER} for name in listed):
        raise ArtifactError(f"{MANIFEST}: lists a name that is not a plain file name")
    if manifest.reranker is not None:
        listed.add(RERANKER)
    entries = {entry.name: entry for entry in folder.iterdir()}
    if links := sorted(name for name, entry in entries.items() if entry.is_symlink()):
        raise DigestMismatchError(f"{links[0]}: is a symbolic link")
    if missing := sorted(listed - entries.keys()):
        raise DigestMismatchError(f"{missing[0]}: missing; bake or deploy the artifact again")
    if extra := sorted(entries.keys() - listed - {MANIFEST}):
        raise DigestMismatchError(f"{extra[0]}: not part of the artifact; remove it")


def _check_file(path: Path, name: str, facts: FileFacts) -> None:
    try:
        size = path.stat().st_size
        found = file_facts(path) if size == facts.size else None
    except OSError as error:
        raise ArtifactError(f"{name}: cannot be read") from error
    if found != facts:
        reason = f"{size} bytes instead of {facts.size}" if found is None else "its sha256 differs"
        raise DigestMismatchError(f"{name}: {reason}; bake or deploy the artifact again")


def _load_reranker(folder: Path, facts: FileFacts) -> Artifact:
    """Check the cross-encoder's folder as a whole: its manifest by digest, its files by its manifest."""
    path = folder / RERANKER / MANIFEST
    _check_file(path, f"{RERANKER}/{MANIFEST}", facts)
    try:
        reranker = Artifact.load(path.parent)
    except ArtifactError as error:
        raise type(error)(f"{RERANKER}/{error}") from error
    if reranker.manifest.kind != "cross-encoder" or reranker.reranker is not None:
        raise ArtifactError(f"{RERANKER}/{MANIFEST}: is not a cross-encoder's")
    if reranker.manifest.dimensions != (1,):
        raise ArtifactError(f"{RERANKER}/{MANIFEST}: gives several labels, a reranker gives one")
    return reranker


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _flat(rows: tuple[TokenIds, ...]) -> NDArray[np.int32]:
    return np.array([token for row in rows for token in row], dtype=np.int32)


def _split(flat: NDArray[np.int32], lengths: NDArray[np.int32]) -> tuple[TokenIds, ...]:
    return tuple(tuple(int(token) for token in part) for part in np.split(flat, np.cumsum(lengths)[:-1]))
