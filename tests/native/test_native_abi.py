"""The library's C interface, called as nobody should: whatever comes in, a status comes out, and the process lives.

And called as it should be, but on models of every shape: one set of bits, whatever shares the call.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import os
import platform
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_models import BY_NAME, DESIGNS, SEED, Design, Reference, random_texts, random_types, write_model
from numpy.typing import NDArray

from embakery.engines.native import library
from embakery.engines.native.engine import NativeEngine, NativePairScorer
from embakery.engines.native.library import SENTENCES, TOKENS, Batch, Call, Model, Workspace, default_library
from embakery.engines.native.plan import Shape, read_plan
from embakery.engines.pack import Pack
from embakery.errors import ArtifactError, ConfigurationError, EncodingError
from embakery.texts import TokenIds
from embakery.vectors import Vectors

# embk_status.
OK, BAD_SHAPE, BAD_PACK, BAD_INPUT, BAD_LENGTH, BAD_TOKEN, BAD_OUTPUT, BAD_WORKSPACE, NO_MEMORY, BAD_ISA = range(10)

MOST, LEAST = 2**31 - 1, -(2**31)
MUTATIONS = 3000
CANARY = 0x5A

ISAS = default_library().isas


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    return {design.name: write_model(design, folder / f"{design.name}.pack") for design in DESIGNS}


def aligned(size: int) -> NDArray[np.uint8]:
    """Memory at a multiple of 64 bytes, with 64 bytes of canary behind it."""
    memory = np.full(size + 128, CANARY, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size + 64]


class Opening:
    """What embk_open is given: right, until a test changes it."""

    def __init__(self, path: Path) -> None:
        plan = read_plan(Pack.open(path))
        self.shape = Shape.from_buffer_copy(plan.shape)
        self.offsets = list(plan.offsets)
        data = np.fromfile(path, np.uint8)
        self.pack, self.size, self.shift = aligned(len(data)), len(data), 0
        self.pack[: len(data)] = data
        self.isa: bytes | None = b"scalar"
        self.shape_bytes, self.count = ctypes.sizeof(Shape), len(self.offsets)
        self.nulls: set[str] = set()

    def open(self) -> tuple[int, ctypes.c_void_p]:
        """Return the status and the model."""
        handle = ctypes.c_void_p(1)
        given: dict[str, Any] = {
            "pack": self.pack.ctypes.data + self.shift,
            "shape": ctypes.byref(self.shape),
            "offsets": (ctypes.c_uint64 * len(self.offsets))(*self.offsets),
            "model": ctypes.byref(handle),
        }
        given |= dict.fromkeys(self.nulls)
        status = default_library().calls.embk_open(
            *(given["pack"], self.size, given["shape"], self.shape_bytes),
            *(given["offsets"], self.count, self.isa, given["model"]),
        )
        return int(status), handle

    def status(self) -> int:
        """Try it, and close what may have been opened."""
        status, handle = self.open()
        assert (status == OK) == bool(handle.value) or "model" in self.nulls or handle.value == 1
        if status == OK:
            default_library().calls.embk_close(handle)
        return status


class Encoding:
    """What embk_encode is given: right, until a test changes it. All memory is as large as is said, and no larger."""

    def __init__(self, handle: ctypes.c_void_p, dimension: int, ids: Sequence[int], lengths: Sequence[int]) -> None:
        self.handle: ctypes.c_void_p | None = handle
        self.ids, self.lengths = list(ids), list(lengths)
        self.types: list[int] | None = None
        self.texts, self.tokens = len(lengths), len(ids)
        self.kind, self.rank, self.team = SENTENCES, 0, 1
        self.output_bytes = len(lengths) * dimension * 4
        self.workspace_bytes = int(default_library().calls.embk_workspace_bytes(handle, len(ids), 1))
        self.shift = 0
        self.nulls: set[str] = set()

    def status(self) -> int:
        """Call it. Fails if a byte behind the output or the workspace was written."""
        ids, lengths = np.array(self.ids, np.int32), np.array(self.lengths, np.int32)
        types = None if self.types is None else np.array(self.types, np.int32)
        workspace, output = aligned(self.workspace_bytes), aligned(self.output_bytes)
        batch = Batch(
            None if "ids" in self.nulls else ids.ctypes.data,
            None if types is None else types.ctypes.data,
            None if "lengths" in self.nulls else lengths.ctypes.data,
            self.texts,
            self.tokens,
        )
        status = default_library().calls.embk_encode(
            None if "model" in self.nulls else self.handle,
            None if "batch" in self.nulls else ctypes.byref(batch),
            self.kind,
            None if "output" in self.nulls else output.ctypes.data,
            self.output_bytes,
            None if "workspace" in self.nulls else workspace.ctypes.data + self.shift,
            *(self.workspace_bytes, self.rank, self.team),
        )
        for memory in (workspace, output):
            assert (memory[-64:] == CANARY).all()
        return int(status)


@pytest.fixture
def opening(packs: dict[str, Path]) -> Opening:
    """The model with most of what a model can have: loud units, a padding token, five poolings."""
    return Opening(packs["head64"])


@pytest.fixture
def encoding(packs: dict[str, Path]) -> Iterator[Encoding]:
    """Three texts for a model of 49 units, 50 tokens, 80 positions, 2 types and vectors of 98."""
    opened = Opening(packs["head7"])
    status, handle = opened.open()
    assert status == OK
    yield Encoding(handle, 98, [1, 2, 3, 4, 5, 49, 0, 48], [5, 1, 2])
    default_library().calls.embk_close(handle)


def test_the_right_calls_are_right(opening: Opening, encoding: Encoding) -> None:
    assert opening.status() == OK
    assert encoding.status() == OK
    encoding.types = [0, 1, 0, 1, 0, 0, 1, 1]
    assert encoding.status() == OK


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


@pytest.mark.parametrize(
    ("change", "status"),
    [
        *[({"nulls": {name}}, BAD_INPUT) for name in ("model", "batch", "ids", "lengths", "output", "workspace")],
        *[({"rank": rank}, BAD_INPUT) for rank in (-1, 1, 64, MOST, LEAST)],
        *[({"team": team}, BAD_INPUT) for team in (0, -1, LEAST)],
        *[({"rank": 2, "team": 2}, BAD_INPUT), ({"rank": -1, "team": 2}, BAD_INPUT)],
        *[({"team": team}, BAD_WORKSPACE) for team in (2, 65, MOST)],
        *[({"texts": texts}, BAD_INPUT) for texts in (0, -1, LEAST, 1, 2)],
        *[({"tokens": tokens}, BAD_INPUT) for tokens in (0, -1, LEAST, 7, 9, MOST)],
        *[({"lengths": [5, length, 2]}, BAD_LENGTH) for length in (0, -1, 81, MOST, LEAST)],
        *[({"lengths": lengths}, BAD_INPUT) for lengths in ([5, 1, 1], [5, 1, 3], [80, 1, 2], [5, 2, 2])],
        *[({"ids": [token, 2, 3, 4, 5, 49, 0, 48]}, BAD_TOKEN) for token in (-1, 50, 51, 2**16, MOST, LEAST)],
        *[({"ids": [1, 2, 3, 4, 5, 49, 0, token]}, BAD_TOKEN) for token in (-1, 50, MOST, LEAST)],
        *[({"types": [0, 1, 0, 1, 0, 0, 1, token]}, BAD_TOKEN) for token in (-1, 2, MOST, LEAST)],
        *[({"kind": kind}, BAD_OUTPUT) for kind in (2, -1, MOST, TOKENS)],
        *[({"output_bytes": size}, BAD_OUTPUT) for size in (0, 1, 1175, 1177, 1180, 2352)],
        *[({"kind": TOKENS, "output_bytes": size}, BAD_OUTPUT) for size in (8 * 98 * 4, 8 * 64 * 4)],
        *[({"shift": shift}, BAD_WORKSPACE) for shift in (1, 4, 16, 32, 63)],
    ],
)
def test_encoding_refuses(encoding: Encoding, change: dict[str, Any], status: int) -> None:
    assert encoding.output_bytes == 1176
    for name, value in change.items():
        setattr(encoding, name, value)
    assert encoding.status() == status


@pytest.mark.parametrize("missing", [1, 4, 63, 64, 10**4])
def test_a_workspace_that_is_too_small(encoding: Encoding, missing: int) -> None:
    encoding.workspace_bytes -= missing
    assert encoding.status() == BAD_WORKSPACE


def test_tokens_into_memory_of_their_size(encoding: Encoding) -> None:
    encoding.kind, encoding.output_bytes = TOKENS, 8 * 49 * 4
    assert encoding.status() == OK


def test_a_model_without_types_takes_only_zeros(packs: dict[str, Path]) -> None:
    _, handle = Opening(packs["head4"]).open()
    encoding = Encoding(handle, 24, [1, 2], [2])
    encoding.types = [0, 0]
    assert encoding.status() == OK
    encoding.types = [0, 1]
    assert encoding.status() == BAD_TOKEN
    default_library().calls.embk_close(handle)


def test_calls_without_a_model(encoding: Encoding) -> None:
    calls = default_library().calls
    calls.embk_close(None)
    assert calls.embk_dimension(None) == 0
    assert calls.embk_workspace_bytes(None, 8, 1) == 0
    for tokens, team in (
        (0, 1),
        (-1, 1),
        (2**20 + 1, 1),
        (MOST, 1),
        (8, 0),
        (8, -1),
        (8, 65),
        (8, MOST),
        (LEAST, LEAST),
    ):
        assert calls.embk_workspace_bytes(encoding.handle, tokens, team) == 0
    assert calls.embk_workspace_bytes(encoding.handle, 2**20, 64) > 2**33


def test_a_wrong_call_waits_for_no_team(encoding: Encoding) -> None:
    """Every rank sees the same fault; one that waited for the others would wait for ever."""
    encoding.ids[0] = 50
    encoding.rank, encoding.team = 1, 3
    assert encoding.status() == BAD_TOKEN


def test_random_batches_with_one_fault(encoding: Encoding) -> None:
    """Each fault, somewhere in a random batch, has its own status; without it the batch is encoded."""
    draw = random.Random(SEED)
    for _ in range(MUTATIONS):
        encoding.lengths = [draw.choice((1, 2, draw.randint(1, 12))) for _ in range(draw.randint(1, 6))]
        encoding.tokens, encoding.texts = sum(encoding.lengths), len(encoding.lengths)
        encoding.ids = [draw.randrange(50) for _ in range(encoding.tokens)]
        encoding.types = draw.choice((None, [draw.randrange(2) for _ in encoding.ids]))
        encoding.output_bytes = encoding.texts * 98 * 4
        encoding.workspace_bytes = default_library().calls.embk_workspace_bytes(encoding.handle, encoding.tokens, 1)
        expected = draw.choice((no_fault, wrong_token, wrong_type, wrong_length, wrong_count))(draw, encoding)
        assert encoding.status() == expected


def wrong_token(draw: random.Random, encoding: Encoding) -> int:
    encoding.ids[draw.randrange(encoding.tokens)] = draw.choice((-1, 50, 2**24, MOST, LEAST, draw.randint(50, MOST)))
    return BAD_TOKEN


def wrong_type(draw: random.Random, encoding: Encoding) -> int:
    encoding.types = [0] * encoding.tokens
    encoding.types[draw.randrange(encoding.tokens)] = draw.choice((-1, 2, MOST, LEAST))
    return BAD_TOKEN


def wrong_length(draw: random.Random, encoding: Encoding) -> int:
    encoding.lengths[draw.randrange(encoding.texts)] = draw.choice((0, -1, 81, MOST, LEAST))
    return BAD_LENGTH


def wrong_count(draw: random.Random, encoding: Encoding) -> int:
    encoding.lengths[draw.randrange(encoding.texts)] += draw.randint(1, 60)
    return BAD_INPUT


def no_fault(draw: random.Random, encoding: Encoding) -> int:
    return OK


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "text",
    [
        *((50,), (-1,), (0, MOST), (LEAST,), (2**31,), (-(2**31) - 1,), (2**32,), (2**64,), (2**200,)),
        *((), (1,) * 81, (1,) * 1000, (1,) * 2**20, (1,) * (2**20 + 1)),
    ],
    ids=lambda text: f"{len(text)}-tokens-{max(text, key=abs, default='')}",
)
def test_a_text_that_cannot_be_encoded(packs: dict[str, Path], text: TokenIds, threads: int) -> None:
    """Alone and among others; and afterwards the engine works as before."""
    engine = NativeEngine(packs["head4"], threads=threads)
    before = engine.encode([(1, 2, 3)])
    batches: tuple[list[TokenIds], ...] = ([text], [(1, 2), text, (3,)])
    for batch in batches:
        with pytest.raises(EncodingError, match="token"):
            engine.encode(batch)
        with pytest.raises(EncodingError, match="token"):
            engine.encode_tokens(batch)
    assert engine.encode([(1, 2, 3)]).tobytes() == before.tobytes()
    engine.close()


@pytest.mark.parametrize(
    "types", [((0, 2), (0,)), ((0, -1), (0,)), ((0,), (0,)), ((0, 0, 0), (0,)), ((0,), (0, 0)), ((0, 2**40), (0,))]
)
def test_types_that_do_not_fit(packs: dict[str, Path], types: Sequence[TokenIds]) -> None:
    scorer = NativePairScorer(packs["head7"], threads=1)
    with pytest.raises(EncodingError):
        scorer.score([(1, 2), (3,)], types)
    scorer.close()


def test_no_texts(packs: dict[str, Path]) -> None:
    engine = NativeEngine(packs["head7"])
    assert engine.encode([]).shape == (0, 98)
    assert engine.encode_tokens([]) == []
    engine.close()


def test_an_unknown_instruction_set(packs: dict[str, Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"EMBAKERY_ISA=sse2: this machine has .*scalar"):
        NativeEngine(packs["one"], isa="sse2")


@pytest.mark.parametrize("threads", [63, 64, 65, 200])
def test_more_threads_than_a_team_has_room_for(packs: dict[str, Path], threads: int) -> None:
    """As on a machine of so many cores, where nobody asked for them."""
    engine = NativeEngine(packs["head4"], threads=threads)
    assert engine.encode([(1, 2, 3)]).shape == (1, 24)
    engine.close()


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


def test_closing_twice(packs: dict[str, Path]) -> None:
    engine = NativeEngine(packs["head4"], threads=2)
    engine.encode([(1, 2)])
    engine.close()
    engine.close()
    model = Model(default_library(), Pack.open(packs["head4"]), "scalar")
    call, workspace = Call(model, [(1, 2)], None, SENTENCES), model.workspace(2, 1)
    model.close()
    model.close()
    with pytest.raises(EncodingError):
        model.encode(call, workspace)


def test_a_closed_engine_calls_nobody(packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its crew is freed by whoever leaves last: a call to it would write to memory of others."""
    engine, text = NativeEngine(packs["head8"], threads=2), (1,) * 80
    engine.encode([text])
    engine.close()
    called: list[int] = []

    def encode(*_: object) -> int:
        called.append(1)
        return BAD_INPUT

    monkeypatch.setattr(default_library().calls, "embk_crew_encode", encode)
    with pytest.raises(EncodingError):
        engine.encode([text])
    assert called == []


