"""From texts to vectors: tokens -> keys -> cache -> encode misses -> vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from embakery.artifact import Artifact
from embakery.cache import CacheCounts, Key, VectorCache
from embakery.engines import Engine
from embakery.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EmbakeryError,
    EncodingError,
    GoldenMismatchError,
    InvalidRequestError,
)
from embakery.rerank import Ranked, check_top_n, late_interaction_scores, rank
from embakery.texts import TextLimits, TextTokenizer, TokenIds, TokenizedText, Truncate, check_text
from embakery.vectors import Vector, Vectors, check_dimensions, check_vector, cut_dimensions

log = logging.getLogger("embakery")

# The deadline is looked at between rounds: some seconds of work on one slow core, large enough to keep all cores busy.
ROUND_TOKENS = 8192


class Deadline(Protocol):
    """The time a caller has left."""

    def is_near(self) -> bool:
        """Say whether no new work should be begun."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A text's vector, float32 (dim,), and how it came about."""

    vector: Vector
    tokens: int
    truncated: bool
    cached: bool


@dataclass(slots=True)
class EmbedCounts:
    """What one call did, for metrics: texts by where their vector came from, and the cache's troubles."""

    from_cache: int = 0
    not_from_cache: int = 0
    cache: CacheCounts = field(default_factory=CacheCounts)

    def add(self, items: Sequence[Embedded | EmbakeryError]) -> None:
        """Count finished items."""
        embedded = [item for item in items if isinstance(item, Embedded)]
        cached = sum(item.cached for item in embedded)
        self.from_cache += cached
        self.not_from_cache += len(embedded) - cached


