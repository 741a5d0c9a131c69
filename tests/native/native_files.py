"""The default model as the C driver reads it, and the digest that it prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embakery.engines.native.build import FLAGS, PLAIN_SOURCES, SOURCES, Target, Variant
from embakery.engines.native.plan import read_plan
from embakery.engines.pack import Pack
from embakery.texts import TokenIds
from embakery.vectors import Vectors

HERE = Path(__file__).parent


def digest(vectors: Vectors) -> str:
    """FNV-1a of the vectors' bytes, as the driver prints it."""
    value = 14695981039346656037
    for byte in np.ascontiguousarray(vectors).tobytes():
        value = (value ^ byte) * 1099511628211 & (1 << 64) - 1
    return f"{value:016x}"


def write_plan(pack: Path, to: Path) -> Path:
    """Write shape and offsets."""
    plan = read_plan(Pack.open(pack))
    to.write_bytes(bytes(plan.shape) + np.array(plan.offsets, np.uint64).tobytes())
    return to


def write_batch(ids: Sequence[TokenIds], to: Path, *, tokens: bool = False) -> Path:
    """Write texts."""
    lengths = [len(one) for one in ids]
    flat = [token for one in ids for token in one]
    to.write_bytes(np.array([len(ids), sum(lengths), int(tokens), *lengths, *flat], np.int32).tobytes())
    return to


def build_driver(target: Target, variants: Sequence[Variant], folder: Path) -> Path:
    """Link the driver with the library's sources, whole, so that an emulator needs nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        target.triple.partition(".")[0].replace("gnu", "musl"),
    ]
    flags = [*FLAGS, f"-I{SOURCES}"]

    def compiled(name: str, source: Path, *extra: str) -> str:
        result = str(folder / f"{name}.o")
        subprocess.run([*compiler, *flags, *extra, "-c", str(source), "-o", result], check=True)
        return result

    objects = [compiled(name, SOURCES / f"{name}.c", f"-mcpu={target.base}") for name in PLAIN_SOURCES]
    objects.append(compiled("driver", HERE / "driver.c", f"-mcpu={target.base}"))
    for variant in variants:
        macros = (f"-D{variant.macro}", f"-DEMBK_TABLE={variant.table}")
        objects.append(compiled(variant.table, SOURCES / "kernels.c", f"-mcpu={variant.cpu}", *macros, *variant.flags))
    subprocess.run([*compiler, "-static", *objects, "-o", str(folder / "driver"), "-lm"], check=True)
    return folder / "driver"


def run_driver(command: Sequence[str], isa: str, files: Sequence[Path]) -> str:
    """Return the digest that the driver prints."""
    done = subprocess.run([*command, isa, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
