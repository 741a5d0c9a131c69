"""embk_open, called as nobody should: sizes and shapes that no model has are refused, and the process lives."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from native_calls import BAD_INPUT, BAD_ISA, BAD_PACK, BAD_SHAPE, LEAST, MOST, OK, Opening
from native_models import Design, write_model

from embakery.engines.native.engine import NativeEngine
from embakery.engines.native.plan import Shape
from embakery.errors import ArtifactError


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"nulls": {"pack"}}, BAD_INPUT),
        ({"nulls": {"shape"}}, BAD_INPUT),
        ({"nulls": {"offsets"}}, BAD_INPUT),
        ({"nulls": {"model"}}, BAD_INPUT),
        *[({"shift": shift}, BAD_INPUT) for shift in (1, 4, 16, 32, 63)],
        *[({"shape_bytes": size}, BAD_SHAPE) for size in (0, 4, 719, 721, 1 << 63)],
        *[({"isa": isa}, BAD_ISA) for isa in (None, b"", b"SCALAR", b"scalar,", b"avx", b"neon", b"x" * 9999)],
        *[({"count": count}, BAD_PACK) for count in (0, 1, 7, 8, 48)],
        *[({"size": size}, BAD_PACK) for size in (0, 1, 64, 4096)],
    ],
)
def test_opening_refuses(opening: Opening, change: dict[str, Any], status: int) -> None:
    assert ctypes.sizeof(Shape) == 720
    assert opening.count == 49
    for name, value in change.items():
        setattr(opening, name, value)
    assert opening.status() == status


def test_opening_refuses_more_offsets_than_the_shape_has(opening: Opening) -> None:
    opening.offsets.append(0)
    opening.count += 1
    assert opening.status() == BAD_PACK


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("layers", (0, 513)),
        ("hidden", (0, 1, 191, 8193, 8256)),
        ("heads", (0, 2**16, 5, 193, 384)),
        ("intermediate", (0, 128, 65537)),
        ("loud", (1, 63, 65, 200, 256)),
        ("activation", (7, 8)),
        ("vocabulary", (0, 2**25 + 1)),
        ("positions", (0, 2**16 + 1)),
        ("token_types", (2**16 + 1,)),
        ("pad_token", (-2, 50, 51)),
        ("farthest", (2**16 + 1,)),
        ("poolings", (0, 7)),
        ("steps", (17,)),
    ],
)
def test_no_model_has_such_a_size(opening: Opening, field: str, values: tuple[int, ...]) -> None:
    extremes = (LEAST, LEAST + 1, -(2**16), MOST, MOST - 1, 2**30, -1 if field != "pad_token" else -2)
    for value in (*values, *extremes):
        setattr(opening.shape, field, value)
        assert (value, opening.status()) == (value, BAD_SHAPE)


def test_no_model_has_such_a_pooling(opening: Opening) -> None:
    for value in (-1, 6, MOST, LEAST):
        opening.shape.pooling[4] = value
        assert opening.status() == BAD_SHAPE
    opening.shape.poolings = 4
    assert opening.status() == OK


def test_heads_wider_than_512_are_refused(packs: dict[str, Path]) -> None:
    opening = Opening(packs["head512"])
    assert opening.status() == OK
    opening.shape.hidden = 513
    opening.shape.step[0].inputs = opening.shape.step[0].outputs = 513
    assert opening.status() == BAD_SHAPE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("layers", value) for value in (2, 3, 512)],
        *[("vocabulary", value) for value in (2**20, 2**25)],
        *[("positions", value) for value in (2**14, 2**16)],
        *[("token_types", value) for value in (1, 2**16)],
        *[("farthest", value) for value in (1, 2**16)],
        ("loud", 0),
        ("intermediate", 65536),
    ],
)
def test_a_size_that_the_pack_has_no_tensors_for(opening: Opening, field: str, value: int) -> None:
    setattr(opening.shape, field, value)
    assert opening.status() == BAD_PACK


@pytest.mark.parametrize(
    ("step", "field", "value"),
    [
        *[(0, "kind", value) for value in (-1, 4, MOST, LEAST)],
        *[(0, "activation", value) for value in (-1, 7, MOST, LEAST)],
        *[(0, "inputs", value) for value in (0, 79, 81, -80, MOST, LEAST)],
        *[(0, "outputs", value) for value in (0, 69, 71, 65537, -1, MOST, LEAST)],
        (0, "weight", 0),
        (1, "weight", 0),
        (1, "bias", 0),
        *[(1, "outputs", value) for value in (0, 71, -1)],
        *[(4, "outputs", value) for value in (0, 18, MOST)],
        (4, "kind", 0),
    ],
)
def test_no_head_has_such_a_step(packs: dict[str, Path], step: int, field: str, value: int) -> None:
    """80 pooled values, dense to 70, layer norm, dense to 17, layer norm, normalize."""
    opening = Opening(packs["steps"])
    assert opening.status() == OK
    setattr(opening.shape.step[step], field, value)
    assert opening.status() == BAD_SHAPE


def test_no_model_has_texts_so_long_that_sums_pass_32_bits(tmp_path: Path) -> None:
    """Equal shares of equal values, of so many tokens: 255 * 127 * 66400 is more than 2^31."""
    path = write_model(Design("long", 4, 1, 4, layers=1, positions=66400, vocabulary=2), tmp_path / "long.pack")
    with pytest.raises(ArtifactError, match="has a shape that no model has"):
        NativeEngine(path)
