"""Collections as people write them, well and badly."""

from __future__ import annotations

from pathlib import Path

import pytest

from embakery.errors import ConfigurationError
from evaluation.collection import read_collection, read_scored_pairs, read_texts

DOCS = '{"id": "d1", "title": "A title", "text": "a text"}\n\n{"_id": "d2", "text": "another"}\n'
QUERIES = 'id\ttext\nq1\twhat "is" it?\nq2\tnothing fits\n'
QRELS = "query_id\tdoc_id\trelevance\nq1\td2\t2\nq1\td1\t0\n"


def write(folder: Path, docs: str = DOCS, queries: str = QUERIES, qrels: str = QRELS) -> tuple[Path, Path, Path]:
    paths = folder / "docs.jsonl", folder / "queries.tsv", folder / "qrels.tsv"
    for path, content in zip(paths, (docs, queries, qrels), strict=True):
        path.write_text(content, encoding="utf-8")
    return paths


def test_a_collection_is_read(tmp_path: Path) -> None:
    collection = read_collection(*write(tmp_path))
    assert collection.documents == {"d1": "A title a text", "d2": "another"}
    assert collection.queries == {"q1": 'what "is" it?'}
    assert collection.relevant == {"q1": {"d2": 2.0}}


def test_trec_judgements_and_beir_s_columns(tmp_path: Path) -> None:
    trec = read_collection(*write(tmp_path, qrels="q1 0 d1 1\nq2 0 d2 3\n"))
    assert trec.relevant == {"q1": {"d1": 1.0}, "q2": {"d2": 3.0}}
    beir = read_collection(*write(tmp_path, qrels="query-id\tcorpus-id\tscore\nq2\td1\t1\n"))
    assert beir.relevant == {"q2": {"d1": 1.0}}


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("docs", "", "docs.jsonl: is empty"),
        ("docs", '{"id": 1, "text": "x"}\n{"id":', "docs.jsonl:2: is not valid JSON"),
        ("docs", "[]\n", "docs.jsonl:1: must be a JSON object"),
        ("docs", '{"id": "d1", "text": " "}\n', "docs.jsonl:1: needs an id and a text"),
        ("docs", DOCS + DOCS, "docs.jsonl:4: the id is there twice"),
        ("queries", "name\ttext\nq1\tx\n", "queries.tsv:2: needs an id and a text"),
        ("qrels", "query_id\tdoc_id\trelevance\nq1\td9\t1\n", "qrels.tsv:2: judges a document that is not there"),
        ("qrels", "query_id\tdoc_id\trelevance\nq9\td1\t1\n", "qrels.tsv:2: judges a query that is not there"),
        ("qrels", "query_id\tdoc_id\trelevance\nq1\td1\tmuch\n", "qrels.tsv:2: has no number where a score belongs"),
        ("qrels", "q\td\nq1\td1\n", "qrels.tsv:2: needs columns query_id, doc_id and relevance"),
        ("qrels", "q1 0 d1 1\nq1 0 d1\n", "qrels.tsv:2: needs four columns"),
        ("qrels", "query_id\tdoc_id\trelevance\nq1\td1\t0\n", "qrels.tsv: judges no document relevant"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_line(tmp_path: Path, part: str, content: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_collection(*write(tmp_path, **{part: content}))
    assert str(refused.value).startswith(f"{tmp_path}/{message}")


def test_a_missing_file_and_scored_pairs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.jsonl: cannot be read"):
        read_texts(tmp_path / "nowhere.jsonl")
    path = tmp_path / "pairs.tsv"
    path.write_text('score\tsentence1\tsentence2\n2.5\tA "dog\tA cat\n', encoding="utf-8")
    (pair,) = read_scored_pairs(path)
    assert (pair.score, pair.left, pair.right) == (2.5, 'A "dog', "A cat")
    path.write_text("score\tsentence1\n1\tx\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"pairs\.tsv:2: needs score, sentence1 and sentence2"):
        read_scored_pairs(path)
