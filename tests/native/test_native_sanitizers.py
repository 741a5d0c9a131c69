"""The C sources under the sanitizers of clang-19, and a fuzzer that has them all look on.

EMBAKERY_FUZZ_SECONDS=3600 lets it run for longer than its 20 seconds.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from native_files import HERE, digest, run_driver, write_batch, write_plan
from native_models import DESIGNS, SEED, Design, random_texts, write_model
from system_tools import need

from embakery.artifact import PACK, Artifact
from embakery.engines.native.build import FLAGS, PLAIN_SOURCES, SOURCES, Variant, this_target
from embakery.engines.native.engine import NativeEngine
from embakery.engines.native.library import default_library
from embakery.texts import TokenIds, TokenizedText

FUZZ_SECONDS = int(os.environ.get("EMBAKERY_FUZZ_SECONDS", "20"))
LONGEST_INPUT = 256

ISAS = default_library().isas

_COVERED = "-fsanitize=fuzzer-no-link"
# These look at every pointer, of which an unrolled loop has thousands: minutes of compiling, and ten times slower.
_NOT_POINTERS = "-fno-sanitize=alignment,null,object-size,pointer-overflow"


@dataclass(frozen=True, slots=True)
class Sanitizer:
    """How to build with one. unrolled: keeps unrolled code from being blown up. scalar: for the reference."""

    flags: tuple[str, ...]
    unrolled: tuple[str, ...] = ()
    scalar: tuple[str, ...] = ()


ADDRESS = Sanitizer(
    ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    ("-mllvm", "-asan-instrumentation-with-call-threshold=0", _NOT_POINTERS),
    (_COVERED, _NOT_POINTERS),
)
# It cannot follow what a function of libm returns, and libFuzzer's coverage makes a call of every fma.
MEMORY = Sanitizer(("-fsanitize=memory",))
THREAD = Sanitizer(("-fsanitize=thread",))


class Builder:
    """Compiles the library's sources once and links programs with them."""

    def __init__(self, sanitizer: Sanitizer, variants: Sequence[Variant], folder: Path) -> None:
        self._compiler, self._sanitizer, self._folder = need("clang-19"), sanitizer, folder
        self._variants = variants
        plain = [(name, SOURCES / f"{name}.c", (_COVERED,)) for name in PLAIN_SOURCES]
        kernels = [(variant.table, SOURCES / "kernels.c", self._variant_flags(variant)) for variant in variants]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            self._objects = list(pool.map(lambda job: self._compile(*job), [*kernels, *plain]))

    def program(self, name: str, *flags: str) -> Path:
        """Link one of the programs beside this file. flags: for the linker."""
        program = self._folder / name
        main = self._compile(f"main-{name}", HERE / f"{name}.c", (_COVERED, f"-I{SOURCES}"))
        options = (*self._sanitizer.flags, *flags, *self._absent(), "-lm", "-lpthread", "-o", str(program))
        self._run(*self._objects, main, *options)
        return program

    def _variant_flags(self, variant: Variant) -> tuple[str, ...]:
        macros = (f"-D{variant.macro}", f"-DEMBK_TABLE={variant.table}")
        if variant.table == "scalar":
            return (*macros, "-O2", *self._sanitizer.scalar)
        cpu = variant.cpu.replace("_", "-")
        return (*macros, *self._sanitizer.unrolled, f"-march={cpu}" if "avx" in variant.table else f"-mcpu={cpu}")

    def _absent(self) -> list[str]:
        """The table of instruction sets names all of them; let scalar C stand for those that are not built."""
        target = this_target()
        assert target is not None
        built = {variant.table for variant in self._variants}
        names = [variant.table for variant in target.variants if variant.table not in built]
        return [f"-Wl,--defsym=embk_kernels_{name}=embk_kernels_scalar" for name in names]

    def _compile(self, name: str, source: Path, flags: tuple[str, ...]) -> str:
        result = str(self._folder / f"{name}.o")
        common = (*FLAGS, "-O1", "-gline-tables-only", "-Wno-pass-failed", *self._sanitizer.flags)
        self._run(*common, *flags, "-c", str(source), "-o", result)
        return result

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self._compiler, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def variants_here(*tables: str) -> list[Variant]:
    """The variants of this machine's target, all or those named."""
    target = this_target()
    if target is None:
        pytest.skip("this machine is no target of the engine")
    return [variant for variant in target.variants if not tables or variant.table in tables]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(ADDRESS, variants_here(), tmp_path_factory.mktemp("address"))


# MemorySanitizer guesses what AVX2's horizontal sums do, and guesses wrong.
WITHOUT_SUMS = [isa for isa in ISAS if isa in ("avx512_vnni", "avx_vnni")][:1]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(MEMORY, variants_here("scalar", *WITHOUT_SUMS), tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(THREAD, variants_here("scalar"), tmp_path_factory.mktemp("thread"))


@dataclass(frozen=True, slots=True)
class Case:
    """Files for a program, and the digest that it is to print."""

    files: tuple[Path, Path, Path]
    digest: str


def make_case(folder: Path, pack: Path, texts: Sequence[TokenIds], *, tokens: bool = False) -> Case:
    """Encode here, with the library that is shipped."""
    engine = NativeEngine(pack, threads=1)
    vectors = np.concatenate(engine.encode_tokens(texts)) if tokens else engine.encode(texts)
    engine.close()
    files = (pack, write_plan(pack, folder / "plan"), write_batch(texts, folder / "batch", tokens=tokens))
    return Case(files, digest(vectors))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Case]:
    """Models of every shape; every other one gives token vectors."""

    def case(number: int, design: Design) -> Case:
        folder = tmp_path_factory.mktemp(design.name)
        pack = write_model(design, folder / "pack")
        return make_case(folder, pack, random_texts(design), tokens=number % 2 == 1)

    return {design.name: case(number, design) for number, design in enumerate(DESIGNS)}