class Embedder:
    """A baked model, ready to embed and rerank. Safe to use from several threads."""

    def __init__(self, artifact: Artifact, engine: Engine, *, limits: TextLimits | None = None) -> None:
        self.manifest = artifact.manifest
        self.certificate = artifact.certificate()
        self.engine = engine
        self.limits = limits or TextLimits()
        self._tokenizer: TextTokenizer = artifact.tokenizer()
        self.golden_matches = _golden_matches(artifact, engine)

    @classmethod
    def load(
        cls, path: Path | str, *, engine: str = "auto", threads: int | None = None, limits: TextLimits | None = None
    ) -> Embedder:
        """Check and open an artifact.

        engine: `auto` or `onnx`. threads: all cores if None.
        Raises ArtifactError naming the file at fault, ConfigurationError for an unknown engine.
        """
        artifact = Artifact.load(path)
        embedder = cls(artifact, open_engine(artifact, engine, threads), limits=limits)
        if not embedder.golden_matches:
            log.error("golden_mismatch", extra={"space_id": artifact.manifest.space_id})
        return embedder

    def require_golden(self) -> None:
        """Raise GoldenMismatchError unless this machine computes the bake's bits: call before writing anything."""
        if not self.golden_matches:
            raise GoldenMismatchError(
                f"this machine computes other bits than those baked into space {self.manifest.space_id}: "
                "nothing is written; bake the model on this kind of CPU, or run where it was baked"
            )

    def embed(
        self,
        texts: Sequence[str],
        *,
        input_type: str = "document",
        dimensions: int | None = None,
        truncate: Truncate = "END",
    ) -> Vectors:
        """Return float32 (n, dim). Raises InvalidRequestError naming the first text that cannot be embedded."""
        wanted = self.manifest.dimension if dimensions is None else dimensions
        check_dimensions(wanted, self.manifest.dimensions)
        if isinstance(texts, str):
            raise InvalidRequestError("texts", "must be a sequence of strings, not one string")
        if not texts:
            return np.empty((0, wanted), dtype=np.float32)
        vectors = []
        for index, item in enumerate(self.embed_items(texts, input_type=input_type, truncate=truncate)):
            if isinstance(item, InvalidRequestError):
                raise item.within(f"texts[{index}]")
            if isinstance(item, EmbakeryError):
                raise item
            vectors.append(cut_dimensions(item.vector, wanted))
        return np.stack(vectors)

    def embed_items(
        self,
        texts: Sequence[object],
        *,
        input_type: str = "document",
        truncate: Truncate = "END",
        cache: VectorCache | None = None,
        tenant: str = "default",
        deadline: Deadline | None = None,
        counts: EmbedCounts | None = None,
    ) -> list[Embedded | EmbakeryError]:
        """Embed each text alone: a bad one gives its error, without a field, in its place and harms no neighbour.

        Texts with equal tokens are encoded once. With a cache, found vectors are taken from it, equal bit for bit to
        those encoded, and new ones are put there. Past the deadline the rest gives DeadlineExceededError.
        """
        counts = counts or EmbedCounts()
        tokenized = self._tokenize(texts, input_type, truncate)
        wanted = list(dict.fromkeys(item.ids for item in tokenized if isinstance(item, TokenizedText)))
        keys = self._keys(wanted, cache, tenant)
        cached = self._look_up(keys, cache, counts.cache)
        encoded: dict[TokenIds, Vector | EmbakeryError] = {}
        for batch in self._encode([ids for ids in wanted if ids not in cached], deadline):
            # Round by round: what is done is kept, even if the process is killed in a later one.
            self._remember(keys, batch, cache, counts.cache)
            encoded |= batch
        items = [item if isinstance(item, EmbakeryError) else _embedded(item, cached, encoded) for item in tokenized]
        counts.add(items)
        return items

    def rerank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None, deadline: Deadline | None = None
    ) -> list[Ranked]:
        """Rank documents for a query by late interaction, best first.

        Raises InvalidRequestError naming the text at fault, DeadlineExceededError when time runs out between rounds.
        """
        wanted = check_top_n(top_n)
        (asked,) = self._all_tokenized([query], "query", lambda _: "query")
        candidates = self._all_tokenized(documents, "document", lambda index: f"documents[{index}]")
        (query_vectors,) = self.engine.encode_tokens([asked.ids])
        scores = [0.0] * len(candidates)
        # Token vectors are large, 400 KB for a long text: never those of all documents at once.
        for number, batch in enumerate(_rounds([len(item.ids) for item in candidates])):
            if number > 0 and deadline is not None and deadline.is_near():
                raise DeadlineExceededError("no time left to rerank")
            items = [candidates[index] for index in batch]
            vectors = self.engine.encode_tokens([item.ids for item in items])
            for index, score in zip(batch, late_interaction_scores(asked, query_vectors, items, vectors), strict=True):
                scores[index] = score
        return rank(scores, top_n=wanted)

    def tokenize(self, text: str, *, input_type: str = "document") -> TokenizedText:
        """Tokenize one text as `embed` does. Raises InvalidRequestError."""
        (item,) = self._all_tokenized([text], input_type, lambda _: "text")
        return item

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def _tokenize(
        self, texts: Sequence[object], input_type: str, truncate: Truncate
    ) -> list[TokenizedText | InvalidRequestError]:
        """Tokenize what can be; errors stand in the others' places, with an empty field: callers know the names."""
        checked = [self._check(text) for text in texts]
        good = [text for text in checked if isinstance(text, str)]
        tokenized = iter(self._tokenizer.tokenize(good, input_type=input_type, truncate=truncate))
        return [next(tokenized) if isinstance(text, str) else text for text in checked]

    def _all_tokenized(
        self, texts: Sequence[object], input_type: str, name: Callable[[int], str]
    ) -> list[TokenizedText]:
        """Tokenize all texts. Raises InvalidRequestError under the name of the first that cannot be."""
        tokenized: list[TokenizedText] = []
        for index, item in enumerate(self._tokenize(texts, input_type, "END")):
            if isinstance(item, InvalidRequestError):
                raise item.within(name(index))
            tokenized.append(item)
        return tokenized

    def _check(self, text: object) -> str | InvalidRequestError:
        try:
            return check_text(text, limits=self.limits)
        except InvalidRequestError as error:
            return error

    def _keys(self, wanted: Sequence[TokenIds], cache: VectorCache | None, tenant: str) -> dict[TokenIds, Key]:
        # Other bits than the bake's must neither enter the cache nor mix with what is there.
        if cache is None or not self.golden_matches:
            return {}
        return {ids: cache.key(tenant, ids) for ids in wanted}

    def _look_up(
        self, keys: Mapping[TokenIds, Key], cache: VectorCache | None, counts: CacheCounts
    ) -> dict[TokenIds, Vector]:
        if cache is None:
            return {}
        found = cache.get_many(list(keys.values()), counts)
        return {ids: found[key] for ids, key in keys.items() if key in found}

    def _encode(
        self, missing: Sequence[TokenIds], deadline: Deadline | None
    ) -> Iterator[dict[TokenIds, Vector | EmbakeryError]]:
        for number, indices in enumerate(_rounds([len(ids) for ids in missing])):
            batch = [missing[index] for index in indices]
            # The first round always runs: a batch that is handed back again and again must still get somewhere.
            if number > 0 and deadline is not None and deadline.is_near():
                yield dict.fromkeys(batch, DeadlineExceededError("no time left to encode"))
            else:
                yield dict(zip(batch, self._encode_round(batch), strict=True))

    def _encode_round(self, batch: Sequence[TokenIds]) -> list[Vector | EmbakeryError]:
        try:
            return [self._checked(vector) for vector in self.engine.encode(batch)]
        except EncodingError as error:
            if len(batch) == 1:
                return [error]
            # One at a time, with the same bits: only the text that the engine cannot take fails.
            return [result for ids in batch for result in self._encode_round([ids])]

    def _remember(
        self,
        keys: Mapping[TokenIds, Key],
        encoded: Mapping[TokenIds, Vector | EmbakeryError],
        cache: VectorCache | None,
        counts: CacheCounts,
    ) -> None:
        if cache is None or not keys:
            return
        good = {keys[ids]: vector for ids, vector in encoded.items() if not isinstance(vector, EmbakeryError)}
        cache.set_many(good, counts)

    def _checked(self, vector: Vector) -> Vector | EncodingError:
        try:
            return check_vector(vector, self.manifest.dimension)
        except EncodingError as error:
            return error


