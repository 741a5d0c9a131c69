"""Judging original and baked encoder on data that the caller gives: `stsb/` and `scifact/`, where they are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embakery.engines import Engine
from embakery.texts import TextTokenizer
from embakery.vectors import Vectors
from evaluation.collection import read_collection, read_scored_pairs
from evaluation.metrics import spearman
from evaluation.retrieval import TextEncoder, embed_all, score, search
from model_bake.samples import token_ids


@dataclass(frozen=True, slots=True)
class PlainEncoder:
    """A tokenizer and an engine, without an artifact around them: the bake has none yet."""

    tokenizer: TextTokenizer
    engine: Engine

    def embed(self, texts: Sequence[str], *, input_type: str) -> Vectors:
        """Return float32 (n, dim)."""
        return self.engine.encode(token_ids(self.tokenizer, texts, input_type=input_type))


def on_given_data(folder: Path, original: TextEncoder, baked: TextEncoder) -> dict[str, dict[str, float]]:
    """Return each metric's value for the original and the baked encoder."""
    figures: dict[str, dict[str, float]] = {}
    encoders = {"original": original, "baked": baked}
    if (folder / "stsb" / "test.tsv").exists():
        figures["STS-B Spearman"] = {name: _sts(each, folder / "stsb" / "test.tsv") for name, each in encoders.items()}
    if (folder / "scifact" / "qrels.tsv").exists():
        figures["SciFact nDCG@10"] = {name: _retrieval(each, folder / "scifact") for name, each in encoders.items()}
    return figures


def _sts(encoder: TextEncoder, path: Path) -> float:
    pairs = read_scored_pairs(path)
    sides = ([pair.left for pair in pairs], [pair.right for pair in pairs])
    left, right = (embed_all(encoder, side, input_type="document", advance=lambda _: None) for side in sides)
    return round(spearman((left * right).sum(axis=1), np.array([pair.score for pair in pairs])), 5)


def _retrieval(encoder: TextEncoder, folder: Path) -> float:
    collection = read_collection(folder / "docs.jsonl", folder / "queries.jsonl", folder / "qrels.tsv")
    return round(score(search(encoder, collection).rankings, collection.relevant).means()["ndcg@10"], 5)
