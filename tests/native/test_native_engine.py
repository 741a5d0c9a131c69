"""The engine over the library: what it refuses, how it opens and how it closes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from native_calls import BAD_INPUT, LEAST, MOST

from embakery.engines.native.engine import NativeEngine, NativePairScorer
from embakery.engines.native.library import SENTENCES, Call, Model, default_library
from embakery.engines.pack import Pack
from embakery.errors import ConfigurationError, EncodingError
from embakery.texts import TokenIds


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
