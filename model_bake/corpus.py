"""Real text that every Python installation carries: docstrings and help topics of the standard library."""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

# Old test fixtures hold sources that do not parse, on purpose.
_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__"})
_MIN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text and the dotted name of what it documents."""

    name: str
    text: str


def standard_library_passages(limit: int | None = None) -> list[Passage]:
    """Return the first `limit` (all if None) distinct passages of this Python's own documentation, in a fixed order."""
    return list(islice(_distinct(), limit))


def _distinct() -> Iterator[Passage]:
    seen: set[str] = set()
    for passage in chain(_help_topics(), _all_docstrings()):
        if len(passage.text) >= _MIN_CHARACTERS and passage.text not in seen:
            seen.add(passage.text)
            yield passage


def _all_docstrings() -> Iterator[Passage]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _SKIPPED_FOLDERS.intersection(relative.parts):
            yield from _docstrings(path, ".".join(relative.with_suffix("").parts))


def _docstrings(path: Path, module: str) -> Iterator[Passage]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and not any("\ud800" <= character <= "\udfff" or character == "\0" for character in text):
                name = module if isinstance(node, ast.Module) else f"{module}.{node.name}"
                yield Passage(name, re.sub(r"\s+", " ", text).strip())


def _help_topics() -> Iterator[Passage]:
    """The language reference, as `help()` shows it, a paragraph at a time."""
    from pydoc_data import topics

    for name, text in sorted(topics.topics.items()):
        for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
            yield Passage(f"help({name!r})[{number}]", re.sub(r"\s+", " ", paragraph).strip())


def describe() -> str:
    """Say which corpus this is, for certificates and benchmarks."""
    return f"docstrings and help topics of Python {sys.version_info.major}.{sys.version_info.minor}"