def sentences(model: Model, texts: Sequence[TokenIds], fill: int = 0, kind: int = SENTENCES) -> Vectors:
    """Encode in a workspace that is full of one byte."""
    call = Call(model, texts, None, kind)
    workspace = model.workspace(call.batch.tokens, 1)
    ctypes.memset(workspace.address, fill, workspace.size)
    model.encode(call, workspace)
    return call.output


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_what_lies_in_the_workspace_does_not_matter(packs: dict[str, Path], design: Design, isa: str) -> None:
    """0xFF is NaN in every float; 0xA5 a small one; 0x7F a huge one."""
    model, texts = Model(default_library(), Pack.open(packs[design.name]), isa), random_texts(design)
    for kind in (SENTENCES, TOKENS):
        clean = sentences(model, texts, 0, kind).tobytes()
        assert [fill for fill in (0xFF, 0xA5, 0x7F) if sentences(model, texts, fill, kind).tobytes() != clean] == []
    model.close()


@pytest.mark.parametrize("isa", ISAS)
def test_threads_side_by_side_on_one_model(packs: dict[str, Path], isa: str) -> None:
    model, texts = Model(default_library(), Pack.open(packs["head32"]), isa), random_texts(BY_NAME["head32"])
    alone = [sentences(model, [text]).tobytes() for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: sentences(model, [text], 0xA5).tobytes(), texts * 5))
    assert together == alone * 5
    model.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_callers_side_by_side_on_one_engine(packs: dict[str, Path], threads: int) -> None:
    """Some calls are one chunk and take the team, some are several chunks, some find the team taken."""
    texts = random_texts(BY_NAME["head8"])
    engine = NativeEngine(packs["head8"], threads=threads, chunk_tokens=100)
    expected = engine.encode(texts)
    batches = [texts[i : i + size] for size in (1, 3, 11) for i in range(0, len(texts), size)] * 2
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(engine.encode, batches))
    wanted = [expected[i : i + size] for size in (1, 3, 11) for i in range(0, len(texts), size)] * 2
    assert [vectors.tobytes() for vectors in done] == [vectors.tobytes() for vectors in wanted]
    engine.close()


