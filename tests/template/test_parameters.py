"""What can be chosen and what comes out: parameters, their document, samconfig.toml, outputs."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from intrinsics import broken_rules
from template_source import ROOT, load_template, referred, resources

CONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))
ENVIRONMENTS = ["default", "prod"]
# CloudFormation finds a whole template too long beyond this.
MOST_BYTES, MOST_PARAMETERS, MOST_OUTPUTS = 1_000_000, 200, 200


def overrides(environment: str) -> dict[str, str]:
    listed = CONFIG[environment]["deploy"]["parameters"].get("parameter_overrides", [])
    return dict(entry.split("=", 1) for entry in listed)


def test_document_lists_every_parameter_with_its_default() -> None:
    text = (ROOT / "docs/template.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\| \S", text, re.MULTILINE)
    declared = load_template()["Parameters"].items()
    assert rows == [(name, str(parameter["Default"])) for name, parameter in declared]


@pytest.mark.parametrize(("name", "parameter"), load_template()["Parameters"].items())
def test_default_is_one_of_the_values_that_are_allowed(name: str, parameter: dict[str, Any]) -> None:
    assert {"Description", "Type", "Default"} <= parameter.keys()
    allowed(parameter, str(parameter["Default"]))


def allowed(parameter: dict[str, Any], value: str) -> None:
    assert value in map(str, parameter.get("AllowedValues", [value]))
    assert re.fullmatch(parameter.get("AllowedPattern", ".*"), value)
    assert len(value) <= parameter.get("MaxLength", 4096)
    if parameter["Type"] == "Number":
        assert parameter.get("MinValue", 0) <= int(value) <= parameter.get("MaxValue", int(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KmsKeyArn", "alias/embakery"),
        ("KmsKeyArn", "arn:aws:kms:eu-central-1:123456789012:alias/embakery"),
        ("RedisIamCacheName", "Vectors"),
        ("VpcId", "subnet-1"),
        ("AlarmTopicArn", "operations"),
    ],
)
def test_pattern_refuses_what_would_fail_later(name: str, value: str) -> None:
    assert not re.fullmatch(load_template()["Parameters"][name]["AllowedPattern"], value)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_deployment_is_linted_asks_first_and_goes_back(environment: str) -> None:
    config = CONFIG[environment]
    deploy = config["deploy"]["parameters"]
    assert config["validate"]["parameters"]["lint"] is True
    assert deploy["confirm_changeset"] is True
    assert deploy["disable_rollback"] is False
    assert deploy["capabilities"] == "CAPABILITY_IAM"
    assert deploy["tags"] == ["application=embakery", f"environment={environment}"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_overrides_are_values_that_the_template_takes(environment: str) -> None:
    template = load_template()
    for name, value in overrides(environment).items():
        allowed(template["Parameters"][name], value)
    assert broken_rules(template, overrides(environment)) == []


def test_environments_are_stacks_of_their_own_and_differ_in_nothing_else() -> None:
    names = [CONFIG[environment]["global"]["parameters"]["stack_name"] for environment in ENVIRONMENTS]
    assert len(set(names)) == len(names)
    default, prod = (CONFIG[environment] for environment in ENVIRONMENTS)
    assert default["build"] == prod["build"]
    assert default["deploy"]["parameters"].keys() == prod["deploy"]["parameters"].keys() - {"parameter_overrides"}


def test_outputs_name_what_callers_need() -> None:
    outputs = load_template()["Outputs"]
    shown = {(referred(output["Value"]) or "", next(iter(output["Value"]))) for output in outputs.values()}
    queues = resources(load_template(), "AWS::SQS::Queue")
    assert {(name, way) for name in queues for way in ("Ref", "Fn::GetAtt")} <= shown
    named = {name for name, _ in shown}
    assert named >= {"QueueFunction.Alias", "ApiFunction.Alias", "HttpApi", "ResultsBucket", "ResultsTable"}
    assert named >= set(resources(load_template(), "AWS::Logs::LogGroup"))
    assert {"ApiUrl", "DashboardUrl", "CacheEndpoint"} <= outputs.keys()


def test_outputs_are_there_when_what_they_name_is() -> None:
    template = load_template()
    for name, output in template["Outputs"].items():
        target = template["Resources"].get(referred(output["Value"]) or "", {})
        assert output.get("Condition") == target.get("Condition") or name in {"DashboardUrl", "CacheEndpoint"}


def test_template_is_within_cloudformations_limits() -> None:
    template = load_template()
    assert (ROOT / "template.yaml").stat().st_size < MOST_BYTES
    assert len(template["Parameters"]) < MOST_PARAMETERS
    assert len(template["Outputs"]) < MOST_OUTPUTS
    # Aliases of YAML are not CloudFormation's.
    assert re.search(r"[:-] [&*]\w", (ROOT / "template.yaml").read_text(encoding="utf-8")) is None
