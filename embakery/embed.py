"""From texts to vectors: tokens -> keys -> cache -> encode misses -> vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from embakery.artifact import Artifact
from embakery.batches import batches
from embakery.cache import CacheCounts, Key, VectorCache
from embakery.cross_encoder import BakedReranker, CrossEncoder
from embakery.embedded import EmbedCounts, Embedded, Found, is_late
from embakery.engines import Engine, open_engine
from embakery.errors import (
    ArtifactError,
    DeadlineExceededError,
    EmbakeryError,
    EncodingError,
    InvalidRequestError,
)
from embakery.golden import golden_error, matches_golden
from embakery.rerank import RERANK_METHODS, Ranked, check_top_n, late_interaction_scores, rank, score_in_rounds
from embakery.rounds import ROUND_TOKENS, Deadline, Pace
from embakery.texts import TextLimits, TextTokenizer, TokenIds, TokenizedText, Truncate, check_text
from embakery.vectors import Vector, Vectors, check_dimensions, check_vectors, cut_dimensions

# Some 50,000 tokens: a tenth of a second of tokenizing, and some megabytes until they are cut to what the model takes.
_PORTION_CHARACTERS = 200_000


class Embedder:
    """A baked model, ready to embed and rerank. Safe to use from several threads."""

    def __init__(
        self,
        artifact: Artifact,
        engine: Engine,
        *,
        limits: TextLimits | None = None,
        round_tokens: int = ROUND_TOKENS,
        open_cross_encoder: Callable[[Artifact], CrossEncoder] = CrossEncoder.open,
    ) -> None:
        self.manifest = artifact.manifest.served_by(engine.name)
        self.certificate = artifact.certificate()
        self.engine = engine
        self.limits = limits or TextLimits()
        self._pace = Pace(round_tokens)
        self._tokenizer: TextTokenizer = artifact.tokenizer()
        self.reranker = None if artifact.reranker is None else BakedReranker(artifact.reranker, open_cross_encoder)
        golden = artifact.golden(engine.name)
        self.golden_matches = matches_golden(engine.encode(golden.ids), golden, self.manifest)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        engine: str = "auto",
        threads: int | None = None,
        limits: TextLimits | None = None,
        round_tokens: int = ROUND_TOKENS,
    ) -> Embedder:
        """Check and open an artifact.

        engine: `auto`, `native` or `onnx`. threads: all cores if None. round_tokens: the most that is worked on at a
        time, which bounds the memory; it changes no bit.
        Raises ArtifactError naming the file at fault, ConfigurationError for an engine that cannot be had.
        """
        artifact = Artifact.load(path)
        if artifact.manifest.kind != "encoder":
            raise ArtifactError(f"{artifact.path}: holds a cross-encoder, not an encoder; CrossEncoder.load opens it")
        opener = functools.partial(
            CrossEncoder.open, engine=engine, threads=threads, limits=limits, round_tokens=round_tokens
        )
        opened = open_engine(artifact, engine, threads)
        return cls(artifact, opened, limits=limits, round_tokens=round_tokens, open_cross_encoder=opener)

    def require_golden(self) -> None:
        """Raise GoldenMismatchError unless this machine computes the bake's bits: call before writing anything."""
        if not self.golden_matches:
            raise golden_error(self.manifest)

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
        found = Found()
        items: list[Embedded | EmbakeryError] = []
        for tokenized in self._tokenize(texts, input_type, truncate):
            self._find(tokenized, found, cache, tenant, deadline, counts.cache)
            items += [item if isinstance(item, EmbakeryError) else found.embedded(item) for item in tokenized]
            if len(items) < len(texts) and is_late(items, deadline):
                break
        items += [DeadlineExceededError("no time left to encode")] * (len(texts) - len(items))
        counts.add(items)
        return items

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        method: str | None = None,
        deadline: Deadline | None = None,
    ) -> list[Ranked]:
        """Rank documents for a query, best first.

        method: `late-interaction` or `cross-encoder`; None takes the cross-encoder if one was baked.
        Raises InvalidRequestError naming the text at fault, or `method` if the artifact does not hold it, and
        DeadlineExceededError when time runs out between rounds.
        """
        wanted = check_top_n(top_n)
        scorer = self.scored_by(method)
        if isinstance(scorer, CrossEncoder):
            scores = scorer.scores(query, documents, deadline=deadline)
        else:
            scores = self._late_interaction_scores(query, documents, deadline)
        return rank(scores, top_n=wanted)

    def rerank_method(self, wanted: object) -> str:
        """Return the method that a wish leads to. Raises InvalidRequestError under `method`."""
        if wanted is None:
            return "late-interaction" if self.reranker is None else "cross-encoder"
        if wanted not in RERANK_METHODS:
            raise InvalidRequestError("method", f"must be {' or '.join(RERANK_METHODS)}")
        if wanted == "cross-encoder" and self.reranker is None:
            raise InvalidRequestError("method", "no cross-encoder was baked here: use late-interaction")
        return str(wanted)

    def scored_by(self, method: str | None) -> Embedder | CrossEncoder:
        """Return whose scores `method` gives: its manifest stamps them, its golden check vouches for them."""
        if self.rerank_method(method) == "late-interaction" or self.reranker is None:
            return self
        return self.reranker.open()

    def _late_interaction_scores(self, query: str, documents: Sequence[str], deadline: Deadline | None) -> list[float]:
        (asked,) = self._all_tokenized([query], "query", lambda _: "query")
        candidates = self._all_tokenized(documents, "document", lambda index: f"documents[{index}]")
        (query_vectors,) = self.engine.encode_tokens([asked.ids])

        def score(batch: list[int]) -> list[float]:
            items = [candidates[index] for index in batch]
            vectors = self.engine.encode_tokens([item.ids for item in items])
            return late_interaction_scores(asked, query_vectors, items, vectors)

        # Token vectors are large, 400 KB for a long text: never those of all documents at once.
        return score_in_rounds([len(item.ids) for item in candidates], score, self._pace, deadline)

    def tokenize(self, text: str, *, input_type: str = "document") -> TokenizedText:
        """Tokenize one text as `embed` does. Raises InvalidRequestError."""
        (item,) = self._all_tokenized([text], input_type, lambda _: "text")
        return item

    def close(self) -> None:
        """Free the engine, and the cross-encoder's."""
        self.engine.close()
        if self.reranker is not None:
            self.reranker.close()

    def _tokenize(
        self, texts: Sequence[object], input_type: str, truncate: Truncate
    ) -> Iterator[list[TokenizedText | InvalidRequestError]]:
        """Tokenize what can be; errors stand in the others' places, with an empty field: callers know the names.

        Some at a time: tokenizing megabytes takes seconds, in which nobody would look at the clock.
        """
        for portion in batches(texts, size=_characters, max_items=len(texts), max_bytes=_PORTION_CHARACTERS):
            checked = [self._check(text) for text in portion]
            good = [text for text in checked if isinstance(text, str)]
            tokenized = iter(self._tokenizer.tokenize(good, input_type=input_type, truncate=truncate))
            yield [next(tokenized) if isinstance(text, str) else text for text in checked]

    def _all_tokenized(
        self, texts: Sequence[object], input_type: str, name: Callable[[int], str]
    ) -> list[TokenizedText]:
        """Tokenize all texts. Raises InvalidRequestError under the name of the first that cannot be."""
        tokenized: list[TokenizedText] = []
        for item in chain.from_iterable(self._tokenize(texts, input_type, "END")):
            if isinstance(item, InvalidRequestError):
                raise item.within(name(len(tokenized)))
            tokenized.append(item)
        return tokenized

    def _check(self, text: object) -> str | InvalidRequestError:
        try:
            return check_text(text, limits=self.limits)
        except InvalidRequestError as error:
            return error

    def _find(
        self,
        tokenized: Sequence[TokenizedText | InvalidRequestError],
        found: Found,
        cache: VectorCache | None,
        tenant: str,
        deadline: Deadline | None,
        counts: CacheCounts,
    ) -> None:
        """Find the vectors of texts that were not found yet: in the cache, or by encoding."""
        texts = [item.ids for item in tokenized if isinstance(item, TokenizedText)]
        wanted = [ids for ids in dict.fromkeys(texts) if ids not in found]
        keys = self._keys(wanted, cache, tenant)
        troubles = counts.errors
        found.cached.update(self._look_up(keys, cache, counts))
        if counts.errors > troubles:
            # It was just waited for in vain: not a second time, to write.
            keys = {}
        for batch in self._encode([ids for ids in wanted if ids not in found], deadline):
            # Round by round: what is done is kept, even if the process is killed in a later one.
            self._remember(keys, batch, cache, counts)
            found.encoded.update(batch)

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
        done = 0
        for indices in self._pace.rounds([len(ids) for ids in missing], deadline):
            batch = [missing[index] for index in indices]
            yield dict(zip(batch, self._encode_round(batch), strict=True))
            done += len(batch)
        yield dict.fromkeys(missing[done:], DeadlineExceededError("no time left to encode"))

    def _encode_round(self, batch: Sequence[TokenIds]) -> list[Vector | EmbakeryError]:
        try:
            return [*check_vectors(self.engine.encode(batch), self.manifest.dimension)]
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


def _characters(text: object) -> int:
    return len(text) if isinstance(text, str) else 0
