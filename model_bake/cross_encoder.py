"""How a cross-encoder is calibrated, pinned and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embakery.artifact import Golden
from embakery.engines import PairScorer, pair_scorer_of
from embakery.engines.onnx import OnnxPairScorer
from embakery.pairs import PairTokenizer, TokenizedPair
from embakery.vectors import Vectors
from evaluation.metrics import spearman
from model_bake.calibrate import Feed
from model_bake.certify import spread
from model_bake.report import cross_encoder_page
from model_bake.samples import GOLDEN_TEXTS, calibration_passages, pair_texts
from model_bake.spec import CrossEncoderSpec
from model_bake.trial import Certificate

if TYPE_CHECKING:
    from model_bake.export import Original

_COMPARED = 32


@dataclass(frozen=True, slots=True)
class CrossEncoderTrial:
    """A cross-encoder and its tokenizer's file."""

    spec: CrossEncoderSpec
    tokenizer: Path

    def calibration(self) -> list[Feed]:
        """Return what quantization is calibrated on: every short passage as the query of a long one."""
        texts = sorted((passage.text for passage in calibration_passages()), key=len)
        half = len(texts) // 2
        pairs = self._tokenized(list(zip(texts[:half], texts[half:], strict=False)))
        return [
            {"input_ids": np.array(pair.ids, dtype=np.int64), "token_type_ids": np.array(pair.types, dtype=np.int64)}
            for pair in pairs
        ]

    def golden(self, folder: Path, engine: str) -> Golden:
        """Score the golden texts, each with the next."""
        pairs = self._tokenized(list(zip(GOLDEN_TEXTS, (*GOLDEN_TEXTS[1:], GOLDEN_TEXTS[0]), strict=True)))
        ids, types = tuple(pair.ids for pair in pairs), tuple(pair.types for pair in pairs)
        return Golden(ids, pair_scorer_of(folder, engine).score(ids, types), types)

    def difference(self, graph: Path, original: Original) -> float:
        """Return the largest difference of any score between the fp32 graph and the original."""
        pairs = [(query, text) for query, texts in pair_texts() for text in texts[:4]][:_COMPARED]
        ours = _score(OnnxPairScorer(graph), self._tokenized(pairs))
        return float(np.abs(ours - original.scores(pairs)).max())

    def certify(self, reference: Path, folder: Path, engine: str) -> Certificate:
        """Measure an engine of the baked folder against the fp32 graph: scores, and the rankings that they give."""
        asked = [self._tokenized([(query, text) for text in texts]) for query, texts in pair_texts()]
        before, after = OnnxPairScorer(reference), pair_scorer_of(folder, engine)
        original = [_score(before, pairs) for pairs in asked]
        ours = [_score(after, pairs) for pairs in asked]
        errors = np.concatenate([np.abs(a - b) for a, b in zip(ours, original, strict=True)])
        agreements = np.array([spearman(a[:, 0], b[:, 0]) for a, b in zip(ours, original, strict=True)], np.float32)
        alone = [[_score(after, [pair])[0].tobytes() for pair in pairs] for pairs in asked]
        together = [[row.tobytes() for row in scores] for scores in ours]
        figures: dict[str, Any] = {
            "inputs": len(errors),
            "queries": len(asked),
            "score_error": {"mean": float(f"{errors.mean():.3g}"), "max": float(f"{errors.max():.3g}")},
            "rank_agreement": spread(agreements),
            "same_best": sum(int(a[:, 0].argmax() == b[:, 0].argmax()) for a, b in zip(ours, original, strict=True)),
            "batch_invariant": sum(a == b for a, b in zip(chain(*alone), chain(*together), strict=True)),
        }
        scores = (np.concatenate(original), np.concatenate(ours))
        return Certificate(figures, lambda finished: cross_encoder_page(finished, *scores))

    def _tokenized(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedPair]:
        tokenizer = PairTokenizer(self.tokenizer, max_tokens=self.spec.max_tokens)
        return [pair for pair in tokenizer.tokenize(pairs) if isinstance(pair, TokenizedPair)]


def _score(scorer: PairScorer, pairs: Sequence[TokenizedPair]) -> Vectors:
    return scorer.score([pair.ids for pair in pairs], [pair.types for pair in pairs])
