"""The image's parts agree: template, Dockerfile, .dockerignore and what is in the repository."""

from __future__ import annotations

import ast
import re

from template_source import ROOT, load_template, resources

BUILT_FROM = {"BASE_IMAGE": "BaseImage", "ARTIFACT": "Artifact", "EXTRAS": "Extras"}
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
IN_CONTEXT = {
    line.removeprefix("!")
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line.startswith("!")
}


def copied() -> set[str]:
    """What the Dockerfile copies out of the context by name."""
    lines = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    return {path for paths in lines if not paths[0].startswith("--from=") for path in paths} - {"."}


def test_what_is_copied_is_in_the_context_and_in_the_repository() -> None:
    assert copied() <= IN_CONTEXT
    assert [path for path in sorted(copied()) if not (ROOT / path).exists()] == []


def imported(package: str) -> set[str]:
    """The project's packages that a package imports, anywhere in it."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / package).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names if (ROOT / name.split(".")[0] / "__init__.py").exists()}


def test_what_bakes_in_the_image_is_in_the_context() -> None:
    assert imported("model_bake") == {"embakery", "evaluation", "model_bake"}
    for package in ("model_bake", "evaluation", "embakery"):
        assert imported(package) <= IN_CONTEXT


def test_context_leaves_out_everything_that_is_not_named() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"


def test_commands_name_a_handler_that_exists() -> None:
    for function in resources(load_template(), "AWS::Serverless::Function").values():
        (command,) = function["ImageConfig"]["Command"]
        module, _, name = command.rpartition(".")
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in source


def test_both_functions_are_one_image() -> None:
    every = load_template()["Resources"].values()
    built = [resource["Metadata"] for resource in every if resource["Type"] == "AWS::Serverless::Function"]
    assert built[0] == built[1]
    assert (ROOT / built[0]["Dockerfile"]).is_file()
    assert f"\nFROM ${{BASE_IMAGE}} AS {built[0]['DockerBuildTarget']}\n" in DOCKERFILE


def test_parameters_choose_what_is_built() -> None:
    """SAM looks parameters up in Metadata too; every argument is one of the Dockerfile's."""
    template = load_template()
    arguments = template["Resources"]["QueueFunction"]["Metadata"]["DockerBuildArgs"]
    assert arguments == {name: {"Ref": parameter} for name, parameter in BUILT_FROM.items()}
    assert set(BUILT_FROM) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    defaults = {name: template["Parameters"][parameter]["Default"] for name, parameter in BUILT_FROM.items()}
    assert f"ARG BASE_IMAGE={defaults['BASE_IMAGE']}\n" in DOCKERFILE
    assert defaults["ARTIFACT"] in IN_CONTEXT


def test_image_does_not_run_as_root() -> None:
    (user,) = [line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("USER ")]
    assert user.split(":")[0] not in {"0", "root"}
