"""Cross-encoder rerank: a second model reads query and document together and gives a score."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embakery.artifact import Artifact, Golden, golden_file
from embakery.engines import PairScorer, open_pair_scorer
from embakery.errors import ArtifactError, ConfigurationError, EncodingError, InvalidRequestError
from embakery.golden import golden_error, matches_golden
from embakery.rerank import score_in_rounds
from embakery.rounds import ROUND_TOKENS, Deadline, Pace
from embakery.texts import TextLimits, check_text
from embakery.vectors import Vectors

if TYPE_CHECKING:
    from embakery.pairs import TokenizedPair

PairNames = Callable[[int], tuple[str, str]]
"""What errors call query and document of the pair at an index."""


class CrossEncoder:
    """A baked cross-encoder, ready to score pairs. Safe to use from several threads."""

    def __init__(
        self,
        artifact: Artifact,
        scorer: PairScorer,
        *,
        limits: TextLimits | None = None,
        round_tokens: int = ROUND_TOKENS,
    ) -> None:
        self.manifest = artifact.manifest.served_by(scorer.name)
        self.certificate = artifact.certificate()
        self.limits = limits or TextLimits()
        self._scorer = scorer
        self._pace = Pace(round_tokens)
        self._tokenizer = artifact.pair_tokenizer()
        golden = _golden_pairs(artifact, scorer.name)
        self.golden_matches = matches_golden(scorer.score(golden.ids, golden.types), golden, self.manifest)

    @classmethod
    def load(
        cls, path: Path | str, *, engine: str = "auto", threads: int | None = None, limits: TextLimits | None = None
    ) -> CrossEncoder:
        """Check and open an artifact of kind cross-encoder.

        engine: `auto`, `native` or `onnx`. threads: all cores if None.
        Raises ArtifactError naming the file at fault, ConfigurationError for an engine that cannot be had.
        """
        return cls.open(Artifact.load(path), engine=engine, threads=threads, limits=limits)

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        *,
        engine: str = "auto",
        threads: int | None = None,
        limits: TextLimits | None = None,
        round_tokens: int = ROUND_TOKENS,
    ) -> CrossEncoder:
        """Open a checked artifact. Raises ArtifactError if it is not a cross-encoder's."""
        if artifact.manifest.kind != "cross-encoder":
            raise ArtifactError(f"{artifact.path}: holds an encoder, not a cross-encoder; Embedder.load opens it")
        scorer = open_pair_scorer(artifact, engine, threads)
        return cls(artifact, scorer, limits=limits, round_tokens=round_tokens)

    def require_golden(self) -> None:
        """Raise GoldenMismatchError unless this machine computes the bake's bits: call before writing anything."""
        if not self.golden_matches:
            raise golden_error(self.manifest)

    def predict(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        """Return scores of (query, document) pairs, float32 (n, labels), the model's activation applied.

        Raises InvalidRequestError naming the text at fault, EncodingError if a score is NaN or infinite.
        """
        if not pairs:
            return np.empty((0, self.manifest.dimension), dtype=np.float32)
        texts = [self._checked_pair(pair, index) for index, pair in enumerate(pairs)]
        return self._score(self._tokenized(texts, _names_of_pair))

    def scores(self, query: str, documents: Sequence[str], *, deadline: Deadline | None = None) -> list[float]:
        """Return each document's score for a query; higher is better.

        Raises ConfigurationError if the model gives several labels, InvalidRequestError naming the text at fault, and
        DeadlineExceededError when time runs out between rounds.
        """
        if self.manifest.dimension != 1:
            raise ConfigurationError(
                f"{self.manifest.model_id} gives {self.manifest.dimension} labels: only a cross-encoder of one can rank"
            )
        asked = self._checked(query, "query")
        texts = [(asked, self._checked(text, f"documents[{index}]")) for index, text in enumerate(documents)]
        pairs = self._tokenized(texts, lambda index: ("query", f"documents[{index}]"))

        def score(batch: list[int]) -> list[float]:
            return [float(row[0]) for row in self._score([pairs[index] for index in batch])]

        return score_in_rounds([len(pair.ids) for pair in pairs], score, self._pace, deadline)

    def close(self) -> None:
        """Free the engine."""
        self._scorer.close()

    def _checked_pair(self, pair: object, index: int) -> tuple[str, str]:
        # A string of two characters would pass for a pair of texts.
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InvalidRequestError(f"pairs[{index}]", "must be a query and a document")
        query, document = _names_of_pair(index)
        return self._checked(pair[0], query), self._checked(pair[1], document)

    def _checked(self, text: object, name: str) -> str:
        try:
            return check_text(text, limits=self.limits)
        except InvalidRequestError as error:
            raise error.within(name) from None

    def _tokenized(self, texts: Sequence[tuple[str, str]], names: PairNames) -> list[TokenizedPair]:
        tokenized: list[TokenizedPair] = []
        for index, pair in enumerate(self._tokenizer.tokenize(texts)):
            if isinstance(pair, InvalidRequestError):
                raise InvalidRequestError(names(index)[pair.field == "document"], pair.problem)
            tokenized.append(pair)
        return tokenized

    def _score(self, pairs: Sequence[TokenizedPair]) -> Vectors:
        scores = self._scorer.score([pair.ids for pair in pairs], [pair.types for pair in pairs])
        if scores.shape != (len(pairs), self.manifest.dimension):
            raise EncodingError(f"the cross-encoder gave {scores.shape[1:]} scores for a pair")
        if not np.isfinite(scores).all():
            raise EncodingError("the cross-encoder gave NaN or infinity")
        return scores


class BakedReranker:
    """The cross-encoder beside an encoder, opened when it is first asked for: who only embeds does not pay for it.

    Its files have been checked with the encoder's; its golden scores are when it opens, before it scores anything.
    """

    def __init__(self, artifact: Artifact, open_one: Callable[[Artifact], CrossEncoder]) -> None:
        self.manifest = artifact.manifest
        self.certificate = artifact.certificate()
        self._artifact = artifact
        self._open_one = open_one
        self._opened: CrossEncoder | None = None
        self._lock = threading.Lock()

    def open(self) -> CrossEncoder:
        """Return the cross-encoder, the same at every call. Raises ArtifactError if it cannot be used."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open_one(self._artifact)
            return self._opened

    def close(self) -> None:
        """Free its engine, if it was opened."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()


def _names_of_pair(index: int) -> tuple[str, str]:
    return f"pairs[{index}][0]", f"pairs[{index}][1]"


def _golden_pairs(artifact: Artifact, engine: str) -> Golden:
    golden = artifact.golden(engine)
    if len(golden.types) != len(golden.ids):
        raise ArtifactError(f"{golden_file(engine)}: holds no pairs; bake the model again")
    return golden
