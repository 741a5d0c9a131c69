"""CSV and TSV with a header: one column each for id and text, one for the version if it is there, the rest metadata."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from cli.inputs.rows import MAX_LINE_BYTES, BadRow, Columns, Row, lines


def csv_rows(file: BinaryIO, name: str, columns: Columns, *, delimiter: str = ",") -> Iterator[Row | BadRow]:
    """Yield a row for each record. After a record that has no end the rest of the file is not read, and said so."""
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(_decoded(file, name), delimiter=delimiter)
    try:
        header = next(reader, [])
        missing = [column for column in (columns.id, columns.text) if column not in header]
        if missing or len(set(header)) != len(header):
            problem = f"has no column {' and no column '.join(missing)}" if missing else "has two columns of one name"
            yield BadRow(f"{name}:1", problem)
            return
        start = reader.line_num + 1
        for record in reader:
            if record:
                yield _row(f"{name}:{start}", header, record, columns)
            start = reader.line_num + 1
    except csv.Error as error:
        # The reader's own errors name limits, not content.
        yield BadRow(f"{name}:{reader.line_num}", f"{error}; the rest of the file was not read")


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    for line in lines(file, name):
        if isinstance(line, BadRow):
            raise csv.Error(line.problem)
        # What is not UTF-8 becomes lone surrogates, which the check of each document names: others go on.
        yield line[1].decode("utf-8", "surrogateescape") + "\n"


def _row(where: str, header: Sequence[str], record: Sequence[str], columns: Columns) -> Row | BadRow:
    if len(record) != len(header):
        return BadRow(where, f"has {len(record)} columns, the header has {len(header)}")
    cells = dict(zip(header, record, strict=True))
    document: dict[str, object] = {"id": cells.pop(columns.id), "text": cells.pop(columns.text)}
    version = cells.pop(columns.version, "")
    if version:
        if not (version.isascii() and version.isdigit() and len(version) < 20):
            return BadRow(where, "version: must be a whole number")
        document["version"] = int(version)
    return Row(where, document | _metadata(cells, columns))


def _metadata(cells: Mapping[str, str], columns: Columns) -> dict[str, object]:
    return {"metadata": cells} if columns.metadata and cells else {}
