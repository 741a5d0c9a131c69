"""make package: the zip that Lambda's managed Python runtime runs, with SnapStart; without Docker, on Linux or macOS.

python docker/package.py [--artifact build/all-MiniLM-L6-v2] [--architecture x86_64|arm64] [--python 3.13]
                         [--extras onnx,postgres] [--out build/package]

Writes into --out: embakery.zip; task/, what is in it; template.yaml, which deploys it (`sam deploy --template ...`);
sbom.cdx.json. The same inputs give the same zip, byte for byte, under one version of Python and zlib.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import package_template
import sbom
import trim
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from embakery.artifact import ENGINE_FILES

ROOT = Path(__file__).resolve().parents[1]

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MOST_BYTES = 250 * 2**20
MOST_UPLOADED_BYTES = 50 * 2**20
# Lambda's name of an architecture, and everybody else's.
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
# Amazon Linux 2023, under all managed runtimes that have SnapStart.
_GLIBC_MINORS = range(34, 16, -1)
_ZIP_FROM_UNIX = 3
# How packages came here, with paths of this machine; what they are stays.
_INSTALLATION = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


class PackageError(Exception):
    """The package could not be made. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the package is for: an architecture by Lambda's name, a Python as `3.13`, extras joined by commas."""

    architecture: str
    python: str
    extras: str = ""

    @property
    def requirement(self) -> str:
        """The library with all that the function needs."""
        return f"embakery[{','.join(part for part in ('lambda', self.extras) if part)}]"

    @property
    def markers(self) -> dict[str, str]:
        """What requirements may depend on, there."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": MACHINES[self.architecture],
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }


def main() -> int:
    """Make the package, and say what was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, default=Path("build/all-MiniLM-L6-v2"))
    parser.add_argument("--architecture", choices=MACHINES, default="x86_64")
    parser.add_argument("--python", default="3.13")
    parser.add_argument("--extras", default="")
    parser.add_argument("--out", type=Path, default=Path("build/package"))
    arguments = parser.parse_args()
    target = Target(arguments.architecture, arguments.python, arguments.extras)
    try:
        print(make(target, ROOT / arguments.artifact, ROOT / arguments.out))
    except (PackageError, package_template.TemplateError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make(target: Target, artifact: Path, out: Path) -> str:
    """Make everything and return what it weighs, in words. Raises PackageError and TemplateError."""
    task, archive = out / "task", out / "embakery.zip"
    shutil.rmtree(out, ignore_errors=True)
    install(target, task)
    trim.trim(task, [Requirement(target.requirement)])
    if lacking := missing(task, target):
        raise PackageError(f"not installed, but needed there: {lacking}; run this with Python {target.python} on Linux")
    for path in [path for name in _INSTALLATION for path in task.glob(f"*.dist-info/{name}")]:
        path.unlink()
    for name in ("handlers", "storage"):
        shutil.copytree(ROOT / name, task / name, ignore=shutil.ignore_patterns("__pycache__"))
    copy_artifact(artifact, task / "artifact", with_onnx="onnx" in target.extras.split(","))
    compiled = compile_all(task, target.python)
    check_size(trim.weight(task))
    write_zip(task, archive)
    components = [*map(sbom.package, distributions(path=[str(task)])), *sbom.models(task / "artifact")]
    (out / "sbom.cdx.json").write_text(sbom.document(components), encoding="utf-8")
    template = package_template.read(ROOT / "template.yaml")
    derived = package_template.derive(
        template, code_uri=archive.name, architecture=target.architecture, python=target.python
    )
    package_template.write(derived, out / "template.yaml")
    packages = len(list(task.glob("*.dist-info")))
    return summary(target, packages, trim.weight(task), archive.stat().st_size, compiled=compiled)


def install(target: Target, task: Path) -> None:
    """Install the library, built for the target, and what it needs there. Raises PackageError."""
    with tempfile.TemporaryDirectory(prefix="embakery-package-") as scratch:
        options = ("--no-deps", "--wheel-dir", scratch)
        pip("wheel", *options, str(ROOT), EMBAKERY_TARGET=f"{MACHINES[target.architecture]}-linux")
        (wheel,) = Path(scratch).glob("*.whl")
        install_packages(target, task, str(wheel) + target.requirement.removeprefix("embakery"))


def install_packages(target: Target, folder: Path, *requirements: str) -> None:
    """Install packages as the target's Python would, and what they need. Raises PackageError."""
    machine, tag = MACHINES[target.architecture], f"cp{target.python.replace('.', '')}"
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS] + [f"manylinux2014_{machine}"]
    pip(
        *("install", "--target", str(folder), "--no-compile", "--only-binary=:all:"),
        *("--python-version", target.python, "--implementation", "cp", "--abi", tag, "--abi", "abi3"),
        *(part for platform in platforms for part in ("--platform", platform)),
        *("--constraint", str(ROOT / "constraints.txt"), *requirements),
    )


