"""Documents, queries and judgements from files that anyone can write. Errors name file and line, never a text."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embakery.errors import ConfigurationError

_QUERY_COLUMNS = ("query_id", "query-id", "qid")
_DOCUMENT_COLUMNS = ("doc_id", "corpus-id", "document_id", "docid")
_GRADE_COLUMNS = ("relevance", "score", "grade")


@dataclass(frozen=True, slots=True)
class Collection:
    """Texts by id, and for each query the grades of its relevant documents by id."""

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two sentences and how alike people found them."""

    score: float
    left: str
    right: str


def read_collection(documents: Path, queries: Path, judgements: Path) -> Collection:
    """Read a collection. Queries without a relevant document are left out. Raises ConfigurationError.

    Texts: JSON lines of {"id" or "_id", "text", perhaps "title"}, or CSV/TSV with a header. Judgements: TSV with a
    header, or TREC's four columns without one.
    """
    texts, asked = read_texts(documents), read_texts(queries)
    relevant = _judgements(judgements, texts, asked)
    if not relevant:
        raise ConfigurationError(f"{judgements}: judges no document relevant")
    return Collection(texts, {name: text for name, text in asked.items() if name in relevant}, relevant)


def read_texts(path: Path) -> dict[str, str]:
    """Read texts by id, in the file's order; a title goes before its text."""
    texts: dict[str, str] = {}
    for number, row in _rows(path):
        name = row.get("id", row.get("_id"))
        text = " ".join(part for part in (row.get("title"), row.get("text")) if isinstance(part, str) and part.strip())
        if name is None or not text:
            raise ConfigurationError(f"{path}:{number}: needs an id and a text")
        if str(name) in texts:
            raise ConfigurationError(f"{path}:{number}: the id is there twice")
        texts[str(name)] = text
    if not texts:
        raise ConfigurationError(f"{path}: is empty")
    return texts


def read_scored_pairs(path: Path) -> list[ScoredPair]:
    """Read a TSV with columns score, sentence1, sentence2, as STS-B has them."""
    pairs = []
    for number, row in _table(path, "\t"):
        score = _number(row.get("score"), path, number)
        if not row.get("sentence1") or not row.get("sentence2"):
            raise ConfigurationError(f"{path}:{number}: needs score, sentence1 and sentence2")
        pairs.append(ScoredPair(score, str(row["sentence1"]), str(row["sentence2"])))
    if not pairs:
        raise ConfigurationError(f"{path}: is empty")
    return pairs


def _judgements(path: Path, documents: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, dict[str, float]]:
    relevant: dict[str, dict[str, float]] = {}
    for number, (query, document, grade) in _judgement_rows(path):
        if query not in queries or document not in documents:
            kind = "document" if query in queries else "query"
            raise ConfigurationError(f"{path}:{number}: judges a {kind} that is not there")
        if grade > 0:
            relevant.setdefault(query, {})[document] = grade
    return relevant


def _judgement_rows(path: Path) -> Iterator[tuple[int, tuple[str, str, float]]]:
    with _opened(path) as lines:
        first = next(iter(lines), "").split()
    if len(first) == 4 and first[1] in {"0", "Q0"}:
        for number, line in _lines(path):
            parts = line.split()
            if len(parts) != 4:
                raise ConfigurationError(f"{path}:{number}: needs four columns, query 0 document grade")
            yield number, (parts[0], parts[2], _number(parts[3], path, number))
        return
    for number, row in _table(path, "\t"):
        query, document, grade = (
            next((row[name] for name in names if row.get(name) is not None), None)
            for names in (_QUERY_COLUMNS, _DOCUMENT_COLUMNS, _GRADE_COLUMNS)
        )
        if query is None or document is None:
            raise ConfigurationError(f"{path}:{number}: needs columns query_id, doc_id and relevance")
        yield number, (str(query), str(document), _number(grade, path, number))


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    separators: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
    if path.suffix in separators:
        yield from _table(path, separators[path.suffix])
        return
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ConfigurationError(f"{path}:{number}: is not valid JSON") from None
        if not isinstance(row, dict):
            raise ConfigurationError(f"{path}:{number}: must be a JSON object")
        yield number, row


def _table(path: Path, separator: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # In TSV files a quotation mark is one: STS-B's sentences are full of them.
    with _opened(path) as lines:
        if separator == "\t":
            reader = csv.DictReader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.DictReader(lines, delimiter=separator)
        for row in reader:
            yield reader.line_num, row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _opened(path: Path) -> Any:
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error


def _number(value: object, path: Path, number: int) -> float:
    convert: Callable[[str], float] = float
    try:
        return convert(str(value))
    except ValueError:
        raise ConfigurationError(f"{path}:{number}: has no number where a score belongs") from None
