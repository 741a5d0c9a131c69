"""Packs whose offsets, end or header are wrong: refused, or what is opened can be run."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path
from typing import Any

import pytest
from native_calls import BAD_PACK, BAD_SHAPE, ISAS, LEAST, MOST, MUTATIONS, OK, Encoding, Opening
from native_models import BY_NAME, DESIGNS, SEED, write_model

from embakery.engines.native.engine import NativeEngine
from embakery.engines.native.library import default_library
from embakery.engines.native.plan import Shape
from embakery.engines.pack import Pack
from embakery.errors import ArtifactError


@pytest.mark.parametrize("name", ["head64", "head12", "steps"])
def test_every_offset_is_checked(packs: dict[str, Path], name: str) -> None:
    opening = Opening(packs[name])
    right = list(opening.offsets)
    accepted = []
    for index, offset in enumerate(right):
        wrong = [offset + 1, offset + 4, offset + 32, opening.size + -opening.size % 64, 1 << 63, 2**64 - 64, 2**64 - 1]
        # What the shape does not have must be 0, and nothing else may be.
        for value in [*wrong, 0 if offset else 64]:
            opening.offsets = [*right[:index], value, *right[index + 1 :]]
            if opening.status() != BAD_PACK:
                accepted.append((index, value))
    assert accepted == []


def test_every_offset_of_the_head_is_checked(packs: dict[str, Path]) -> None:
    opening = Opening(packs["steps"])
    for step in range(4):
        for field in ("weight", "bias"):
            offset = getattr(opening.shape.step[step], field)
            for value in (offset + 4, offset + 32, opening.size + -opening.size % 64, 2**64 - 64, 2**64 - 1):
                setattr(opening.shape.step[step], field, value)
                assert opening.status() == BAD_PACK
            setattr(opening.shape.step[step], field, offset)
    assert opening.status() == OK


@pytest.mark.parametrize("name", [design.name for design in DESIGNS])
def test_a_pack_cut_off_before_any_of_its_tensors(packs: dict[str, Path], tmp_path: Path, name: str) -> None:
    opening = Opening(packs[name])
    steps = [getattr(step, field) for step in opening.shape.step for field in ("weight", "bias")]
    boundaries = sorted({*opening.offsets, *steps} - {0})
    data, cut = packs[name].read_bytes(), tmp_path / "cut.pack"
    for boundary in boundaries:
        for opening.size in (boundary - 1, boundary, boundary + 1):
            assert opening.status() == BAD_PACK
        cut.write_bytes(data[:boundary])
        with pytest.raises(ArtifactError, match=r"cut\.pack: is not a"):
            NativeEngine(cut)
    opening.size = len(data)
    assert opening.status() == OK


def test_whatever_is_opened_can_be_run(packs: dict[str, Path]) -> None:
    """Random sizes and offsets, several at once. What is not refused must encode, within its workspace."""
    draw = random.Random(SEED)
    seen = {OK: 0, BAD_SHAPE: 0, BAD_PACK: 0}
    sources = [Opening(packs[name]) for name in ("head4", "head7", "head8", "head12", "head32", "steps")]
    for _ in range(MUTATIONS):
        source = draw.choice(sources)
        kept = Shape.from_buffer_copy(source.shape), list(source.offsets), source.size
        for _ in range(draw.choice((1, 1, 2, 4))):
            mutate(draw, source)
        source.isa = draw.choice(ISAS).encode()
        status, handle = source.open()
        seen[status] += 1
        if status == OK:
            run_anything(draw, handle, source.shape)
        source.shape, source.offsets, source.size = kept
    assert min(seen.values()) > MUTATIONS // 20


SIZES = [field[0] for field in Shape._fields_ if field[0] not in ("eps", "pooling", "step")]


def mutate(draw: random.Random, opening: Opening) -> None:
    """Change a size, a step, an offset or the pack's end."""
    extremes = (0, 1, 2, 3, -1, 63, 64, 65, 512, 2**16, 2**20, 2**25, MOST, LEAST)
    number = draw.choice((draw.choice(extremes), draw.randint(0, 200)))
    kind = draw.randrange(10)
    if kind < 4:
        setattr(opening.shape, draw.choice(SIZES), number)
    elif kind == 4:
        opening.shape.pooling[draw.randrange(6)] = draw.randint(-1, 6)
    elif kind == 5:
        step = opening.shape.step[draw.randrange(6)]
        setattr(
            step, draw.choice(("kind", "activation", "inputs", "outputs")), draw.choice((number, draw.randint(0, 6)))
        )
    elif kind == 9:
        opening.size = draw.randrange(len(opening.pack) - 64)
    else:
        offset = draw.choice(
            (draw.randrange(opening.size // 64) * 64, draw.choice(opening.offsets), draw.randrange(2**64))
        )
        opening.offsets[draw.randrange(len(opening.offsets))] = offset


def run_anything(draw: random.Random, handle: ctypes.c_void_p, shape: Any) -> None:
    lengths = [draw.randint(1, min(20, shape.positions)) for _ in range(draw.randint(1, 4))]
    ids = [draw.randrange(shape.vocabulary) for _ in range(sum(lengths))]
    encoding = Encoding(handle, int(default_library().calls.embk_dimension(handle)), ids, lengths)
    assert encoding.status() == OK
    default_library().calls.embk_close(handle)


ODD: tuple[object, ...] = (
    None,
    -1,
    0,
    2.5,
    "x",
    [],
    {},
    [[]],
    ["x"],
    [{}],
    [None],
    2**31,
    2**40,
    10**400,
    float("inf"),
)


def test_whatever_a_header_says(packs: dict[str, Path], tmp_path: Path) -> None:
    """Each fact missing, and each of odd values: refused as a damaged artifact, or the model runs."""
    design = BY_NAME["steps"]
    facts, found = dict(Pack.open(packs["steps"]).model), []
    changed: list[dict[str, Any]] = [{n: v for n, v in facts.items() if n != name} for name in facts]
    changed += [facts | {name: value} for name in facts for value in ODD]
    for header in changed:
        path = write_model(design, tmp_path / "odd.pack", facts=header)
        try:
            engine = NativeEngine(path, threads=1)
        except ArtifactError:
            continue
        except Exception as error:
            difference = {name: header.get(name, "missing") for name in facts if header.get(name) != facts[name]}
            found.append((difference, repr(error)))
            continue
        assert len(engine.encode([(1, 2, 3)])) == 1
        engine.close()
    assert found == []
