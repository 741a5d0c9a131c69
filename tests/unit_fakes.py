"""A tiny model that these tests own: a real tokenizer and a real artifact folder, an engine of a few additions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from embakery.artifact import SCHEMA, Artifact, EngineFacts, Golden, Kind, Manifest, file_facts, space_id
from embakery.cache import Key
from embakery.cross_encoder import CrossEncoder
from embakery.dead_letters import DeadLetter, DeadLetters
from embakery.embed import Embedder
from embakery.errors import CacheUnavailableError, EncodingError, StoreUnavailableError
from embakery.isolation import Mark, Marks
from embakery.results import Result, WriteOutcome
from embakery.texts import TokenIds
from embakery.vectors import Vectors

CLS, SEP = 1, 2
VOCABULARY = {
    "[UNK]": 0,
    "[CLS]": 1,
    "[SEP]": 2,
    "a": 3,
    "b": 4,
    "c": 5,
    "d": 6,
    "e": 7,
    "query:": 8,
    "nan": 9,
    "zero": 10,
    "refused": 11,
}
DIMENSION = 4
FACTS = EngineFacts(name="fake", contract="fake/1", quantization="none")


def write_tokenizer(path: Path) -> Path:
    """Write a tokenizer of single words, [CLS] before and [SEP] after. It drops zero-width spaces."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Replace("\u200b", "")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.save(str(path))
    return path