@pytest.fixture(scope="module")
def few(cases: Mapping[str, Case]) -> Mapping[str, Case]:
    """Some of them, for three threads on two cores that wait for each other most of the time."""
    return {name: cases[name] for name in ("head8", "head12", "steps")}


def compare(program: Path, isa: str, cases: Mapping[str, Case]) -> None:
    """A sanitizer's report ends the program, with its words in the assertion."""
    found = {name: run_driver([str(program)], isa, case.files) for name, case in cases.items()}
    assert found == {name: case.digest for name, case in cases.items()}


@pytest.fixture(autouse=True)
def sanitizers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search for leaks: the driver frees nothing of its own. Reports with names and lines, where that can be had."""
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")
    symbolizer = shutil.which("llvm-symbolizer-19") or shutil.which("llvm-symbolizer")
    for name in ("ASAN", "MSAN", "TSAN", "UBSAN"):
        if symbolizer is not None:
            monkeypatch.setenv(f"{name}_SYMBOLIZER_PATH", symbolizer)


@pytest.mark.parametrize("isa", ISAS)
def test_no_wrong_address_and_nothing_undefined(address: Builder, cases: Mapping[str, Case], isa: str) -> None:
    compare(address.program("driver"), isa, cases)


@pytest.fixture(scope="module")
def real(default_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    texts = ["Fresh bread at seven.", "a", "The oven is hot, the dough has risen; what else does a bakery need?"]
    tokenized = Artifact.load(default_artifact).tokenizer().tokenize(texts, input_type="document")
    ids = [item.ids for item in tokenized if isinstance(item, TokenizedText)]
    assert [len(one) for one in ids] == [7, 3, 19]
    return make_case(tmp_path_factory.mktemp("real"), default_artifact / PACK, ids)


@pytest.mark.parametrize("isa", ISAS)
def test_the_default_model_on_real_texts(address: Builder, real: Case, isa: str) -> None:
    compare(address.program("driver"), isa, {"real": real})


@pytest.mark.parametrize("isa", WITHOUT_SUMS)
def test_nothing_that_was_never_written_is_used(memory: Builder, cases: Mapping[str, Case], isa: str) -> None:
    """Three threads in memory fresh from malloc, of which only the first 64 bytes are zeroed."""
    compare(memory.program("team"), isa, cases)


def test_nothing_that_was_never_written_is_used_by_scalar_c(memory: Builder, few: Mapping[str, Case]) -> None:
    compare(memory.program("team"), "scalar", few)


def test_threads_do_not_race(thread: Builder, few: Mapping[str, Case]) -> None:
    """In a team, apart from each other on one model, and as a crew."""
    compare(thread.program("team"), "scalar", few)


def fuzz(program: Path, folder: Path, *limits: str) -> int:
    """Run the fuzzer from random inputs and return how many it tried. Fails with its report."""
    draw = random.Random(SEED)
    for name in ("seeds", "corpus"):
        (folder / name).mkdir()
    for number in range(64):
        (folder / "seeds" / str(number)).write_bytes(draw.randbytes(LONGEST_INPUT * 2 // 3))
    options = ("-timeout=60", "-rss_limit_mb=3000", "-len_control=0", f"-max_len={LONGEST_INPUT}", f"-seed={SEED}")
    command = [str(program), *options, "-print_final_stats=1", "-verbosity=0", f"-artifact_prefix={folder}/", *limits]
    command += [str(folder / "corpus"), str(folder / "seeds")]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}  # the library's are leaks
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
    assert done.returncode == 0, done.stderr[-8000:]
    counted = re.search(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    assert counted is not None, done.stderr[-2000:]
    return int(counted[1])


Record = Callable[[str, object], None]


@pytest.mark.timeout(0)
def test_fuzzing_finds_nothing(address: Builder, tmp_path: Path, record_property: Record) -> None:
    program = address.program("fuzz_encode", "-fsanitize=fuzzer")
    inputs = fuzz(program, tmp_path, f"-max_total_time={FUZZ_SECONDS}")
    record_property("fuzz_inputs", inputs)
    print(f"fuzz_encode: {inputs} inputs in {FUZZ_SECONDS} seconds")
    assert inputs > 200


def test_fuzzing_finds_nothing_unwritten(memory: Builder, tmp_path: Path, record_property: Record) -> None:
    inputs = fuzz(memory.program("fuzz_encode", "-fsanitize=fuzzer"), tmp_path, "-runs=500")
    record_property("fuzz_inputs", inputs)
    assert inputs >= 500
