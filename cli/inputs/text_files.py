"""Text files: one document each, and folders of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cli.inputs.rows import MAX_LINE_BYTES, BadRow, Row, unreadable

SUFFIXES = frozenset({".txt", ".text", ".md", ".markdown", ".rst"})


def folder_files(folder: Path) -> Iterator[Path]:
    """Yield a folder's text files in an order that is always the same; hidden files and folders are left out.

    Raises InvalidRequestError for a folder that cannot be read, which os.walk would pass over.
    """
    for root, folders, files in os.walk(folder, onerror=_unreadable):
        # Sorted in place: os.walk goes down in this order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(root, name)


def _unreadable(error: OSError) -> None:
    raise unreadable(error.filename, error) from error


def folder_rows(folder: Path) -> Iterator[Row | BadRow]:
    """Yield a row for each text file; its id is its path within the folder."""
    for path in folder_files(folder):
        yield text_row(path, path.relative_to(folder).as_posix())


def text_row(path: Path, identity: str) -> Row | BadRow:
    """Read a file as a document. One that is not text is a bad row, and no more."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LINE_BYTES + 1)
        if len(content) > MAX_LINE_BYTES:
            return BadRow(str(path), f"is larger than {MAX_LINE_BYTES} bytes")
        return Row(str(path), {"id": identity, "text": content.decode("utf-8-sig")})
    except UnicodeDecodeError:
        return BadRow(str(path), "is not UTF-8")
    except OSError as error:
        return BadRow(str(path), f"cannot be read: {error.strerror}")