def missing(task: Path, target: Target) -> list[str]:
    """Return the packages that others need there and that are not in the folder.

    pip and docker/trim.py decide what a requirement depends on by the Python and the system that they run on.
    """
    found = list(distributions(path=[str(task)]))
    have = {canonicalize_name(one.name) for one in found} | trim.LOOSE
    needed = [Requirement(text) for one in found for text in one.requires or ()]
    wanted = {
        canonicalize_name(one.name)
        for one in needed
        if one.marker is None or one.marker.evaluate({**target.markers, "extra": ""})
    }
    return sorted(wanted - have)


def copy_artifact(artifact: Path, to: Path, *, with_onnx: bool) -> None:
    """Copy the artifact, half of it where onnxruntime is not there to read the other. Raises PackageError."""
    if not (artifact / "manifest.json").is_file():
        raise PackageError(f"no artifact in {artifact}: run 'make artifact' first, or give --artifact")
    shutil.copytree(artifact, to)
    for manifest in to.rglob("manifest.json"):
        if with_onnx:
            continue
        if not (manifest.parent / "encoder.pack").is_file():
            raise PackageError("the native engine cannot serve this model: give --extras onnx")
        for name in ENGINE_FILES["onnx"]:
            (manifest.parent / name).unlink(missing_ok=True)


def compile_all(task: Path, python: str) -> bool:
    """Compile to bytecode, where an interpreter of that version is at hand; Lambda's file system is read-only."""
    interpreter = find_interpreter(python)
    if interpreter is None:
        return False
    # Checked by nobody: a zip's files have no times of their own.
    options = ("-q", "--invalidation-mode", "unchecked-hash", "-s", str(task), "-p", package_template.TASK)
    # A fixed order of sets, and no column numbers, as at run time.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONNODEBUGRANGES": "1"}
    run([interpreter, "-m", "compileall", *options, str(task)], environment)
    return True


def find_interpreter(python: str) -> str | None:
    """Return a Python of this version: this one, one on PATH, or one of pyenv's; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [sys.executable, shutil.which(f"python{python}"), *sorted(pyenv.glob(f"{python}.*/bin/python"))]
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in (str(one) for one in candidates if one is not None):
        said = subprocess.run([candidate, "-c", question], capture_output=True, text=True, check=False)  # noqa: S603
        if said.stdout.strip() == python:
            return candidate
    return None


def check_size(unpacked: int) -> None:
    """Raise PackageError for more than Lambda takes."""
    if unpacked > MOST_BYTES:
        advice = "leave extras out, or deploy the image, which may have 10 GB"
        raise PackageError(f"{_mb(unpacked)} unpacked, Lambda takes {_mb(MOST_BYTES)}: {advice}")


def write_zip(folder: Path, archive: Path) -> None:
    """Write a folder's files, the same bytes for the same files: sorted, all of one time, readable by everybody."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with zipfile.ZipFile(archive, "w") as writer:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = _ZIP_FROM_UNIX
            entry.external_attr = 0o100644 << 16
            writer.writestr(entry, path.read_bytes())


def summary(target: Target, packages: int, unpacked: int, zipped: int, *, compiled: bool) -> str:
    """Say what was made."""
    through_s3 = "goes to Lambda through S3, as `sam deploy` does it"
    lines = [
        f"{target.architecture}, Python {target.python}, {packages} packages",
        f"unpacked: {_mb(unpacked)} of {_mb(MOST_BYTES)}",
        f"zip: {_mb(zipped)}, {'may be uploaded as it is' if zipped <= MOST_UPLOADED_BYTES else through_s3}",
    ]
    if not compiled:
        lines.append(f"not compiled to bytecode, which slows INIT: no Python {target.python} was found here")
    return "\n".join(lines)


def _mb(size: int) -> str:
    # As Lambda's limits count.
    return f"{size / 2**20:.1f} MB"


def pip(*arguments: str, **environment: str) -> None:
    """Run pip. Raises PackageError."""
    run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        {**os.environ, **environment},
    )


def run(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run a command. Raises PackageError with the end of what it said."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise PackageError(f"{' '.join(command[:5])} failed\n{said}")


if __name__ == "__main__":
    sys.exit(main())
