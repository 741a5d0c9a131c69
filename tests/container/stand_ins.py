"""Packages in front of the real ones, by PYTHONPATH: an image that lacks something, or has the wrong one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from local.environment import SOURCE_ROOT

_MACHINES = {"x86_64": "aarch64-linux", "aarch64": "x86_64-linux"}


def lacking(folder: Path, *packages: str) -> dict[str, str]:
    """Return the environment of a process that has not got some packages."""
    folder.mkdir(exist_ok=True)
    for name in packages:
        text = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        (folder / f"{name}.py").write_text(text)
    return python_path(folder)


def other_machines_library(folder: Path) -> Path:
    """Build the native engine for the other architecture and return a folder with the package around it."""
    target = _MACHINES[os.uname().machine]
    source = SOURCE_ROOT / "embakery"
    command = [sys.executable, str(source / "engines/native/build.py"), target, "--out", str(folder / "built")]
    subprocess.run(command, check=True, capture_output=True)
    package = folder / "package"
    shutil.copytree(source, package / "embakery", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(folder / "built" / target / "libembakery.so", package / "embakery/engines/native")
    return package


def python_path(*folders: Path) -> dict[str, str]:
    """Return the environment of a process that looks into folders before the sources."""
    return {"PYTHONPATH": os.pathsep.join([*map(str, folders), str(SOURCE_ROOT)])}
