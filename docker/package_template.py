"""Derives the zip package's template from template.yaml: the same stack, with SnapStart in the place of an image.

What is generated is long-form YAML without comments: template.yaml is the one to read.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Template = dict[str, Any]

FUNCTION = "AWS::Serverless::Function"
# Where Lambda unpacks the zip.
TASK = "/var/task"
VARIABLES = {
    "EMBAKERY_ARTIFACT": f"{TASK}/artifact",
    # As in docker/Dockerfile.
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONNODEBUGRANGES": "1",
}
# https://docs.aws.amazon.com/lambda/latest/dg/snapstart.html#snapstart-runtimes
_MOST_EPHEMERAL_MEGABYTES = 512
_OLDEST_PYTHON = (3, 12)


class TemplateError(Exception):
    """The template has what a zip with SnapStart cannot have. The message says what."""


def derive(template: Template, *, code_uri: str, architecture: str, python: str) -> Template:
    """Return the template of the zip at `code_uri`. Raises TemplateError."""
    derived = deepcopy(template)
    shared = derived["Globals"]["Function"]
    shared |= {"Runtime": f"python{python}", "SnapStart": {"ApplyOn": "PublishedVersions"}}
    shared["Environment"]["Variables"] |= VARIABLES
    for resource in derived["Resources"].values():
        if resource["Type"] == FUNCTION:
            del resource["Metadata"]
            _unpack(resource["Properties"], code_uri)
    # The zip holds one architecture's libraries.
    derived["Parameters"]["Architecture"] |= {"Default": architecture, "AllowedValues": [architecture]}
    _forget_unused_parameters(derived)
    if problems := snapstart_problems(derived):
        raise TemplateError("; ".join(problems))
    return derived


def _unpack(properties: dict[str, Any], code_uri: str) -> None:
    """Turn an image's function into a zip's: `handlers.queue.handler` is served by `handlers.snapstart.queue`."""
    (command,) = properties.pop("ImageConfig")["Command"]
    module = command.rpartition(".")[0]
    properties |= {
        "PackageType": "Zip",
        # In each function: SAM packages no CodeUri of the globals.
        "CodeUri": code_uri,
        "Handler": f"handlers.snapstart.{module.rpartition('.')[2]}",
    }


def _forget_unused_parameters(template: Template) -> None:
    """Drop what only the image's build has read."""
    others = json.dumps({name: part for name, part in template.items() if name != "Parameters"})
    read = set(re.findall(r'"Ref": "(\w+)"', others)) | set(re.findall(r"\$\{(\w+)\}", others))
    template["Parameters"] = {name: facts for name, facts in template["Parameters"].items() if name in read}


def snapstart_problems(template: Template) -> list[str]:
    """Return what keeps functions from having SnapStart, one line each; none if all can."""
    problems = []
    for name, resource in template["Resources"].items():
        if resource["Type"] != FUNCTION:
            continue
        properties = template["Globals"]["Function"] | resource["Properties"]
        if "AutoPublishAlias" not in properties:
            problems.append(f"{name}: no AutoPublishAlias; SnapStart is for published versions only")
        if "ProvisionedConcurrencyConfig" in properties:
            problems.append(f"{name}: ProvisionedConcurrencyConfig excludes SnapStart")
        if "FileSystemConfigs" in properties:
            problems.append(f"{name}: FileSystemConfigs (EFS) excludes SnapStart")
        size = properties.get("EphemeralStorage", {}).get("Size", _MOST_EPHEMERAL_MEGABYTES)
        if not isinstance(size, int) or size > _MOST_EPHEMERAL_MEGABYTES:
            problems.append(f"{name}: EphemeralStorage must be {_MOST_EPHEMERAL_MEGABYTES} MB with SnapStart")
        runtime = str(properties.get("Runtime", ""))
        if tuple(map(int, re.findall(r"\d+", runtime))) < _OLDEST_PYTHON:
            problems.append(f"{name}: {runtime or 'no Runtime'}; SnapStart needs python3.12 or newer")
    return problems


def read(path: Path) -> Template:
    """Read a template; `!Ref` and its like become their long form."""
    template: Template = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
    return template


def write(template: Template, path: Path) -> None:
    """Write a template."""
    text = yaml.dump(template, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    path.write_text(f"# Made from template.yaml by docker/package.py: change that one.\n{text}", encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """Knows CloudFormation's short tags."""


class _Dumper(yaml.SafeDumper):
    """Writes everything out: not all that reads CloudFormation's YAML follows its aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the name is yaml's
        return True


def _long_form(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    if tag in {"Ref", "Condition"}:
        return {tag: value}
    return {f"Fn::{tag}": value.split(".", 1) if tag == "GetAtt" and isinstance(value, str) else value}


_Loader.add_multi_constructor("!", _long_form)
