"""Removes from a folder of installed packages what the function never loads.

    python docker/trim.py /opt/python --root 'embakery[lambda]' --root awslambdaric

- packages that no root needs, once LOOSE requirements are not followed;
- AWS services that nothing here calls: botocore describes some 400, and takes time to list them;
- tests, type stubs, headers and static libraries.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

# tokenizers wants the hub's client to fetch tokenizers by name; here they come from files.
LOOSE = frozenset({canonicalize_name("huggingface-hub")})
AWS_SERVICES = frozenset({"dynamodb", "s3", "s3vectors", "secretsmanager", "sqs", "sts"})
UNLOADED = ("**/tests", "**/*.pyi", "**/*.h", "**/*.a", "**/*.pyx", "**/*.pxd", "bin")


def main() -> None:
    """Trim the folder, and say what it weighs then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", action="append", type=Requirement, required=True)
    arguments = parser.parse_args()
    trim(arguments.folder, arguments.root)
    print(f"{weight(arguments.folder) / 1e6:.0f} MB left")


def trim(folder: Path, roots: list[Requirement]) -> None:
    """Remove what the roots never load."""
    installed = {canonicalize_name(found.name): found for found in distributions(path=[str(folder)])}
    for name in sorted(installed.keys() - needed(roots, installed)):
        remove(installed[name])
        print(f"removed {name}")
    services = [path for sdk in ("boto3", "botocore") for path in folder.glob(f"{sdk}/data/*") if path.is_dir()]
    unloaded = [path for pattern in UNLOADED for path in folder.glob(pattern)]
    for path in [*(path for path in services if path.name not in AWS_SERVICES), *unloaded]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def weight(folder: Path) -> int:
    """Return the size of all files, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def needed(roots: list[Requirement], installed: Mapping[NormalizedName, Distribution]) -> set[NormalizedName]:
    """Return the names of the roots and of all that they need."""
    found: dict[NormalizedName, set[str]] = {}
    waiting = list(roots)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = found.setdefault(name, set())
        if name in LOOSE or (extras and extras >= requirement.extras | {""}):
            continue
        extras |= requirement.extras | {""}
        waiting += _requirements(installed[name], extras)
    return set(found) - LOOSE


def _requirements(distribution: Distribution, extras: set[str]) -> Iterator[Requirement]:
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement


def remove(distribution: Distribution) -> None:
    """Remove every file of a package, and the folders that this leaves empty."""
    folder = Path(str(distribution.locate_file("")))
    paths = [Path(str(file.locate())) for file in distribution.files or ()]
    for path in paths:
        path.unlink(missing_ok=True)
    for parent in sorted(
        {parent for path in paths for parent in path.parents if folder in parent.parents}, reverse=True
    ):
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


if __name__ == "__main__":
    main()
