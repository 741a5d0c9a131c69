"""What every reader yields: rows, and rows that cannot be one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from embakery.errors import InvalidRequestError

# One document is never larger (embakery's claim checks hold lines to it too), so no reader holds more than this.
MAX_LINE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Columns:
    """Which fields of a row are a document's. metadata: whether there is to be any."""

    id: str = "id"
    text: str = "text"
    version: str = "version"
    metadata: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A row as JSON would have it, not checked yet. where: file and line. unsent: fields that no document has."""

    where: str
    value: object
    unsent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be sent, and why, without a word of its text."""

    where: str
    problem: str


def lines(file: BinaryIO, name: str) -> Iterator[tuple[str, bytes] | BadRow]:
    """Yield (where, line) without line ends; a line over the limit is skipped, without being held."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        where = f"{name}:{number}"
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while not line.endswith(b"\n") and (line := file.readline(MAX_LINE_BYTES)):
                pass
            yield BadRow(where, f"is longer than {MAX_LINE_BYTES} bytes")
            continue
        # A byte order mark, which spreadsheets like to write.
        yield where, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")


def unreadable(path: Path | str, error: OSError) -> InvalidRequestError:
    """Return the error for an input that cannot be opened."""
    return InvalidRequestError(str(path), f"cannot be read: {error.strerror or type(error).__name__}")
