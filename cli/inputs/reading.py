"""From what the command line names to rows: which format, which reader, and what identifies an input."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any, BinaryIO

from cli.inputs.csv_rows import csv_rows
from cli.inputs.json_lines import json_rows
from cli.inputs.parquet_rows import open_parquet, parquet_rows
from cli.inputs.rows import BadRow, Columns, Row, unreadable
from cli.inputs.text_files import SUFFIXES, folder_files, folder_rows, text_row
from embakery.errors import InvalidRequestError

STDIN = "-"
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet"} | dict.fromkeys(SUFFIXES, "text")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one run. format: one for all of them, or by extension if None (JSON lines where it says nothing).

    spool: standard input, kept in a file so that it can be read twice (see `keep_stdin`).
    """

    names: tuple[str, ...]
    format: str | None = None
    columns: Columns = field(default_factory=Columns)
    spool: IO[bytes] | None = None

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield every row of every input, in order. Raises InvalidRequestError for one that cannot be read."""
        for name in self.names:
            yield from self._rows(name)

    def identities(self) -> list[dict[str, Any]]:
        """Say which inputs these are, by path, size and time of change. Raises InvalidRequestError."""
        return [{"path": STDIN} if name == STDIN else _identity(Path(name)) for name in self.names]

    def total(self) -> int | None:
        """Return how many rows there are, where that is known without reading them."""
        if any(self._format(name) != "parquet" for name in self.names):
            return None
        try:
            return sum(_row_count(Path(name)) for name in self.names)
        except (OSError, ValueError):
            return None

    def _format(self, name: str) -> str:
        if name != STDIN and Path(name).is_dir():
            return "folder"
        return self.format or _FORMATS.get(Path(name).suffix.lower(), "jsonl")

    def _rows(self, name: str) -> Iterator[Row | BadRow]:
        match self._format(name):
            case "folder":
                return folder_rows(Path(name))
            case "text" if name != STDIN:
                return iter((text_row(Path(name), Path(name).as_posix()),))
            case "parquet" if name != STDIN:
                return parquet_rows(Path(name), self.columns)
            case "text" | "parquet" as format_:
                raise InvalidRequestError("-", f"{format_} is not read from standard input")
            case format_:
                return self._line_rows(name, format_)

    def _line_rows(self, name: str, format_: str) -> Iterator[Row | BadRow]:
        shown = "<stdin>" if name == STDIN else name
        try:
            with self._open(name) as file:
                if format_ in ("csv", "tsv"):
                    yield from csv_rows(file, shown, self.columns, delimiter="\t" if format_ == "tsv" else ",")
                else:
                    yield from json_rows(file, shown, self.columns)
        except OSError as error:
            raise unreadable(name, error) from error

    def _open(self, name: str) -> AbstractContextManager[BinaryIO]:
        if name != STDIN:
            return Path(name).open("rb")
        if self.spool is None:
            return nullcontext(sys.stdin.buffer)
        self.spool.seek(0)
        return nullcontext(self.spool)  # type: ignore[arg-type]


def keep_stdin() -> IO[bytes]:
    """Copy standard input to a temporary file, which goes away with its last reader."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the inputs own it until the process ends
    copyfileobj(sys.stdin.buffer, spool)
    return spool


def _row_count(path: Path) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def _identity(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            digest, files = hashlib.sha256(), 0
            for file in folder_files(path):
                status = file.stat()
                files += 1
                digest.update(
                    f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="replace")
                )
            return {"path": str(path.resolve()), "files": files, "digest": digest.hexdigest()}
        with path.open("rb"):
            status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def require_stdin_once(names: Sequence[str]) -> None:
    """Raise InvalidRequestError if standard input is named twice."""
    if list(names).count(STDIN) > 1:
        raise InvalidRequestError("-", "standard input can be read once")
