"""Cross-encoder rerank: a second model reads query and document together and gives a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from embakery.artifact import Artifact
from embakery.engines import PairScorer
from embakery.errors import ArtifactError, ConfigurationError, EncodingError, GoldenMismatchError, InvalidRequestError
from embakery.pairs import TokenizedPair
from embakery.texts import TextLimits, check_text
from embakery.vectors import Vectors

PairNames = Callable[[int], tuple[str, str]]
"""What errors call query and document of the pair at an index."""


class CrossEncoder:
    """A baked cross-encoder, ready to score pairs. Safe to use from several threads."""

    def __init__(self, artifact: Artifact, scorer: PairScorer, *, limits: TextLimits | None = None) -> None:
        self.manifest = artifact.manifest
        self.certificate = artifact.certificate()
        self.limits = limits or TextLimits()
        self._scorer = scorer
        self._tokenizer = artifact.pair_tokenizer()
        golden = artifact.golden()
        self.golden_matches = scorer.score(golden.ids, golden.types).tobytes() == golden.vectors.tobytes()

    @classmethod
    def load(cls, path: Path | str, *, threads: int | None = None, limits: TextLimits | None = None) -> CrossEncoder:
        """Check and open an artifact of kind cross-encoder. Raises ArtifactError naming the file at fault."""
        return cls.open(Artifact.load(path), threads=threads, limits=limits)

    @classmethod
    def open(cls, artifact: Artifact, *, threads: int | None = None, limits: TextLimits | None = None) -> CrossEncoder:
        """Open a checked artifact. Raises ArtifactError if it is not a cross-encoder's."""
        if artifact.manifest.kind != "cross-encoder":
            raise ArtifactError(f"{artifact.path}: holds an encoder, not a cross-encoder")
        from embakery.engines.onnx import OnnxPairScorer  # by need: .25 s that a caller of the types should not pay

        return cls(artifact, OnnxPairScorer(artifact.encoder, threads=threads), limits=limits)

    def require_golden(self) -> None:
        """Raise GoldenMismatchError unless this machine computes the bake's bits: call before writing anything."""
        if not self.golden_matches:
            raise GoldenMismatchError(
                f"this machine computes other scores than those baked into {self.manifest.space_id}: nothing is "
                "written; bake the model on this kind of CPU, or run where it was baked"
            )

    def predict(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        """Return scores, float32 (n, labels). Raises InvalidRequestError naming the text at fault."""
        if not pairs:
            return np.empty((0, self.manifest.dimension), dtype=np.float32)
        return self.score(self.tokenize(pairs, lambda index: (f"pairs[{index}][0]", f"pairs[{index}][1]")))

    def tokenize(self, pairs: Sequence[tuple[object, object]], names: PairNames) -> list[TokenizedPair]:
        """Check and tokenize pairs. Raises InvalidRequestError under the name of the first text that cannot be."""
        texts = []
        for index, (query, document) in enumerate(pairs):
            query_name, document_name = names(index)
            texts.append((self._checked(query, query_name), self._checked(document, document_name)))
        tokenized: list[TokenizedPair] = []
        for index, pair in enumerate(self._tokenizer.tokenize(texts)):
            if isinstance(pair, InvalidRequestError):
                raise InvalidRequestError(names(index)[pair.field == "document"], pair.problem)
            tokenized.append(pair)
        return tokenized

    def score(self, pairs: Sequence[TokenizedPair]) -> Vectors:
        """Return scores, float32 (n, labels). Raises EncodingError if one is NaN or infinite."""
        scores = self._scorer.score([pair.ids for pair in pairs], [pair.types for pair in pairs])
        if not np.isfinite(scores).all():
            raise EncodingError("the cross-encoder gave NaN or infinity")
        return scores

    def require_one_label(self) -> None:
        """Raise ConfigurationError if there is no one score to rank by."""
        if self.manifest.dimension != 1:
            raise ConfigurationError(
                f"{self.manifest.model_id} gives {self.manifest.dimension} labels: only a cross-encoder of one can rank"
            )

    def close(self) -> None:
        """Free the engine."""
        self._scorer.close()

    def _checked(self, text: object, name: str) -> str:
        try:
            return check_text(text, limits=self.limits)
        except InvalidRequestError as error:
            raise error.within(name) from None
