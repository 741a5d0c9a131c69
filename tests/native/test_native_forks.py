"""A process that forks with an engine open: the child has threads, crews and workspaces of its own."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_calls import digest_of
from native_models import BY_NAME, random_texts

from embakery.engines.native import library
from embakery.engines.native.engine import NativeEngine
from embakery.engines.native.library import Workspace, default_library


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
