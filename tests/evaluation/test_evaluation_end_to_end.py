"""The default artifact on a small collection, by the command as its users type it."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from embakery import Embedder
from embakery.artifact import Artifact, Manifest
from evaluation.collection import Collection, read_collection
from evaluation.page import numbers, page, table
from evaluation.plots import bars, histogram, scatter
from evaluation.report import Evaluation, compare, evaluate, evaluation_page, paired_differences
from evaluation.retrieval import Search, score

ROOT = Path(__file__).parents[2]
EVAL = ROOT.parent / "shared" / "eval"

DOCUMENTS = {
    "boats": "The ferry to the island leaves the harbour every morning at six.",
    "bread": "Knead the dough for ten minutes and let it rise in a warm place.",
    "bees": "Honeybees dance to tell each other where flowers are.",
    "loans": "The interest on the loan is fixed for ten years.",
}
QUERIES = {"q1": "when does the ship sail?", "q2": "how do I bake a loaf?", "q3": "how do insects communicate?"}
RELEVANT = {"q1": {"boats": 1.0}, "q2": {"bread": 1.0}, "q3": {"bees": 1.0}}


class Checker(HTMLParser):
    """Collects what a page may not hold: scripts, links and anything that is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [str(value) for name, value in attrs if name in {"src", "href", "xlink:href", "action"}]


def check_page(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert checker.urls == []
    assert "url(" not in html
    assert "default-src 'none'" in html
    return checker


def evaluated(manifest: Manifest, collection: Collection, rankings: dict[str, list[str]]) -> Evaluation:
    cosines = np.random.default_rng(1).random((len(rankings), len(collection.documents)), dtype=np.float32)
    return Evaluation(
        manifest=manifest,
        collection=collection,
        found=Search(rankings, cosines),
        dense=score(rankings, collection.relevant),
        reranked=None,
        relevant_cosines=cosines[:, 0],
        other_cosines=cosines[:, 1:].ravel(),
        calibration=None,
    )


def test_the_command(default_artifact: Path, tmp_path: Path) -> None:
    for name, texts in (("docs", DOCUMENTS), ("queries", QUERIES)):
        lines = [json.dumps({"id": key, "text": text}) for key, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    judged = [f"{query}\t{document}\t1" for query, grades in RELEVANT.items() for document in grades]
    (tmp_path / "qrels.tsv").write_text("\n".join(["query_id\tdoc_id\trelevance", *judged]), encoding="utf-8")
    files = ["--docs", "docs.jsonl", "--queries", "queries.jsonl", "--qrels", "qrels.tsv"]
    command = [sys.executable, "-m", "embakery", "eval", str(default_artifact), *files]
    command += ["--against", str(default_artifact), "--json", "out.json", "--page", "out.html"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("dense       ndcg@10 1.0000")
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (
        figures["dense"] == figures["against"]["dense"] == {"ndcg@10": 1, "recall@10": 1, "recall@100": 1, "mrr@10": 1}
    )
    assert figures["space_id"] == Embedder.load(default_artifact).manifest.space_id
    comparison = figures["against"]["comparison"]
    assert comparison["overlap"] == 1
    assert comparison["dense"]["ndcg@10"]["p"] == comparison["reranked"]["ndcg@10"]["p"] == 1
    assert "100.0% of each query's ten nearest are the same" in done.stdout
    checker = check_page((tmp_path / "out.html").read_text())
    assert {"svg", "table"} <= set(checker.tags)


def test_a_missing_judgement_file_is_one_line(default_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    files = [part for name in ("docs", "queries", "qrels") for part in (f"--{name}", str(tmp_path / "empty"))]
    command = [sys.executable, "-m", "embakery", "eval", str(default_artifact), *files]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, f"embakery: {tmp_path}/empty: is empty\n")


def test_pages_and_charts_escape_and_repeat() -> None:
    draw = np.random.default_rng(1)
    values, evil = draw.standard_normal(5000), "<script>alert('x')</script>&\""
    parts = [
        histogram({evil: values, "b": values + 1}, title=evil, x_label=evil),
        scatter(values, values**2, title=evil, x_label=evil, y_label=evil),
        bars({evil: 1.0, "zero": 0.0}, title=evil, x_label=evil),
        table([evil], [[evil]]),
        numbers({evil: evil}),
        histogram({"same": np.ones(3)}, title="no width", x_label="x"),
    ]
    html = page(evil, evil, parts)
    check_page(html)
    assert "alert('x')" not in html
    assert html == page(evil, evil, parts)
    # Every n-th dot at most: a page of a large certificate stays small.
    assert html.count("<circle") <= 1700


def test_two_artifacts_against_each_other(default_artifact: Path) -> None:
    """Three queries: one with the same nearest ten, one with half of them, one with none."""
    names = [str(number) for number in range(30)]
    nearest = {
        "same": (names[:10], names[9::-1]),
        "half": (names[:10], names[5:15]),
        "none": (names[:10], names[10:20]),
    }
    collection = Collection(
        dict.fromkeys(names, "a text"), dict.fromkeys(nearest, "a question"), {query: {"0": 1.0} for query in nearest}
    )
    manifest = Artifact.load(default_artifact).manifest
    before, after = (
        evaluated(manifest, collection, {query: sides[side] for query, sides in nearest.items()}) for side in (0, 1)
    )
    comparison = compare(before, after)
    assert comparison.overlap == 0.5
    assert comparison.reranked is None
    difference = comparison.dense["mrr@10"]
    assert (difference.better, difference.equal, difference.worse) == (0, 0, 3)
    assert difference.mean == pytest.approx((0.1 + 0 + 0) / 3 - 1)
    html = evaluation_page(after, comparison)
    check_page(html)
    assert "both find 50.0%" in html


@pytest.mark.skipif(not EVAL.is_dir(), reason="the shared evaluation data is not beside the project")
def test_scifact_in_small(default_artifact: Path) -> None:
    folder = EVAL / "scifact"
    whole = read_collection(folder / "docs.jsonl", folder / "queries.jsonl", folder / "qrels.tsv")
    queries = dict(list(whole.queries.items())[:40])
    relevant = {query: whole.relevant[query] for query in queries}
    wanted = {name for grades in relevant.values() for name in grades}
    others = [name for name in whole.documents if name not in wanted][:200]
    documents = {name: whole.documents[name] for name in [*sorted(wanted), *others]}
    result = evaluate(Embedder.load(default_artifact), Collection(documents, queries, relevant), top=10)
    assert result.dense.means()["ndcg@10"] >= 0.8
    assert result.reranked is not None
    assert result.calibration is not None
    assert result.calibration.a > 0
    assert result.calibration.error_after < result.calibration.error_before
    differences = paired_differences(result.dense, result.reranked)
    assert differences["recall@100"].mean == 0
    assert sum((differences["ndcg@10"].better, differences["ndcg@10"].equal, differences["ndcg@10"].worse)) == 40
