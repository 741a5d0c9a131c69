"""Builds the native engine's library, for this machine or for others.

    python build.py [TARGET ...] [--out DIR]

The compiler is clang, from the `ziglang` wheel: the same one on every machine, for every target. Only the standard
library is needed beside it, because this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent

# Lanes say what is fused and in which order, so the compiler must not; and nothing is assumed of NaN and infinity.
FLAGS = (
    *("-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-sanitize=all"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-psabi"),
)
# What does not depend on the instruction set, and decides which one is used.
PLAIN_SOURCES = ("model", "encode", "crew", "isa")


@dataclass(frozen=True, slots=True)
class Variant:
    """kernels.c for one instruction set.

    table: the name that EMBAKERY_ISA takes. macro: chooses the integer product.
    """

    table: str
    cpu: str
    macro: str
    flags: tuple[str, ...] = ()


X86_VARIANTS = (
    Variant("avx512_vnni", "cascadelake", "EMBK_AVX512_VNNI", ("-mprefer-vector-width=512",)),
    Variant("avx_vnni", "alderlake", "EMBK_AVX_VNNI"),
    Variant("avx2", "haswell", "EMBK_AVX2"),
    Variant("scalar", "x86_64", "EMBK_SCALAR", ("-O2", "-fno-unroll-loops")),
)
ARM_VARIANTS = (
    Variant("neon_i8mm", "neoverse_v1", "EMBK_NEON_I8MM"),
    Variant("neon_dot", "neoverse_n1", "EMBK_NEON_DOT"),
    Variant("scalar", "generic", "EMBK_SCALAR", ("-O2", "-fno-unroll-loops")),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to build for. triple: zig's name of it. tag: the wheels' name of it. base: its plainest CPU."""

    name: str
    triple: str
    tag: str
    base: str
    variants: tuple[Variant, ...]
    library: str = "libembakery.so"
    options: tuple[str, ...] = ("-lm", "-lpthread")


_MAC = ("libembakery.dylib", ("-Wl,-install_name,@rpath/libembakery.dylib",))
TARGETS = (
    Target("x86_64-linux", "x86_64-linux-gnu.2.28", "manylinux_2_28_x86_64", "x86_64", X86_VARIANTS),
    Target("aarch64-linux", "aarch64-linux-gnu.2.28", "manylinux_2_28_aarch64", "generic", ARM_VARIANTS),
    Target("aarch64-macos", "aarch64-macos.11.0", "macosx_11_0_arm64", "generic", ARM_VARIANTS, *_MAC),
    Target("x86_64-macos", "x86_64-macos.11.0", "macosx_11_0_x86_64", "x86_64", X86_VARIANTS, *_MAC),
)


# An object's name, its source, its CPU and what else the compiler is told.
_Job = tuple[str, str, str, tuple[str, ...]]


def this_target() -> Target | None:
    """Return the target that this machine is, None if it is none of them."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    system = {"darwin": "macos"}.get(sys.platform, sys.platform)
    return next((target for target in TARGETS if target.name == f"{machine}-{system}"), None)


def find_target(name: str) -> Target:
    """Return a target by its name. Raises ValueError."""
    found = next((target for target in TARGETS if target.name == name), None)
    if found is None:
        raise ValueError(f"no target {name!r}: only {', '.join(target.name for target in TARGETS)}")
    return found


def build(target: Target, folder: Path, *, extra: tuple[str, ...] = ()) -> Path:
    """Build a target's library into a folder and return its path. extra: more flags for the compiler.

    Raises RuntimeError with the compiler's words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="embakery-native-") as scratch:
        jobs: list[_Job] = [(name, f"{name}.c", target.base, ()) for name in PLAIN_SOURCES]
        for variant in target.variants:
            macros = (f"-D{variant.macro}", f"-DEMBK_TABLE={variant.table}")
            jobs.append((variant.table, "kernels.c", variant.cpu, (*macros, *variant.flags)))

        def compile_one(job: _Job) -> str:
            name, source, cpu, flags = job
            result = str(Path(scratch) / f"{name}.o")
            _cc(target, f"-mcpu={cpu}", *FLAGS, *flags, *extra, "-c", str(SOURCES / source), "-o", result)
            return result

        # The slow ones first.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, jobs[::-1]))
        # Linked under another name first: a running process may have the old one mapped.
        fresh = folder / f".{target.library}.new"
        _cc(target, "-shared", "-s", *sorted(objects), *target.options, "-o", str(fresh))
        return fresh.replace(folder / target.library)


def _cc(target: Target, *arguments: str) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target.triple, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def main() -> None:
    """Build what is asked for; each into a folder of its own below --out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="; ".join(target.name for target in TARGETS))
    parser.add_argument("--out", type=Path, default=None, help="default: beside the sources, where the package looks")
    options = parser.parse_args()
    here = this_target()
    targets = [find_target(name) for name in options.targets] or ([here] if here is not None else [])
    if not targets:
        parser.error("this machine is none of the targets: name one")
    if options.out is None and targets != [here]:
        parser.error("libraries for other machines need --out")
    for target in targets:
        print(build(target, SOURCES if options.out is None else options.out / target.name))


if __name__ == "__main__":
    main()
