"""Parquet, a few rows at a time: millions of them pass through little memory."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cli.inputs.rows import BadRow, Columns, Row, unreadable
from embakery.errors import ConfigurationError

_ROWS = 256
_BUFFER_BYTES = 256 * 1024


def parquet_rows(path: Path, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield a row for each row. Raises ConfigurationError without pyarrow."""
    arrow = _pyarrow()
    try:
        # A buffer: pages are read as they are needed, not a row group's columns whole.
        with open_parquet(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            names = file.schema_arrow.names
            missing = [column for column in (columns.id, columns.text) if column not in names]
            if missing:
                yield BadRow(str(path), f"has no column {' and no column '.join(missing)}")
                return
            wanted = names if columns.metadata else [columns.id, columns.text, columns.version]
            number = 0
            for batch in file.iter_batches(_ROWS, columns=wanted, use_threads=False):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:{number}", _document(value, columns))
    except arrow.ArrowException as error:
        yield BadRow(str(path), f"is not readable Parquet ({type(error).__name__}); the rest was not read")
    except OSError as error:
        if error.errno is not None:
            raise unreadable(path, error) from error
        yield BadRow(str(path), "is damaged Parquet; the rest was not read")


def open_parquet(path: Path, **options: Any) -> Any:
    """Open a file for its rows or its metadata. Raises ConfigurationError without pyarrow."""
    _pyarrow()
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path, **options)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise ConfigurationError("reading Parquet needs pyarrow: pip install 'embakery[parquet]'") from None
    return pyarrow


def _document(value: dict[str, Any], columns: Columns) -> Mapping[str, Any]:
    identity = value.pop(columns.id)
    # Numbers are what most tables have for ids, and a message's ids are strings.
    document = {"id": str(identity) if isinstance(identity, int) else identity, "text": value.pop(columns.text)}
    version = value.pop(columns.version, None)
    if version is not None:
        document["version"] = version
    if columns.metadata and value:
        document["metadata"] = {name: _json(cell) for name, cell in value.items()}
    return document


def _json(cell: object) -> object:
    """Return what JSON can say of a cell: times in ISO 8601, decimals and UUIDs as strings, bytes in base64."""
    if isinstance(cell, dict):
        return {str(name): _json(inner) for name, inner in cell.items()}
    if isinstance(cell, list | tuple):
        return [_json(inner) for inner in cell]
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, bytes):
        return base64.b64encode(cell).decode()
    if isinstance(cell, decimal.Decimal | datetime.timedelta | uuid.UUID):
        return str(cell)
    return cell