class Crew:
    """Threads in embk_crew_join, as many as are announced or fewer."""

    def __init__(self, announced: int, joining: int) -> None:
        self.calls = default_library().calls
        self.handle: int | None = self.calls.embk_crew_new(announced)
        assert self.handle
        joins = [threading.Thread(target=self.calls.embk_crew_join, args=(self.handle,)) for _ in range(joining)]
        self.threads = joins
        for thread in self.threads:
            thread.daemon = True
            thread.start()

    def status(self, model: Model, call: Call, workspace: Workspace) -> int:
        return int(self.calls.embk_crew_encode(self.handle, *model.arguments(call, workspace)))

    def dismiss(self) -> list[bool]:
        """Return which threads are still in it a while after."""
        self.calls.embk_crew_dismiss(self.handle)
        for thread in self.threads:
            thread.join(10)
        return [thread.is_alive() for thread in self.threads]


def test_a_crew_of_no_size() -> None:
    calls = default_library().calls
    assert [calls.embk_crew_new(threads) for threads in (0, -1, 64, 65, MOST, LEAST)] == [None] * 6
    calls.embk_crew_join(None)
    calls.embk_crew_dismiss(None)


@pytest.mark.parametrize(("announced", "joining"), [(1, 1), (2, 2), (3, 3), (7, 7), (63, 63), (3, 0), (3, 2)])
def test_a_crew_leaves_when_it_is_dismissed(announced: int, joining: int) -> None:
    """Asleep or still on its way in, and those that were announced and come late too."""
    crew = Crew(announced, joining)
    assert crew.dismiss() == [False] * joining
    for _ in range(announced - joining):
        crew.calls.embk_crew_join(crew.handle)


