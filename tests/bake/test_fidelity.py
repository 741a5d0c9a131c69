"""The default artifact against the original, on data that is not in the project."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from embakery import Embedder
from model_bake.certify import cosine
from model_bake.source import DEFAULT_MODEL, find_model

EVAL = Path(__file__).parents[3] / "shared" / "eval"


@pytest.fixture(scope="module")
def original() -> SentenceTransformer:
    model: SentenceTransformer = SentenceTransformer(str(find_model(DEFAULT_MODEL).folder), device="cpu")
    return model


def abstracts() -> list[str]:
    with (EVAL / "scifact" / "docs.jsonl").open(encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    return [f"{document['title']} {document['text']}" for document in documents[::50]][:100]


def sentences() -> list[str]:
    with (EVAL / "stsb" / "test.tsv").open(encoding="utf-8") as lines:
        return [row["sentence1"] for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)][:400]


@pytest.mark.skipif(not EVAL.is_dir(), reason="the shared evaluation data is not beside the project")
@pytest.mark.parametrize("corpus", [abstracts, sentences])
def test_cosine_to_the_original(
    default_artifact: Path, original: SentenceTransformer, corpus: Callable[[], list[str]]
) -> None:
    texts = corpus()
    cosines = cosine(Embedder.load(default_artifact).embed(texts), np.asarray(original.encode(texts)))
    assert cosines.mean() >= 0.9995
    assert cosines.min() >= 0.998
