"""What the image is made with: trimming packages, and the list of what is left."""

from __future__ import annotations

import json
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import sbom
import trim
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def install(folder: Path, name: str, *requires: str, extras: tuple[str, ...] = ()) -> None:
    """Install a package of one module, as pip records it."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    module = folder / name.replace("-", "_")
    module.mkdir()
    (module / "__init__.py").write_text("")
    lines = [f"Name: {name}", "Version: 1.0", "Metadata-Version: 2.4", "License-Expression: MIT"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {one}" for one in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "RECORD").write_text(f"{module.name}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "python"
    folder.mkdir()
    install(folder, "app", "tokenizers", "cache; extra == 'lambda'", "tester; extra == 'dev'", extras=("lambda", "dev"))
    install(folder, "tokenizers", "huggingface-hub")
    install(folder, "huggingface-hub", "requests")
    for name in ("requests", "cache", "tester"):
        install(folder, name)
    return folder


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".dist-info")}


def trimmed(folder: Path, monkeypatch: pytest.MonkeyPatch, *roots: str) -> set[str]:
    arguments = [part for root in roots for part in ("--root", root)]
    monkeypatch.setattr("sys.argv", ["trim.py", str(folder), *arguments])
    trim.main()
    return left(folder)


def test_what_no_root_needs_goes_and_loose_ends_are_not_followed(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trimmed(packages, monkeypatch, "app[lambda]") == {"app", "tokenizers", "cache"}


def test_an_extra_brings_what_it_needs(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trimmed(packages, monkeypatch, "app[lambda,dev]") == {"app", "tokenizers", "cache", "tester"}


def test_services_that_nothing_calls_go(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(packages, "botocore")
    for service in ("s3", "ec2"):
        (packages / "botocore" / "data" / service).mkdir(parents=True)
    (packages / "botocore" / "data" / "endpoints.json").write_text("{}")
    trimmed(packages, monkeypatch, "app", "botocore")
    assert left(packages / "botocore" / "data") == {"s3", "endpoints.json"}


def test_every_service_that_the_function_opens_is_kept() -> None:
    opened = set()
    for file in [*(ROOT / "storage").glob("*.py"), *(ROOT / "handlers").glob("*.py")]:
        text = file.read_text(encoding="utf-8")
        opened |= {name for name in trim.AWS_SERVICES | {"batch", "ec2", "kms", "ssm"} if f'client("{name}"' in text}
    assert {"dynamodb", "s3", "sqs", "secretsmanager"} <= opened <= trim.AWS_SERVICES


def test_requirements_with_no_package_are_not_overlooked(packages: Path) -> None:
    found = {name: found for name, found in _installed(packages).items() if name != "cache"}
    with pytest.raises(KeyError, match="cache"):
        trim.needed([Requirement("app[lambda]")], found)


def test_the_list_is_whole_valid_and_the_same_each_time(
    packages: Path, default_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian = tmp_path / "status"
    debian.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    documents = [written(packages, default_artifact, debian, tmp_path / name, monkeypatch) for name in "ab"]
    assert documents[0] == documents[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(documents[0]) is None
    components = {component["name"]: component for component in json.loads(documents[0])["components"]}
    manifest = json.loads((default_artifact / "manifest.json").read_bytes())
    assert set(components) == left(packages) - {"huggingface_hub"} | {
        "huggingface-hub", "python", "libc6", manifest["model_id"],
    }  # fmt: skip
    assert components["cache"]["purl"] == "pkg:pypi/cache@1.0"
    assert components["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9?arch=amd64"
    model = components[manifest["model_id"]]
    facts: dict[str, Any] = {entry["name"]: entry["value"] for entry in model["properties"]}
    assert (model["type"], facts["embakery:space_id"]) == ("machine-learning-model", manifest["space_id"])
    assert facts["embakery:sha256:encoder.pack"] == manifest["files"]["encoder.pack"]["sha256"]


def written(packages: Path, artifact: Path, debian: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folders = {"--packages": packages, "--artifact": artifact, "--debian": debian, "--out": out}
    monkeypatch.setattr("sys.argv", ["sbom.py", *(str(part) for option in folders.items() for part in option)])
    sbom.main()
    return out.read_text(encoding="utf-8")


def _installed(folder: Path) -> Any:
    return {canonicalize_name(found.name): found for found in distributions(path=[str(folder)])}