@pytest.mark.parametrize("name", ["head8", "head32"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_crew_gives_the_same_bits(packs: dict[str, Path], name: str, size: int) -> None:
    """Call after call, while it joins, while it spins and after it fell asleep."""
    model, texts = Model(default_library(), Pack.open(packs[name]), ISAS[0]), random_texts(BY_NAME[name])
    expected = [sentences(model, [text]).tobytes() for text in texts]
    crew, workspace = Crew(size, size), model.workspace(512, size + 1)
    for pause in (0, 0, 0, 0.01):
        for text, vector in zip(texts, expected, strict=True):
            call = Call(model, [text], None, SENTENCES)
            ctypes.memset(workspace.address, 0xA5, workspace.size)
            time.sleep(pause)
            assert (crew.status(model, call, workspace), call.output.tobytes()) == (OK, vector)
    assert crew.dismiss() == [False] * size
    model.close()


def test_what_a_crew_refuses(packs: dict[str, Path]) -> None:
    """All of it at once and without waiting for each other, and then it works as before."""
    model, crew = Model(default_library(), Pack.open(packs["head4"]), "scalar"), Crew(2, 2)
    workspace, small = model.workspace(8, 3), Workspace(4096)
    wrong: list[tuple[TokenIds, Workspace, int]] = [((50,), workspace, BAD_TOKEN), ((), workspace, BAD_INPUT)]
    wrong += [((1,) * 81, workspace, BAD_LENGTH), ((1,) * 8, small, BAD_WORKSPACE)]
    right = Call(model, [(1, 2, 3)], None, SENTENCES)
    expected = sentences(model, [(1, 2, 3)]).tobytes()
    time.sleep(0.1)  # for both to have joined
    for ids, room, status in wrong * 20:
        assert crew.status(model, Call(model, [ids], None, SENTENCES), room) == status
        assert crew.status(model, right, workspace) == OK
        assert right.output.tobytes() == expected
    arguments = model.arguments(right, workspace)
    encode = crew.calls.embk_crew_encode
    assert encode(None, *arguments) == BAD_INPUT
    assert encode(crew.handle, None, *arguments[1:]) == BAD_INPUT
    assert encode(crew.handle, *arguments[:-2], None, workspace.size) == BAD_INPUT
    assert [encode(crew.handle, *arguments[:-1], size) for size in (0, 63, 127, 128)] == [3, 3, 3, BAD_WORKSPACE]
    assert encode(crew.handle, *arguments[:-2], workspace.address + 4, workspace.size - 64) == BAD_WORKSPACE
    assert crew.dismiss() == [False, False]
    model.close()


@contextmanager
def child(work: Callable[[], bytes], seconds: int = 60) -> Iterator[Callable[[], bytes]]:
    """Fork, work there, and give what it came to; nothing if it took longer or died."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        yield lambda: os.read(reader, 64) if select.select([reader], [], [], seconds)[0] else b""
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(reader)


def digest_of(vectors: Vectors) -> bytes:
    return sha256(vectors.tobytes()).digest()


def forking(test: Any) -> Any:
    """Mark a test that forks. From Python 3.12 on that warns where there are threads, which is what is tested."""
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")(
        pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test)
    )


@forking
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_process_encodes_with_threads_of_its_own(packs: dict[str, Path], threads: int) -> None:
    texts = random_texts(BY_NAME["head32"])
    engine = NativeEngine(packs["head32"], threads=threads, chunk_tokens=100)
    expected = [engine.encode(texts), engine.encode(texts[-1:])]

    def work() -> bytes:
        """Several chunks, and one that is shared."""
        return digest_of(np.concatenate([engine.encode(texts), engine.encode(texts[-1:])]))

    with child(work) as result:
        assert result() == digest_of(np.concatenate(expected))
    assert work() == digest_of(np.concatenate(expected))
    engine.close()


@forking
def test_a_forked_process_leaves_its_parents_crew_alone() -> None:
    """One of the crew may have held its lock when the process forked; in the child nobody will ever give that back."""
    crew, libc = library.Crew(default_library(), 1), ctypes.CDLL(None)
    libc.pthread_mutex_lock.argtypes = libc.pthread_mutex_unlock.argtypes = (ctypes.c_void_p,)
    held = [crew]

    def work() -> bytes:
        held.clear()
        gc.collect()
        return b"done"

    libc.pthread_mutex_lock(crew._handle)  # it stands first in struct embk_crew
    del crew
    with child(work, seconds=5) as result:
        libc.pthread_mutex_unlock(held[0]._handle)
        assert result() == b"done"


@forking
def test_a_forked_process_has_workspaces_of_its_own() -> None:
    workspace = Workspace(4096)
    ctypes.memset(workspace.address, 1, 4096)

    def work() -> bytes:
        ctypes.memset(workspace.address, 2, 4096)
        return b"done"

    with child(work) as result:
        assert result() == b"done"
    assert ctypes.string_at(workspace.address, 4) == b"\1\1\1\1"


@forking
def test_parent_and_child_encode_at_the_same_time(packs: dict[str, Path]) -> None:
    texts = random_texts(BY_NAME["head64"])
    engine = NativeEngine(packs["head64"], threads=1)
    expected = [digest_of(engine.encode([text])) for text in texts]

    def work(order: Sequence[int]) -> bytes:
        wrong = sum(digest_of(engine.encode([texts[i]])) != expected[i] for _ in range(100) for i in order)
        return f"{wrong} wrong".encode()

    with child(lambda: work(range(len(texts)))) as result:
        assert (work(range(len(texts))[::-1]), result()) == (b"0 wrong", b"0 wrong")
    engine.close()


FE_UPWARD = {"x86_64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}.get(platform.machine())
FLUSH_TO_ZERO, DENORMALS_ARE_ZERO, ROUND_UP = 0x8000, 0x0040, 0x4000
# Where glibc's and musl's fenv_t hold MXCSR.
MXCSR = 7


def maths() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("m"))


@pytest.mark.skipif(FE_UPWARD is None, reason="no number for FE_UPWARD")
@pytest.mark.parametrize("isa", ISAS)
def test_the_callers_rounding_changes_nothing_and_stays(packs: dict[str, Path], isa: str) -> None:
    libm, model = maths(), Model(default_library(), Pack.open(packs["steps"]), isa)
    call, workspace = Call(model, random_texts(BY_NAME["steps"]), None, SENTENCES), model.workspace(1000, 1)
    model.encode(call, workspace)
    expected = call.output.tobytes()
    call.output[:] = 0
    assert libm.fesetround(FE_UPWARD) == 0
    try:
        model.encode(call, workspace)
        left = libm.fegetround()
    finally:
        libm.fesetround(0)
    assert left == FE_UPWARD
    assert call.output.tobytes() == expected
    model.close()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="MXCSR is x86's")
@pytest.mark.parametrize("isa", ISAS)
def test_a_caller_that_flushes_subnormals_changes_nothing(packs: dict[str, Path], isa: str) -> None:
    libm, model = maths(), Model(default_library(), Pack.open(packs["subnormal"]), isa)
    call, workspace = Call(model, random_texts(BY_NAME["subnormal"]), None, SENTENCES), model.workspace(1000, 1)
    model.encode(call, workspace)
    expected = call.output.tobytes()
    assert 0 < np.abs(call.output).max() < np.finfo(np.float32).tiny
    call.output[:] = 0
    callers, changed, after = ((ctypes.c_uint32 * 8)() for _ in range(3))
    libm.fegetenv(callers)
    libm.fegetenv(changed)
    changed[MXCSR] |= FLUSH_TO_ZERO | DENORMALS_ARE_ZERO | ROUND_UP
    libm.fesetenv(changed)
    try:
        model.encode(call, workspace)
        libm.fegetenv(after)
    finally:
        libm.fesetenv(callers)
    assert after[MXCSR] == changed[MXCSR]
    assert call.output.tobytes() == expected
    model.close()


def as_team(model: Model, call: Call, size: int) -> Vectors:
    """Share one call among so many threads."""
    workspace = model.workspace(call.batch.tokens, size)
    ctypes.memset(workspace.address, 0xA5, workspace.size)
    workspace.reset()
    ranks = [threading.Thread(target=model.encode, args=(call, workspace, rank, size)) for rank in range(1, size)]
    for rank in ranks:
        rank.start()
    model.encode(call, workspace, 0, size)
    output = call.output.copy()
    for rank in ranks:
        rank.join()
    return output


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_one_set_of_bits(packs: dict[str, Path], design: Design) -> None:
    """Every instruction set, alone, in a batch, in another order, and as a team of 1, 2 and 3: what scalar C gives."""
    library, pack = default_library(), Pack.open(packs[design.name])
    texts = random_texts(design)
    types = random_types(design, texts)
    for kind in (SENTENCES, TOKENS):
        found: dict[tuple[str, str], bytes] = {}
        for isa in ISAS:
            model = Model(library, pack, isa)
            alone = [as_team(model, Call(model, [text], types and [types[i]], kind), 1) for i, text in enumerate(texts)]
            found[isa, "alone"] = digest_of(np.concatenate(alone))
            for size in (1, 2, 3):
                found[isa, f"team of {size}"] = digest_of(as_team(model, Call(model, texts, types, kind), size))
            turned = as_team(model, Call(model, texts[::-1], types and types[::-1], kind), 1)
            parts = np.split(turned, np.cumsum([len(part) for part in alone[::-1]])[:-1])
            found[isa, "turned"] = digest_of(np.concatenate(parts[::-1]))
            model.close()
        assert found == dict.fromkeys(found, found["scalar", "alone"])


def cosines(left: Any, right: Any) -> Any:
    """Between rows."""
    return (left * right).sum(axis=-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_the_arithmetic_is_what_numpy_makes_of_it(packs: dict[str, Path], design: Design) -> None:
    """Through two layers the last bit of a float turns some activations over to the next of their 255 levels."""
    engine, reference = NativeEngine(packs[design.name], threads=1), Reference(packs[design.name])
    texts = random_texts(design)
    for text, tokens, vector in zip(texts, engine.encode_tokens(texts), engine.encode(texts), strict=True):
        assert cosines(tokens.astype(np.float64), reference.tokens(text)).min() > 0.9997
        expected = reference.sentence(text)
        assert cosines(vector.astype(np.float64), expected) > 0.9999
        assert abs(np.linalg.norm(vector.astype(np.float64)) / np.linalg.norm(expected) - 1) < 0.01
    engine.close()


def test_no_model_has_texts_so_long_that_sums_pass_32_bits(tmp_path: Path) -> None:
    """Equal shares of equal values, of so many tokens: 255 * 127 * 66400 is more than 2^31."""
    path = write_model(Design("long", 4, 1, 4, layers=1, positions=66400, vocabulary=2), tmp_path / "long.pack")
    with pytest.raises(ArtifactError, match="has a shape that no model has"):
        NativeEngine(path)


@pytest.mark.parametrize("name", ["head7", "head32"])
def test_types_are_told(packs: dict[str, Path], name: str) -> None:
    scorer, reference = NativePairScorer(packs[name], threads=1), Reference(packs[name])
    texts = random_texts(BY_NAME[name])
    types = random_types(BY_NAME[name], texts)
    assert types is not None
    for vector, text, kinds in zip(scorer.score(texts, types), texts, types, strict=True):
        assert cosines(vector.astype(np.float64), reference.sentence(text, kinds)) > 0.9999
    scorer.close()
