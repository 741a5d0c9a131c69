"""The package is made once for the same sources, and kept under build/ for the next run."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path

import package
import pytest
from built_package import Built

ROOT = Path(__file__).parents[2]
# The invariants of template.yaml live there.
sys.path.append(str(ROOT / "tests" / "template"))

SOURCES = ("embakery", "handlers", "storage", "docker")
FILES = ("constraints.txt", "pyproject.toml", "hatch_build.py", "template.yaml")


@pytest.fixture(scope="session")
def built(default_artifact: Path) -> Built:
    """The package of this machine's architecture, for the newest Python that both Lambda and this machine have."""
    architecture = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
    python = next((version for version in ("3.13", "3.12") if package.find_interpreter(version)), "3.13")
    target = package.Target(architecture, python)
    kept = ROOT / "build" / "package-test"
    out = kept / _digest(target, default_artifact)
    if not (out / "done").exists():
        shutil.rmtree(kept, ignore_errors=True)
        try:
            said = package.make(target, default_artifact, out)
            # In the managed runtime, but not here.
            package.install_packages(target, out / "runtime", "awslambdaric")
        except package.PackageError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"the package cannot be made here: {str(error).splitlines()[-1]}")
        (out / "done").write_text(said)
    return Built(target, out, (out / "done").read_text())


def _digest(target: package.Target, artifact: Path) -> str:
    trees = [
        path for name in SOURCES for path in sorted((ROOT / name).rglob("*")) if path.suffix in {".py", ".c", ".h"}
    ]
    digest = hashlib.sha256(repr(target).encode())
    for path in [*trees, *(ROOT / name for name in FILES), artifact / "manifest.json"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
