"""Models of every shape: one set of bits, whatever shares the call or the caller set, and what numpy makes of it."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_calls import ISAS, digest_of, sentences
from native_models import BY_NAME, DESIGNS, Design, random_texts, random_types
from native_reference import Reference

from embakery.engines.native.engine import NativeEngine, NativePairScorer
from embakery.engines.native.library import SENTENCES, TOKENS, Call, Model, default_library
from embakery.engines.pack import Pack
from embakery.vectors import Vectors


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


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_what_lies_in_the_workspace_does_not_matter(packs: dict[str, Path], design: Design, isa: str) -> None:
    """0xFF is NaN in every float; 0xA5 a small one; 0x7F a huge one."""
    model, texts = Model(default_library(), Pack.open(packs[design.name]), isa), random_texts(design)
    for kind in (SENTENCES, TOKENS):
        clean = sentences(model, texts, 0, kind).tobytes()
        assert [fill for fill in (0xFF, 0xA5, 0x7F) if sentences(model, texts, fill, kind).tobytes() != clean] == []
    model.close()


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


@pytest.mark.parametrize("name", ["head7", "head32"])
def test_types_are_told(packs: dict[str, Path], name: str) -> None:
    scorer, reference = NativePairScorer(packs[name], threads=1), Reference(packs[name])
    texts = random_texts(BY_NAME[name])
    types = random_types(BY_NAME[name], texts)
    assert types is not None
    for vector, text, kinds in zip(scorer.score(texts, types), texts, types, strict=True):
        assert cosines(vector.astype(np.float64), reference.sentence(text, kinds)) > 0.9999
    scorer.close()


def cosines(left: Any, right: Any) -> Any:
    """Between rows."""
    return (left * right).sum(axis=-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)
