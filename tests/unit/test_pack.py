"""encoder.pack: what was written reads back, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embakery.engines.pack import ALIGNMENT, MAGIC, PREFIX, Pack
from embakery.errors import ArtifactError
from model_bake.pack import tile, write_pack

MODEL = {"model_type": "bert", "layers": 2, "eps": 1e-12}


def tensors() -> dict[str, Any]:
    draw = np.random.default_rng(1)
    return {
        "matrix": draw.integers(-127, 128, (37, 130)).astype(np.int8),
        "table": draw.integers(-127, 128, (9, 5)).astype(np.int8),
        "bias": draw.standard_normal(130).astype(np.float32),
        "sums": draw.integers(-9999, 9999, 130).astype(np.int32),
        "empty": np.empty((0, 4), dtype=np.float32),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_pack(tmp_path / "encoder.pack", MODEL, tensors(), tiled=frozenset({"matrix"}))
    return tmp_path / "encoder.pack"


def test_everything_reads_back(path: Path) -> None:
    pack = Pack.open(path)
    assert pack.model == MODEL
    for name, values in tensors().items():
        assert np.array_equal(pack.matrix(name), values)
        assert pack.matrix(name).dtype == values.dtype
        assert pack.tensors[name].offset % ALIGNMENT == 0


def test_a_tile_holds_four_values_of_a_column_side_by_side(path: Path) -> None:
    matrix = tensors()["matrix"]
    stored = Pack.open(path).tensor("matrix")
    assert stored.shape == (3, 10, 64, 4)
    assert stored[0, 0, 5].tolist() == matrix[0:4, 5].tolist()
    assert stored[2, 9, 1].tolist() == [matrix[36, 129], 0, 0, 0]
    assert not stored[2, :, 2:].any()
    assert np.array_equal(tile(matrix), stored)


def test_rows_are_followed_by_zeros_up_to_a_whole_tile_of_columns(path: Path) -> None:
    for name in ("bias", "sums"):
        start = Pack.open(path).tensors[name].offset
        stored = path.read_bytes()[start : start + 192 * 4]
        assert stored == tensors()[name].tobytes() + bytes(62 * 4)


def test_the_same_content_is_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = dict(reversed(list(tensors().items())))
    write_pack(tmp_path / "again.pack", MODEL, again, tiled=frozenset({"matrix"}))
    assert (tmp_path / "again.pack").read_bytes() == path.read_bytes()


def header_changed(data: bytes, change: dict[str, Any]) -> bytes:
    _, version, length = PREFIX.unpack(data[: PREFIX.size])
    header = json.loads(data[PREFIX.size : PREFIX.size + length])
    header["tensors"]["bias"] |= change
    raw = json.dumps(header).encode().ljust(length)
    return PREFIX.pack(MAGIC, version, len(raw)) + raw + data[PREFIX.size + length :]


@pytest.mark.parametrize(
    "broken",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[: PREFIX.size],
        lambda data: b"X" + data[1:],
        lambda data: data[:-1],
        lambda data: PREFIX.pack(MAGIC, 1, PREFIX.unpack(data[: PREFIX.size])[2]) + data[PREFIX.size :],
        lambda data: PREFIX.pack(MAGIC, 2, 2**32 - 1) + data[PREFIX.size :],
        lambda data: PREFIX.pack(MAGIC, 2, 3) + data[PREFIX.size :],
        lambda data: header_changed(data, {"offset": 2**40}),
        lambda data: header_changed(data, {"offset": -64}),
        lambda data: header_changed(data, {"offset": 1}),
        lambda data: header_changed(data, {"offset": "64"}),
        lambda data: header_changed(data, {"shape": [-1]}),
        lambda data: header_changed(data, {"shape": [2**62, 2**62]}),
        lambda data: header_changed(data, {"shape": None}),
        lambda data: header_changed(data, {"dtype": "f64"}),
        lambda data: header_changed(data, {"layout": "tiles"}),
        lambda data: header_changed(data, {"layout": "spiral"}),
    ],
)
def test_what_is_no_whole_pack_is_refused_by_name(path: Path, broken: Any) -> None:
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(ArtifactError, match=r"^encoder\.pack: "):
        Pack.open(path)
