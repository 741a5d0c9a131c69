"""The adapter, run by mteb itself where it is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embakery import Embedder
from evaluation.mteb_adapter import MtebEncoder

UNSAID = (
    *("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect"),
    *("sample_creation", "bibtex_citation"),
)


def test_it_gives_the_embedder_s_vectors(default_artifact: Path) -> None:
    adapter, embedder = MtebEncoder(default_artifact), Embedder.load(default_artifact)
    batches = [{"text": ["one", "two"]}, {"text": ["three"]}]
    expected = embedder.embed(["one", "two", "three"])
    assert (
        adapter.encode(batches, task_metadata=None, hf_split="test", hf_subset="default").tobytes()
        == expected.tobytes()
    )
    cosines = adapter.similarity(expected, expected[:2])
    assert cosines.shape == (3, 2)
    np.testing.assert_allclose(cosines[0], [1, expected[0] @ expected[1]], atol=1e-6)
    np.testing.assert_allclose(adapter.similarity_pairwise(expected, expected), np.ones(3), atol=1e-6)
    with pytest.raises(ValueError, match="not on cuda"):
        MtebEncoder(default_artifact, device="cuda")
    with pytest.raises(ValueError, match="the artifact's space is"):
        MtebEncoder(default_artifact, "another")


def test_mteb_runs_it(default_artifact: Path, tmp_path: Path) -> None:
    mteb = pytest.importorskip("mteb", reason="mteb is not installed: pip install mteb")
    datasets = pytest.importorskip("datasets")
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    pairs = [
        ("A dog runs.", "A dog is running.", 5.0),
        ("A dog runs.", "The bank closed.", 0.0),
        ("Rain fell.", "It rained.", 4.0),
    ]

    class Tiny(AbsTaskSTS):  # type: ignore[misc]
        metadata = TaskMetadata(
            **dict.fromkeys(UNSAID),
            name="Tiny",
            description="three pairs",
            dataset={"path": "tiny", "revision": "1"},
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
        )
        min_score, max_score = 0, 5

        def load_data(self, **_: object) -> None:
            left, right, scores = zip(*pairs, strict=True)
            rows = {"sentence1": list(left), "sentence2": list(right), "score": list(scores)}
            self.dataset = {"test": datasets.Dataset.from_dict(rows)}
            self.data_loaded = True

    results = mteb.evaluate(MtebEncoder(default_artifact), tasks=[Tiny()], cache=None)
    (score,) = results.task_results[0].scores["test"]
    assert score["cosine_spearman"] == pytest.approx(1.0)
