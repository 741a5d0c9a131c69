"""Threads that share a model, an engine or a call: the same bits, and nobody waits for ever."""

from __future__ import annotations

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from native_calls import BAD_INPUT, BAD_LENGTH, BAD_TOKEN, BAD_WORKSPACE, ISAS, LEAST, MOST, OK, sentences
from native_models import BY_NAME, random_texts

from embakery.engines.native.engine import NativeEngine
from embakery.engines.native.library import SENTENCES, Call, Model, Workspace, default_library
from embakery.engines.pack import Pack
from embakery.texts import TokenIds


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
