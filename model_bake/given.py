"""Judging original and baked encoder on data that the caller gives: `stsb/` and `scifact/`, where they are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embakery.engines import Engine
from embakery.errors import ConfigurationError
from embakery.texts import TextTokenizer
from embakery.vectors import Vectors
from evaluation.collection import Collection, ScoredPair, read_collection, read_scored_pairs
from evaluation.metrics import spearman
from evaluation.retrieval import Advance, TextEncoder, embed_all, score, search
from model_bake.progress import Report
from model_bake.samples import token_ids


@dataclass(frozen=True, slots=True)
class PlainEncoder:
    """A tokenizer and an engine, without an artifact around them: the bake has none yet."""

    tokenizer: TextTokenizer
    engine: Engine

    def embed(self, texts: Sequence[str], *, input_type: str) -> Vectors:
        """Return float32 (n, dim)."""
        return self.engine.encode(token_ids(self.tokenizer, texts, input_type=input_type))


@dataclass(frozen=True, slots=True)
class GivenData:
    """Sentence pairs with people's scores, and a collection with judgements; either may be missing."""

    pairs: Sequence[ScoredPair] | None
    collection: Collection | None

    @classmethod
    def read(cls, folder: Path) -> GivenData:
        """Read `stsb/test.tsv` and `scifact/`. Raises ConfigurationError, also where neither is there."""
        pairs, scifact = folder / "stsb" / "test.tsv", folder / "scifact"
        if not pairs.exists() and not scifact.exists():
            raise ConfigurationError(f"{folder}: has neither stsb/test.tsv nor scifact/")
        names = ("docs.jsonl", "queries.jsonl", "qrels.tsv")
        return cls(
            read_scored_pairs(pairs) if pairs.exists() else None,
            read_collection(*(scifact / name for name in names)) if scifact.exists() else None,
        )

    def figures(self, original: TextEncoder, baked: TextEncoder, report: Report) -> dict[str, dict[str, float]]:
        """Return each metric's value for the original and the baked encoder."""
        figures: dict[str, dict[str, float]] = {}
        with report.progress("evaluate", 2 * self._texts()) as advance:
            for name, encoder in (("original", original), ("baked", baked)):
                if self.pairs is not None:
                    figures.setdefault("STS-B Spearman", {})[name] = _sts(encoder, self.pairs, advance)
                if self.collection is not None:
                    figures.setdefault("SciFact nDCG@10", {})[name] = _retrieval(encoder, self.collection, advance)
        return figures

    def _texts(self) -> int:
        pairs, collection = self.pairs or (), self.collection
        return 2 * len(pairs) + (0 if collection is None else len(collection.documents) + len(collection.queries))


def _sts(encoder: TextEncoder, pairs: Sequence[ScoredPair], advance: Advance) -> float:
    sides = ([pair.left for pair in pairs], [pair.right for pair in pairs])
    left, right = (embed_all(encoder, side, input_type="document", advance=advance) for side in sides)
    return round(spearman((left * right).sum(axis=1), np.array([pair.score for pair in pairs])), 5)


def _retrieval(encoder: TextEncoder, collection: Collection, advance: Advance) -> float:
    found = search(encoder, collection, advance=advance)
    return round(score(found.rankings, collection.relevant).means()["ndcg@10"], 5)
