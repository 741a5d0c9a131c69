"""The wheel carries the library and nothing to compile it with; for another machine it carries that one's."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from embakery.engines.native.build import find_target, this_target

ROOT = Path(__file__).parents[2]
NATIVE = "embakery/engines/native/"


def build_wheel(folder: Path, **environment: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, env={**os.environ, **environment})
    (wheel,) = folder.iterdir()
    return wheel


def machine(library: bytes) -> int:
    """An ELF file's e_machine."""
    assert library[:4] == b"\x7fELF"
    return int.from_bytes(library[18:20], "little")


def test_what_pip_installs_serves_with_the_native_engine(tmp_path: Path, default_artifact: Path) -> None:
    target = this_target()
    if target is None:
        pytest.skip("no native engine for this machine")
    wheel = build_wheel(tmp_path / "wheel")
    assert wheel.name.endswith(f"-py3-none-{target.tag}.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert f"{NATIVE}{target.library}" in names
    assert [name for name in names if name.endswith((".c", ".h", "build.py"))] == []
    installed = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", installed, wheel], check=True
    )
    script = (
        f"import embakery; from embakery import Embedder; embedder = Embedder.load({str(default_artifact)!r})\n"
        "print(embakery.__file__, embedder.engine.name, embedder.golden_matches)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(installed / "embakery" / "__init__.py"), "native", "True"]


def test_a_wheel_for_the_other_architecture_of_lambda(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, EMBAKERY_TARGET="aarch64-linux")
    assert wheel.name.endswith("-py3-none-manylinux_2_28_aarch64.whl")
    aarch64 = 183
    assert machine(zipfile.ZipFile(wheel).read(f"{NATIVE}libembakery.so")) == aarch64


def test_an_unknown_machine_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no target 'vax-vms': only x86_64-linux, aarch64-linux, "):
        find_target("vax-vms")
