"""The zip's template is template.yaml but for what a zip and SnapStart need."""

from __future__ import annotations

import os
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import invariants_access as access
import invariants_data as data
import invariants_queue as queue
import invariants_watch as watch
import package_template
import pytest
from template_source import Invariant, functions, load_template

from handlers import snapstart

ROOT = Path(__file__).parents[2]
SAM = ROOT / ".venv-sam" / "bin"
# Read by numpy and by Python, not by us.
FOREIGN = ("OPENBLAS_NUM_THREADS", "PYTHONNODEBUGRANGES")


def derive(template: dict[str, Any]) -> dict[str, Any]:
    return package_template.derive(template, code_uri="embakery.zip", architecture="arm64", python="3.13")


@pytest.fixture(scope="module")
def derived() -> dict[str, Any]:
    return derive(load_template())


def test_it_is_read_as_the_tests_of_the_template_read_it() -> None:
    assert package_template.read(ROOT / "template.yaml") == load_template()


def test_functions_are_zips_with_snapstart(derived: dict[str, Any]) -> None:
    for function in functions(derived).values():
        assert function["PackageType"] == "Zip"
        assert (function["CodeUri"], function["Runtime"]) == ("embakery.zip", "python3.13")
        assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}
        assert function["AutoPublishAlias"]
        assert function["Environment"]["Variables"]["EMBAKERY_ARTIFACT"] == "/var/task/artifact"
        module, _, name = function["Handler"].rpartition(".")
        assert module == "handlers.snapstart"
        assert callable(getattr(snapstart, name))


def test_all_else_is_template_yaml(derived: dict[str, Any]) -> None:
    template = load_template()
    for name, resource in template["Resources"].items():
        was, now = resource.get("Properties", {}), derived["Resources"][name].get("Properties", {})
        if resource["Type"] == package_template.FUNCTION:
            changed = {"PackageType", "ImageConfig", "CodeUri", "Handler"}
            was, now = ({key: part[key] for key in part.keys() - changed} for part in (was, now))
        assert was == now
    assert derived["Resources"].keys() == template["Resources"].keys()
    assert derived.get("Outputs") == template.get("Outputs")
    assert (
        derived["Parameters"].items()
        <= (template["Parameters"] | {"Architecture": derived["Parameters"]["Architecture"]}).items()
    )
    assert derived["Parameters"]["Architecture"]["AllowedValues"] == ["arm64"]


def test_nothing_of_the_image_is_left(derived: dict[str, Any]) -> None:
    assert not {"Metadata", "ImageConfig", "ImageUri"} & {key for key, _ in walk(derived)}
    read = {value for key, value in walk(derived) if key == "Ref"}
    assert not {"BaseImage", "Artifact", "Extras"} & (derived["Parameters"].keys() | read)


def walk(node: Any) -> list[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    children = (
        list(node.items()) if isinstance(node, dict) else [("", one) for one in node] if isinstance(node, list) else []
    )
    return [*children, *(pair for _, child in children for pair in walk(child))]


@pytest.mark.parametrize(
    "invariant",
    [*queue.INVARIANTS, *watch.INVARIANTS, *access.INVARIANTS, *data.INVARIANTS],
    ids=lambda invariant: invariant.__name__,
)
def test_it_holds_what_the_template_holds(derived: dict[str, Any], invariant: Invariant) -> None:
    assert [line for line in invariant(deepcopy(derived)) if not line.endswith(FOREIGN)] == []


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ({"FileSystemConfigs": [{"LocalMountPath": "/mnt/models"}]}, "FileSystemConfigs (EFS) excludes SnapStart"),
        ({"ProvisionedConcurrencyConfig": {}}, "ProvisionedConcurrencyConfig excludes SnapStart"),
        ({"EphemeralStorage": {"Size": 513}}, "EphemeralStorage must be 512 MB with SnapStart"),
        ({"Runtime": "python3.11"}, "python3.11; SnapStart needs python3.12 or newer"),
    ],
)
def test_what_snapstart_cannot_is_refused(properties: dict[str, Any], problem: str) -> None:
    template = load_template()
    template["Resources"]["ApiFunction"]["Properties"] |= properties
    with pytest.raises(package_template.TemplateError) as caught:
        derive(template)
    assert str(caught.value) == f"ApiFunction: {problem}"


def test_snapstart_wants_versions() -> None:
    template = load_template()
    every = [
        template["Globals"]["Function"],
        *(one["Properties"] for one in template["Resources"].values() if "Properties" in one),
    ]
    for properties in every:
        properties.pop("AutoPublishAlias", None)
    with pytest.raises(package_template.TemplateError, match="ApiFunction: no AutoPublishAlias; SnapStart is for"):
        derive(template)


def test_what_is_written_is_what_was_derived(derived: dict[str, Any], tmp_path: Path) -> None:
    package_template.write(derived, tmp_path / "template.yaml")
    assert package_template.read(tmp_path / "template.yaml") == derived


@pytest.mark.parametrize("tool", ["cfn-lint", "sam"])
def test_it_passes_the_linters(derived: dict[str, Any], tmp_path: Path, tool: str) -> None:
    if not (SAM / tool).exists():
        if os.environ.get("CI") == "true":
            pytest.fail("no .venv-sam; make test sets it up")
        pytest.skip("no .venv-sam: make check sets it up")
    package_template.write(derived, tmp_path / "template.yaml")
    arguments = ["validate", "--lint", "--region", "us-east-1", "--template"] if tool == "sam" else []
    done = subprocess.run(
        [SAM / tool, *arguments, tmp_path / "template.yaml"],
        env={**os.environ, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