def open_engine(artifact: Artifact, name: str, threads: int | None) -> Engine:
    """Open the engine `name`, or the best one under `auto`, and log which and why."""
    if name not in {"auto", "onnx"}:
        raise ConfigurationError(f"engine {name!r} is unknown: use auto or onnx")
    from embakery.engines.onnx import OnnxEngine  # by need: .25 s that a caller of the types alone should not pay

    reason = "asked for" if name == "onnx" else "the artifact holds no other"
    log.info("engine", extra={"engine": "onnx", "reason": reason})
    return OnnxEngine(artifact.encoder, threads=threads)


def _golden_matches(artifact: Artifact, engine: Engine) -> bool:
    golden = artifact.golden()
    return engine.encode(golden.ids).tobytes() == golden.vectors.tobytes()


def _rounds(lengths: Sequence[int]) -> list[list[int]]:
    """Split indices, in their order, into rounds of about ROUND_TOKENS tokens.

    In the order of arrival: where time runs out, whole messages are done and whole messages come again. The engine
    sorts by length within a round.
    """
    rounds: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if length > room:
            rounds.append([])
            room = ROUND_TOKENS
        rounds[-1].append(index)
        room -= length
    return rounds


def _embedded(
    item: TokenizedText, cached: Mapping[TokenIds, Vector], encoded: Mapping[TokenIds, Vector | EmbakeryError]
) -> Embedded | EmbakeryError:
    vector = cached[item.ids] if item.ids in cached else encoded[item.ids]
    if isinstance(vector, EmbakeryError):
        return vector
    return Embedded(vector, tokens=len(item.ids), truncated=item.truncated, cached=item.ids in cached)
