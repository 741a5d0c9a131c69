"""Which engine serves, what is said about it, and whose space the vectors carry."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import embakery.engines.native.library as native_library
from embakery import Embedder
from embakery.artifact import PACK, Artifact
from embakery.engines.native.engine import NativeEngine
from embakery.engines.native.library import SENTENCES, Call, Crew, Library, Model, default_library
from embakery.engines.pack import Pack
from embakery.errors import ArtifactError, ConfigurationError, EncodingError

TEXTS = ["a dead-letter queue keeps what failed", "short", "word " * 100]


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Library:
        raise ConfigurationError("the native engine's library was not built for this machine")

    monkeypatch.setattr(native_library, "default_library", absent)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[object, object]]:
    lines = [record for record in caplog.records if record.getMessage() == "engine"]
    return [(vars(line)["engine"], vars(line)["reason"]) for line in lines]


def test_auto_takes_the_native_engine_and_says_so(default_artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="embakery"):
        embedder = Embedder.load(default_artifact)
    assert said(caplog) == [("native", "the artifact and this machine have it")]
    assert (embedder.engine.name, embedder.manifest.engine.name) == ("native", "native")
    assert embedder.golden_matches


def test_without_the_library_onnxruntime_serves_in_its_own_space(
    default_artifact: Path, without_library: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="embakery"):
        embedder = Embedder.load(default_artifact)
    assert said(caplog) == [("onnx", "the native engine's library was not built for this machine")]
    other = Artifact.load(default_artifact).manifest.other_space
    assert other is not None
    assert (embedder.engine.name, embedder.manifest.space_id) == ("onnx", other.space_id)


def test_who_asks_for_the_native_engine_gets_it_or_an_error(default_artifact: Path, without_library: None) -> None:
    with pytest.raises(ConfigurationError, match="engine native: the native engine's library was not built"):
        Embedder.load(default_artifact, engine="native")


def test_the_two_engines_are_near_but_never_share_a_space(default_artifact: Path) -> None:
    native, onnx = (Embedder.load(default_artifact, engine=name) for name in ("native", "onnx"))
    assert (native.golden_matches, onnx.golden_matches) == (True, True)
    assert native.manifest.space_id != onnx.manifest.space_id
    ours, theirs = native.embed(TEXTS), onnx.embed(TEXTS)
    assert ours.tobytes() != theirs.tobytes()
    assert (ours * theirs).sum(axis=1).min() > 0.998


def test_a_library_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "libembakery.so").write_bytes(b"not a library")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        Library(tmp_path / "libembakery.so")


def test_an_instruction_set_can_be_forced(default_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBAKERY_ISA", "scalar")
    assert NativeEngine(default_artifact / PACK).isa == "scalar"
    monkeypatch.setenv("EMBAKERY_ISA", "mmx")
    with pytest.raises(ConfigurationError, match="EMBAKERY_ISA=mmx: this machine has "):
        NativeEngine(default_artifact / PACK)


@pytest.mark.parametrize("threads", [-1, 0])
def test_threads_that_cannot_encode(default_artifact: Path, threads: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{threads} threads cannot encode"):
        NativeEngine(default_artifact / PACK, threads=threads)


def test_a_pack_without_a_tensor_is_refused_by_name(default_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = Pack.open(default_artifact / PACK)
    monkeypatch.setattr(
        pack, "tensors", {name: tensor for name, tensor in pack.tensors.items() if "layers.3" not in name}
    )
    with pytest.raises(ArtifactError, match=r"^encoder\.pack: the native engine cannot run it: .*layers\.3"):
        Model(default_library(), pack, "scalar")


def test_a_crew_gives_the_same_bits_and_can_be_left_at_any_time(default_artifact: Path) -> None:
    """Also where its threads have not come in yet, and where a call is refused."""
    model = Model(default_library(), Pack.open(default_artifact / PACK), default_library().isas[0])
    ids = tuple(range(1000, 1040))
    alone = Call(model, [ids], None, SENTENCES)
    model.encode(alone, model.workspace(64, 1))
    for threads in (1, 2, 5):
        crew = Crew(default_library(), threads)
        for _ in range(50):
            call = Call(model, [ids], None, SENTENCES)
            crew.encode(model, call, model.workspace(64, threads + 1))
            assert call.output.tobytes() == alone.output.tobytes()
        with pytest.raises(EncodingError, match="a token id outside the vocabulary"):
            crew.encode(model, Call(model, [(-1,)], None, SENTENCES), model.workspace(64, threads + 1))
        crew.dismiss()
        assert not crew.dismiss.alive


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_encodes(default_artifact: Path) -> None:
    """The child inherits locks that nobody will open, and no thread that it could wait for."""
    engine = NativeEngine(default_artifact / PACK, threads=2)
    texts = [tuple(range(1000, 1080))] * 20
    expected = engine.encode(texts).tobytes()
    runner = engine._runner
    with runner._team, runner._starting:
        child = os.fork()
        if child == 0:
            os._exit(0 if engine.encode(texts).tobytes() == expected and engine.encode(texts[:1]).size == 384 else 1)
    deadline = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done == (child, 0)
    assert engine.encode(texts).tobytes() == expected


def test_many_callers_at_once(default_artifact: Path) -> None:
    """Single texts share a crew or go alone, batches go to the pool: the bits are the same."""
    engine = NativeEngine(default_artifact / PACK, threads=2)
    texts = [tuple(range(1000 + start, 1000 + start + 3 + start % 60)) for start in range(60)]
    expected = {ids: engine.encode([ids])[0].tobytes() for ids in texts}
    wrong: list[object] = []

    def work(seed: int) -> None:
        for index in np.random.default_rng(seed).permutation(len(texts)).tolist():
            batch = texts[index : index + 1 + index % 20]
            found = [vector.tobytes() for vector in engine.encode(batch)]
            wrong.extend(ids for ids, bits in zip(batch, found, strict=True) if bits != expected[ids])

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []
    engine.close()
