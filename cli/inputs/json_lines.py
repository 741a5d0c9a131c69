"""JSON lines: documents, or requests of an OpenAI Batch file, which the worker takes as messages as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from cli.inputs.rows import BadRow, Columns, Row, lines


def json_rows(file: BinaryIO, name: str, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield a row for each line that is not blank."""
    for line in lines(file, name):
        if isinstance(line, BadRow):
            yield line
            continue
        where, content = line
        if not content.strip():
            continue
        try:
            value = json.loads(content, parse_constant=_no_constant)
        except RecursionError:
            yield BadRow(where, "is nested too deeply")
        except ValueError:
            # Not its own words: they may quote the line.
            yield BadRow(where, "is not valid JSON")
        else:
            yield _row(where, value, columns)


def is_openai(value: object, columns: Columns) -> bool:
    """Say whether a row is a request of an OpenAI Batch file."""
    return isinstance(value, dict) and "custom_id" in value and columns.id not in value


def _row(where: str, value: Any, columns: Columns) -> Row | BadRow:
    if not isinstance(value, dict):
        return BadRow(where, "must be a JSON object")
    if is_openai(value, columns):
        return Row(where, value)
    wanted = {"id": columns.id, "text": columns.text, "version": columns.version}
    if columns.metadata:
        wanted["metadata"] = "metadata"
    document = {name: value[field] for name, field in wanted.items() if field in value}
    unsent = tuple(field for field in value if field not in wanted.values())
    return Row(where, document, unsent)


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")