@dataclass
class FakeEngine:
    """Vectors are sums of their tokens' vectors. `encoded` lists what was asked for, batch by batch.

    `offset` is added to every vector, as a machine of other bits would.
    """

    offset: float = 0.0
    name: str = "fake"
    encoded: list[list[TokenIds]] = field(default_factory=list)
    closed: bool = False
    dies_at_batch: int | None = None

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        if len(self.encoded) == self.dies_at_batch:
            raise MemoryError
        if any(VOCABULARY["refused"] in ids for ids in batch):
            raise EncodingError("refused")
        self.encoded.append(list(batch))
        return np.stack([self.vector(ids) for ids in batch])

    def encode_tokens(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        return [np.stack([_token_vector(token) for token in ids]) for ids in batch]

    def close(self) -> None:
        self.closed = True

    def vector(self, ids: TokenIds) -> Vectors:
        """What `encode` gives for one text."""
        if VOCABULARY["nan"] in ids:
            return np.full(DIMENSION, np.nan, dtype=np.float32)
        if VOCABULARY["zero"] in ids:
            return np.zeros(DIMENSION, dtype=np.float32)
        total = np.sum([_token_vector(token) for token in ids], axis=0, dtype=np.float32)
        return np.asarray(total + np.float32(self.offset), dtype=np.float32)


def _token_vector(token: int) -> Vectors:
    return np.array([token, token % 2, token % 3, 1], dtype=np.float32)


@dataclass
class FakeScorer:
    """A pair's score is how many of the document's tokens stand in the query, in as many columns as there are labels.

    `scored` lists what was asked for, batch by batch. `offset` is added, as a machine of other bits would.
    """

    labels: int = 1
    offset: float = 0.0
    name: str = "fake"
    scored: list[list[TokenIds]] = field(default_factory=list)
    closed: bool = False

    def score(self, ids: Sequence[TokenIds], types: Sequence[TokenIds]) -> Vectors:
        if any(VOCABULARY["refused"] in one for one in ids):
            raise EncodingError("refused")
        self.scored.append(list(ids))
        rows = [[self._value(*pair) + self.offset] * self.labels for pair in zip(ids, types, strict=True)]
        return np.array(rows, dtype=np.float32)

    def close(self) -> None:
        self.closed = True

    def _value(self, ids: TokenIds, types: TokenIds) -> float:
        query = {token for token, type_ in zip(ids, types, strict=True) if type_ == 0} - {CLS, SEP}
        document = [token for token, type_ in zip(ids, types, strict=True) if type_ == 1]
        return float("nan") if VOCABULARY["nan"] in document else sum(token in query for token in document)


def write_artifact(
    folder: Path,
    *,
    model_id: str = "tiny",
    max_tokens: int = 8,
    prompts: Mapping[str, str] | None = None,
    dimensions: tuple[int, ...] = (DIMENSION,),
    reranker: bool = False,
) -> Path:
    """Write an artifact whose golden vectors are those of `FakeEngine()`; reranker: with a cross-encoder beside it."""
    ids: tuple[TokenIds, ...] = ((CLS, 3, SEP), (CLS, 4, 5, SEP))
    manifest = _write_files(
        folder,
        Golden(ids, FakeEngine().encode(ids)),
        kind="encoder",
        model_id=model_id,
        max_tokens=max_tokens,
        prompts=prompts,
        dimensions=dimensions,
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    if reranker:
        write_cross_encoder(folder / "reranker")
        list_reranker(folder)
    return folder


def write_cross_encoder(folder: Path, *, model_id: str = "owner/judge", max_tokens: int = 9, labels: int = 1) -> Path:
    """Write a cross-encoder's artifact whose golden scores are those of `FakeScorer()`."""
    ids: tuple[TokenIds, ...] = ((CLS, 3, SEP, 3, SEP), (CLS, 3, SEP, 4, 5, SEP))
    types: tuple[TokenIds, ...] = ((0, 0, 0, 1, 1), (0, 0, 0, 1, 1, 1))
    golden = Golden(ids, FakeScorer(labels).score(ids, types), types)
    manifest = _write_files(
        folder, golden, kind="cross-encoder", model_id=model_id, max_tokens=max_tokens, dimensions=(labels,)
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


def list_reranker(folder: Path) -> None:
    """Let the manifest list what is in `reranker/`, with right digests."""
    facts = file_facts(folder / "reranker" / "manifest.json")
    change_manifest(folder, lambda old: replace(old, reranker=facts))


def _write_files(
    folder: Path,
    golden: Golden,
    *,
    kind: Kind,
    model_id: str,
    max_tokens: int,
    dimensions: tuple[int, ...],
    prompts: Mapping[str, str] | None = None,
) -> Manifest:
    folder.mkdir(parents=True)
    write_tokenizer(folder / "tokenizer.json")
    (folder / "encoder.onnx").write_bytes(b"not a graph: the fake engine reads none")
    (folder / "certificate.json").write_text(json.dumps({"cosine": 1.0}))
    golden.save(folder / "golden.npz")
    files = {path.name: file_facts(path) for path in sorted(folder.iterdir())}
    return Manifest(
        schema=SCHEMA,
        space_id=space_id(
            kind=kind,
            weights_sha256=files["encoder.onnx"].sha256,
            tokenizer_sha256=files["tokenizer.json"].sha256,
            golden_sha256=files["golden.npz"].sha256,
            max_tokens=max_tokens,
            pooling="mean",
            normalize=False,
            prompts=prompts or {},
            engine=FACTS,
        ),
        kind=kind,
        architecture="fake",
        model_id=model_id,
        revision=None,
        licence="apache-2.0",
        dimensions=dimensions,
        max_tokens=max_tokens,
        pooling="mean",
        normalize=False,
        prompts=prompts or {},
        engine=FACTS,
        files=files,
    )


def change_manifest(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Write the manifest anew, with a right digest, as somebody who knows the format would."""
    path = folder / "manifest.json"
    path.write_bytes(change(Manifest.from_bytes(path.read_bytes())).to_bytes())


def list_file(folder: Path, name: str) -> None:
    """Let the manifest list another name, with the facts of encoder.onnx."""
    change_manifest(folder, lambda old: replace(old, files={**old.files, name: old.files["encoder.onnx"]}))


@dataclass
class FakeClock:
    """A clock that stands still until it is told."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeDeadline:
    """Time without end for the first `questions`, then none; never an end if None."""

    questions: int | None = None
    asked: int = 0

    def seconds_left(self) -> float:
        self.asked += 1
        return 0.0 if self.questions is not None and self.asked > self.questions else math.inf

    def seconds_to_end(self) -> float:
        """None: a mark left by a kill is one at once."""
        return 0.0


@dataclass
class FakeBackend:
    """A cache backend that can be made to fail, and shows what it holds and how often it was called."""

    values: dict[Key, bytes] = field(default_factory=dict)
    is_down: bool = False
    calls: list[str] = field(default_factory=list)
    ttls: list[int] = field(default_factory=list)

    def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        self._call("get")
        return [self.values.get(key) for key in keys]

    def set_many(self, values: Mapping[Key, bytes], *, ttl_seconds: int) -> None:
        self._call("set")
        self.ttls.append(ttl_seconds)
        self.values.update(values)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.is_down:
            raise CacheUnavailableError("down")


@dataclass
class FakeStore:
    """A store that keeps what it is given, but fails for some ids, or for all."""

    failing_ids: frozenset[str] = frozenset()
    superseded_ids: frozenset[str] = frozenset()
    is_down: bool = False
    results: list[Result] = field(default_factory=list)
    writes: int = 0

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        self.writes += 1
        if self.is_down:
            raise StoreUnavailableError("down")
        return [self._write(result) for result in results]

    def _write(self, result: Result) -> WriteOutcome:
        if result.id in self.failing_ids:
            return WriteOutcome.FAILED
        if result.id in self.superseded_ids:
            return WriteOutcome.SUPERSEDED
        self.results.append(result)
        return WriteOutcome.WRITTEN

    @property
    def ids(self) -> list[str]:
        return [result.id for result in self.results]


@dataclass
class FakeDeadLetters:
    """A dead-letter queue that keeps what it is sent, but refuses some."""

    refused_ids: frozenset[str] = frozenset()
    letters: list[DeadLetter] = field(default_factory=list)

    def send(self, letters: Sequence[DeadLetter]) -> frozenset[str]:
        taken = [letter for letter in letters if letter.message_id not in self.refused_ids]
        self.letters += taken
        return frozenset(letter.message_id for letter in taken)


@dataclass
class FakeQueue:
    """A source queue that says what was deleted before the batch was over, one list for each call."""

    max_receive_count: int | None = None
    dead_letters: DeadLetters | None = None
    deleted: list[list[str]] = field(default_factory=list)

    def delete(self, message_ids: Sequence[str]) -> None:
        self.deleted.append(list(message_ids))


class Killed(BaseException):
    """The process is gone."""


@dataclass
class MemoryTrail:
    """Marks that outlive the process. `writes` counts the round trips."""

    marks: dict[str, dict[str, Mark]] = field(default_factory=dict)
    writes: int = 0

    def read(self, message_ids: Sequence[str]) -> dict[str, Marks]:
        return {name: dict(self.marks[name]) for name in message_ids if name in self.marks}

    def write(self, message_id: str, unit: str, mark: Mark) -> None:
        self.writes += 1
        self.marks.setdefault(message_id, {})[unit] = mark


@dataclass(frozen=True)
class Tiny:
    """An embedder over the fakes, whose golden check is forgotten from the engine's record.

    opened: each opening of the cross-encoder, of which there should be one at most.
    """

    embedder: Embedder
    engine: FakeEngine
    scorer: FakeScorer
    opened: list[CrossEncoder]


def make_tiny(
    folder: Path,
    *,
    offset: float = 0.0,
    max_tokens: int = 8,
    prompts: Mapping[str, str] | None = None,
    dimensions: tuple[int, ...] = (DIMENSION,),
    reranker: bool = False,
    reranker_offset: float = 0.0,
) -> Tiny:
    """Write an artifact to `folder` and open it with a fake engine."""
    write_artifact(folder, max_tokens=max_tokens, prompts=prompts, dimensions=dimensions, reranker=reranker)
    engine, scorer = FakeEngine(offset=offset), FakeScorer(offset=reranker_offset)
    opened: list[CrossEncoder] = []

    def open_cross_encoder(artifact: Artifact) -> CrossEncoder:
        opened.append(CrossEncoder(artifact, scorer))
        scorer.scored.clear()
        return opened[-1]

    embedder = Embedder(Artifact.load(folder), engine, open_cross_encoder=open_cross_encoder)
    engine.encoded.clear()
    return Tiny(embedder, engine, scorer, opened)
