"""The finder that serves a start's imports from one file: the same modules, and no others."""

from __future__ import annotations

import importlib
import importlib.resources
import re
import sys
import traceback
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from handlers import bundle

SOURCE = '"""Doc."""\nassert True\nANSWER = 42\n\ndef fail():\n    raise ValueError("here")\n'


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of one module and one data file, imported once and forgotten."""
    folder = tmp_path / "bundled_package"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Package."""\n')
    (folder / "part.py").write_text(SOURCE)
    (folder / "data.txt").write_text("data")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    importlib.import_module("bundled_package.part")
    bundle.write(str(tmp_path / "start.bundle"), ["bundled_package", "bundled_package.part", "sys", "__main__"])
    forget()
    yield folder
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("bundled_package")]:
        del sys.modules[name]


@pytest.fixture
def installed(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    bundle.install(str(packages.parent / "start.bundle"))
    return packages


def test_a_module_comes_from_the_bundle_as_if_from_its_file(installed: Path) -> None:
    part = importlib.import_module("bundled_package.part")
    assert type(part.__loader__).__module__ == "handlers.bundle"
    assert (part.ANSWER, part.__file__) == (42, str(installed / "part.py"))
    # Without docstrings, but with lines: a traceback quotes the source.
    assert part.__doc__ is None
    with pytest.raises(ValueError, match="here") as caught:
        part.fail()
    assert 'raise ValueError("here")' in "".join(traceback.format_tb(caught.value.__traceback__))
    package = importlib.import_module("bundled_package")
    assert list(package.__path__) == [str(installed)]
    assert importlib.resources.files("bundled_package").joinpath("data.txt").read_text() == "data"


def test_another_file_in_its_place_wins(installed: Path) -> None:
    (installed / "part.py").write_text("ANSWER = 43\n")
    importlib.invalidate_caches()
    assert importlib.import_module("bundled_package.part").ANSWER == 43


def test_a_file_that_went_away_is_missed(installed: Path) -> None:
    (installed / "part.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match=r"bundled_package\.part"):
        importlib.import_module("bundled_package.part")


@pytest.mark.parametrize("content", [None, b"", b"\0" * 100, b"another Python " + MAGIC_NUMBER])
def test_no_bundle_for_this_python_is_no_bundle(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "start.bundle").write_bytes(content)
    monkeypatch.setattr(sys, "meta_path", before := list(sys.meta_path))
    bundle.install(str(tmp_path / "start.bundle"))
    assert sys.meta_path == before


def test_our_own_classes_keep_their_docstrings() -> None:
    """A dataclass without one takes its time to make one up."""
    assert {"embakery", "handlers", "storage"} == set(bundle._KEEP_DOCSTRINGS)


def test_nothing_is_taken_from_what_is_emptied() -> None:
    """numpy's two files of docstrings: should anything ever import a name from them, this notices."""
    numpy = Path(str(importlib.resources.files("numpy")))
    emptied = {name.rpartition(".")[2] for name in bundle._NOTHING_BUT_DOCSTRINGS}
    taken = re.compile(rf"from [\w.]*\.(?:{'|'.join(emptied)}) import|\b(?:{'|'.join(emptied)})\.\w")
    sources = [path for path in numpy.rglob("*.py") if "tests" not in path.parts and path.stem not in emptied]
    assert {path.name for path in sources if taken.search(path.read_text(encoding="utf-8"))} == set()
    assert all((numpy / "_core" / f"{name}.py").is_file() for name in emptied)
