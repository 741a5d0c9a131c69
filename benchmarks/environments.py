"""A virtual environment for each file of requirements/, made once under build/bench/."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.process import SystemFailedError

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
_REQUIREMENTS = Path(__file__).parent / "requirements"
_STAMP = ".installed"
# What the library's own environment is made of beyond its file: when that changes, it is made anew.
_OF_THE_LIBRARY = ("pyproject.toml", "hatch_build.py", "embakery/**/*.py", "embakery/**/*.c", "embakery/**/*.h")


@dataclass(frozen=True, slots=True)
class Environment:
    """An installed environment."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def megabytes(self) -> float:
        """Return the size of all that was installed into it; Python itself is not in it, nor is pip."""
        return megabytes(self.folder)

    def versions(self, packages: Sequence[str]) -> dict[str, str]:
        """Return the versions of these packages, as far as they are installed."""
        return {name: found.version for name in packages for found in distributions(name=name, path=[self._site()])}

    def installed(self) -> set[str]:
        """Return the names of all installed packages, in their canonical spelling."""
        return {_canonical(found.name) for found in distributions(path=[self._site()])}

    def _site(self) -> str:
        (site,) = self.folder.glob("lib/python*/site-packages")
        return str(site)


def prepare_environment(name: str) -> Environment:
    """Return the environment of requirements/NAME.txt; install it if need be. Raises SystemFailedError."""
    environment = Environment(BUILD / "environments" / name)
    stamp = environment.folder / _STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == _digest(name, environment):
        return environment
    shutil.rmtree(environment.folder, ignore_errors=True)
    print(f"set-up: packages for {name}", file=sys.stderr)
    # Without pip: it would count in the size, and this environment's own pip can install into another.
    _run(name, sys.executable, "-m", "venv", "--without-pip", str(environment.folder))
    pip = (sys.executable, "-m", "pip", "--python", str(environment.python), "--disable-pip-version-check")
    _run(name, *pip, "install", "--quiet", "-r", str(_REQUIREMENTS / f"{name}.txt"))
    stamp.write_text(_digest(name, environment), encoding="utf-8")
    return environment


def megabytes(folder: Path) -> float:
    """Return the size of a folder's files, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def quiet_environment(threads: int) -> dict[str, str]:
    """Return environment variables for a system's processes: so many threads, no network, nothing reported."""
    threaded = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(threaded, str(threads)),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        # OpenVINO's telemetry is silent where it sees this.
        "CI": "true",
    }


def _digest(name: str, environment: Environment) -> str:
    """Tell whether anything has changed that went into an installed environment."""
    requirements = _REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes())
    digest.update("".join(_constraints(environment.installed())).encode())
    if "." in requirements.read_text(encoding="utf-8").splitlines():
        for path in (path for pattern in _OF_THE_LIBRARY for path in sorted(ROOT.glob(pattern))):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _constraints(packages: Collection[str]) -> Iterator[str]:
    """Yield the lines of constraints.txt that speak of these packages: a new linter concerns no peer."""
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if _canonical(line.partition("==")[0]) in packages:
            yield line


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _run(name: str, *command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise SystemFailedError(f"environment {name}: {'; '.join(said[-2:])}")
