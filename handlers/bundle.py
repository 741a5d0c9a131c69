"""Imports from one file: what a start loads, in the order of its bytes, without a search for each module.

A cold start of this function imports some 340 modules. For each, Python walks its path, asks for three files and reads
one; together that takes as long as hashing the model. docker/bundle.py writes the code of those modules into one file
when the image is built, most of it without docstrings, and a finder here serves them from there. Modules keep their
`__file__`; whatever is not in the bundle, or is not the file that was bundled, is imported as always.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import MAGIC_NUMBER, spec_from_file_location
from types import CodeType, ModuleType
from typing import Any

_INIT = "__init__.py"
# A dataclass without a docstring makes one up, from its signature, and takes longer for it than all else.
_KEEP_DOCSTRINGS = ("embakery", "handlers", "storage")
# Python files that only attach docstrings to what numpy's C code defines.
_NOTHING_BUT_DOCSTRINGS = frozenset({"numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars"})
# After built-in and frozen modules: none of those is in a bundle.
_PLACE = 2

# origin, its size in bytes, whether it is a package; where its code begins in the file, and how long it is
Entry = tuple[str, int, bool, int, int]


class Bundle:
    """A finder for `sys.meta_path`."""

    def __init__(self, path: str) -> None:
        """Open a bundle. Raises OSError; ValueError for one of another Python."""
        self._file = os.open(path, os.O_RDONLY)
        head = os.pread(self._file, len(MAGIC_NUMBER) + 4, 0)
        if head[: len(MAGIC_NUMBER)] != MAGIC_NUMBER:
            raise ValueError("a bundle of another version of Python")
        length = int.from_bytes(head[len(MAGIC_NUMBER) :], "little")
        self._begin = len(head) + length
        self._entries: dict[str, Entry] = marshal.loads(os.pread(self._file, length, len(head)))  # noqa: S302 - our own

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a bundled module's spec, or None for the finders that come after."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        origin, size, is_package, *_ = entry
        try:
            # Somebody may have put another file there since, a mounted folder for one.
            if os.stat(origin).st_size != size:
                return None
        except OSError:
            return None
        folders = [origin.removesuffix(f"/{_INIT}")] if is_package else None
        loader = _Loader(name, origin, self)
        return spec_from_file_location(name, origin, loader=loader, submodule_search_locations=folders)

    def code(self, name: str) -> CodeType:
        """Return a module's code."""
        *_, begin, length = self._entries[name]
        code: CodeType = marshal.loads(os.pread(self._file, length, self._begin + begin))  # noqa: S302 - our own
        return code


class _Loader(SourceFileLoader):
    """Loads a module's source, resources and the rest from its file, and its code from the bundle."""

    def __init__(self, name: str, path: str, bundle: Bundle) -> None:
        super().__init__(name, path)
        self._bundle = bundle

    def get_code(self, fullname: str) -> CodeType:
        return self._bundle.code(fullname)


def install(path: str) -> None:
    """Serve imports from a bundle, if there is one for this Python."""
    try:
        finder: Any = Bundle(path)
    except (OSError, ValueError):
        return
    sys.meta_path.insert(_PLACE, finder)


def write(path: str, names: Sequence[str]) -> None:
    """Write a bundle of modules that are imported now. Those without a source file are left out."""
    entries: dict[str, Entry] = {}
    codes = bytearray()
    for name in names:
        spec = getattr(sys.modules[name], "__spec__", None)
        if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
            continue
        with open(spec.origin, "rb") as file:
            source = file.read()
        optimize = 1 if name.partition(".")[0] in _KEEP_DOCSTRINGS else 2
        kept = b"" if name in _NOTHING_BUT_DOCSTRINGS else source
        code = marshal.dumps(compile(kept, spec.origin, "exec", dont_inherit=True, optimize=optimize))
        is_package = spec.submodule_search_locations is not None
        entries[name] = (spec.origin, len(source), is_package, len(codes), len(code))
        codes += code
    index = marshal.dumps(entries)
    with open(path, "wb") as file:
        file.write(MAGIC_NUMBER + len(index).to_bytes(4, "little") + index + codes)
