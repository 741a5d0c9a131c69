"""Artifacts with one thing wrong, each a copy that shares its large files with the baked one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from embakery.artifact import MANIFEST, Golden, Manifest, file_facts, golden_file

Break = Callable[[Path], None]


def broken_copy(artifact: Path, folder: Path, breaking: Break) -> Path:
    """Copy an artifact to `folder` and break it there."""
    folder.mkdir()
    for path in artifact.iterdir():
        try:
            os.link(path, folder / path.name)
        except OSError:
            # The temporary folder is on another file system.
            shutil.copyfile(path, folder / path.name)
    breaking(folder)
    return folder


def both(first: Break, second: Break) -> Break:
    """Break it in two ways, one after the other."""

    def breaking(folder: Path) -> None:
        first(folder)
        second(folder)

    return breaking


def without(*names: str) -> Break:
    """Remove files."""

    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def flipped(name: str) -> Break:
    """Change one bit in the middle of a file."""

    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        _replace(folder / name, bytes(content))

    return flip


def of_other_settings(folder: Path) -> None:
    """Let the manifest say something else of the model than what was baked."""
    baked = (folder / MANIFEST).read_bytes()
    changed = baked.replace(b'"normalize": true', b'"normalize": false')
    assert changed != baked
    _replace(folder / MANIFEST, changed)


def of_another_schema(folder: Path) -> None:
    """Let the manifest be of a schema to come."""
    raw = json.loads((folder / MANIFEST).read_bytes())
    _replace(folder / MANIFEST, json.dumps(raw | {"schema": raw["schema"] + 1}).encode())


def of_other_bits(folder: Path) -> None:
    """Let the golden vectors of every engine differ in their last bits from what any machine computes."""
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    files = dict(manifest.files)
    for engine in manifest.engines:
        path = folder / golden_file(engine)
        golden = Golden.load(path)
        path.unlink()
        replace(golden, vectors=np.nextafter(golden.vectors, np.float32(2))).save(path)
        files[path.name] = file_facts(path)
    _replace(folder / MANIFEST, replace(manifest, files=files).to_bytes())


def _replace(path: Path, content: bytes) -> None:
    # Not written into: the baked artifact would change too.
    path.unlink()
    path.write_bytes(content)
