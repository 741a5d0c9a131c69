"""However an artifact is damaged, it is refused with the name of the file, and the interpreter lives."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bake_models import save_cross_encoder, save_model

from embakery.artifact import Artifact
from embakery.errors import ArtifactError
from model_bake.bake import Order, bake
from model_bake.gates import Gates

SEED = 20261123
CORRUPTIONS = 10_000
LOOSE = Gates(0.5, 0.5, 0.1, 0.1)

Damage = Callable[[random.Random, Path], str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corrupted")
    save_model(folder / "model", max_tokens=16)
    save_cross_encoder(folder / "reranker", max_tokens=16)
    order = Order(str(folder / "model"), reranker=str(folder / "reranker"), gates=LOOSE)
    bake(order, folder / "artifact")
    return folder / "artifact"


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(draw: random.Random, path: Path) -> str:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return path.name


def cut(draw: random.Random, path: Path) -> str:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    return path.name


def lengthen(draw: random.Random, path: Path) -> str:
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randint(1, 64)))
    return path.name


def overwrite(draw: random.Random, path: Path) -> str:
    data = path.read_bytes()
    start = draw.randrange(len(data))
    noise = draw.randbytes(min(draw.randint(1, 4096), len(data) - start))
    if data[start : start + len(noise)] == noise:
        noise = bytes(byte ^ 255 for byte in noise)
    path.write_bytes(data[:start] + noise + data[start + len(noise) :])
    return path.name


def swap(draw: random.Random, path: Path) -> str:
    """Put another file of the artifact in its place."""
    other = draw.choice([each for each in path.parent.iterdir() if each.is_file() and each != path])
    shutil.copy(other, path)
    return path.name


def remove(draw: random.Random, path: Path) -> str:
    path.unlink()
    return path.name


def link(draw: random.Random, path: Path) -> str:
    outside = Path(tempfile.mkdtemp()) / path.name
    shutil.move(path, outside)
    path.symlink_to(outside)
    return path.name


def add(draw: random.Random, path: Path) -> str:
    extra = path.parent / f"extra-{draw.randrange(10**6)}"
    extra.write_bytes(draw.randbytes(8))
    return extra.name


def test_none_of_ten_thousand_corruptions_loads(whole: Path, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    # Mostly single bits: the smallest damage is the hardest to see.
    kinds: list[Damage] = [
        *[flip] * 60,
        *[cut] * 10,
        *[lengthen] * 5,
        *[overwrite] * 15,
        *[swap, remove, link, add] * 2,
    ]
    originals = {path: path.read_bytes() for path in files_of(whole)}
    folder = tmp_path / "artifact"
    shutil.copytree(whole, folder)
    Artifact.load(folder)
    loaded, unnamed = [], []
    started = time.monotonic()
    for number in range(CORRUPTIONS):
        target = folder / draw.choice(list(originals)).relative_to(whole)
        damage = draw.choice(kinds)
        name = damage(draw, target)
        try:
            Artifact.load(folder)
            loaded.append((number, damage.__name__, name))
        except ArtifactError as error:
            if name not in str(error):
                unnamed.append((number, damage.__name__, name, str(error)))
        restore(folder, originals, whole, name, target)
    assert loaded == []
    assert unnamed == []
    Artifact.load(folder)
    print(f"{CORRUPTIONS} corruptions in {time.monotonic() - started:.0f} s")


def restore(folder: Path, originals: dict[Path, bytes], whole: Path, name: str, target: Path) -> None:
    if target.is_symlink():
        target.unlink()
    target.write_bytes(originals[whole / target.relative_to(folder)])
    if name.startswith("extra-"):
        (target.parent / name).unlink()
