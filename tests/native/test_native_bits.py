"""One digest: whatever the batch, the order, the threads, the instruction set, the machine.

EMBAKERY_BITS_TEXTS=2000 takes as many texts (an hour under emulation); a few dozen are the default.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from native_files import build_driver, digest, run_driver, write_batch, write_plan
from system_tools import need

from embakery.artifact import PACK, Artifact
from embakery.engines.native.build import find_target
from embakery.engines.native.engine import NativeEngine
from embakery.engines.native.library import default_library
from embakery.texts import TokenIds, TokenizedText
from embakery.vectors import Vectors
from model_bake.corpus import standard_library_passages

SEED = 20261124
TEXTS = int(os.environ.get("EMBAKERY_BITS_TEXTS", "40"))
ISAS = {
    "x86_64-linux": ("avx512_vnni", "avx_vnni", "avx2", "scalar"),
    "aarch64-linux": ("neon_dot", "neon_i8mm", "scalar"),
}


@pytest.fixture(scope="module")
def pack(default_artifact: Path) -> Path:
    return default_artifact / PACK


@pytest.fixture(scope="module")
def texts(default_artifact: Path) -> list[TokenIds]:
    """Passages cut to random lengths: most are short, one in 250 fills the model."""
    draw = random.Random(SEED)
    passages = [passage.text for passage in standard_library_passages()]
    long = [" ".join(draw.sample(passages, 4)) for _ in range(TEXTS)]
    tokenized = Artifact.load(default_artifact).tokenizer().tokenize(long, input_type="document")
    whole = [item.ids for item in tokenized if isinstance(item, TokenizedText)]
    lengths = [256 if number % 250 == 0 else min(3 + int(draw.expovariate(1 / 4)), 256) for number in range(TEXTS)]
    return [(*ids[: length - 1], ids[-1]) for ids, length in zip(whole, lengths, strict=True)]


@pytest.fixture(scope="module")
def expected(pack: Path, texts: Sequence[TokenIds]) -> Vectors:
    """Each text alone, on one thread."""
    engine = NativeEngine(pack, threads=1)
    return np.concatenate([engine.encode([ids]) for ids in texts])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_ten_random_batchings(pack: Path, texts: list[TokenIds], expected: Vectors, threads: int) -> None:
    engine = NativeEngine(pack, threads=threads)
    draw = random.Random(SEED + threads)
    for _ in range(10):
        order = draw.sample(range(len(texts)), len(texts))
        size = draw.randint(1, len(texts))
        found = np.empty_like(expected)
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            found[batch] = engine.encode([texts[index] for index in batch])
        assert digest(found) == digest(expected)
    engine.close()


@pytest.mark.parametrize("chunk_tokens", [1, 64, 4096])
def test_any_chunk(pack: Path, texts: list[TokenIds], expected: Vectors, chunk_tokens: int) -> None:
    assert digest(NativeEngine(pack, chunk_tokens=chunk_tokens).encode(texts)) == digest(expected)


def test_every_instruction_set_of_this_machine(pack: Path, texts: list[TokenIds], expected: Vectors) -> None:
    digests = {isa: digest(NativeEngine(pack, isa=isa).encode(texts)) for isa in default_library().isas}
    assert digests == dict.fromkeys(default_library().isas, digest(expected))


def test_token_vectors_too(pack: Path, texts: list[TokenIds]) -> None:
    few = texts[:20]
    first, *others = default_library().isas
    together = NativeEngine(pack, isa=first).encode_tokens(few)
    assert [len(vectors) for vectors in together] == [len(ids) for ids in few]
    for isa in others:
        alone = [NativeEngine(pack, isa=isa, threads=1).encode_tokens([ids])[0] for ids in few[:4]]
        assert [vectors.tobytes() for vectors in alone] == [vectors.tobytes() for vectors in together[:4]]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the driver as Graviton would."""
    emulator = need("qemu-aarch64")
    target = find_target("aarch64-linux")
    return [emulator, "-cpu", "max", str(build_driver(target, target.variants, tmp_path_factory.mktemp("arm64")))]


@pytest.mark.parametrize("isa", ISAS["aarch64-linux"])
@pytest.mark.timeout(0)
def test_arm64_under_emulation(
    pack: Path, texts: list[TokenIds], expected: Vectors, isa: str, emulated: list[str], tmp_path: Path
) -> None:
    """Emulation is a thousand times slower, so a dozen texts do unless all are asked for."""
    few = slice(None) if TEXTS >= 1000 else slice(1, 13)
    files = [pack, write_plan(pack, tmp_path / "plan"), write_batch(texts[few], tmp_path / "batch")]
    assert run_driver(emulated, isa, files) == digest(expected[few])


@pytest.mark.timeout(0)
def test_the_x86_library_as_a_program(pack: Path, texts: list[TokenIds], expected: Vectors, tmp_path: Path) -> None:
    """The same driver on this machine: what differs under emulation is the machine."""
    target = find_target("x86_64-linux")
    if target.variants[0].table not in ISAS["x86_64-linux"] or "scalar" not in default_library().isas:
        pytest.skip("not an x86-64 machine")
    driver = build_driver(target, target.variants, tmp_path)
    files = [pack, write_plan(pack, tmp_path / "plan"), write_batch(texts, tmp_path / "batch")]
    here = [isa for isa in ISAS["x86_64-linux"] if isa in default_library().isas]
    assert {isa: run_driver([str(driver)], isa, files) for isa in here} == dict.fromkeys(here, digest(expected))
