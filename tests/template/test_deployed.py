"""What AWS gets from SAM holds its invariants in every deployment that we look at, and each notices its mutations."""

from __future__ import annotations

from functools import cache

import pytest
from deployed import CREATED, KEY, SCENARIOS, deployed, translate, translated_scenarios
from intrinsics import decide, names_in, parameters_of
from invariants_deployed import ALIAS, FUNCTION, INVARIANTS, MAPPING, VERSION
from mutation import Mutation
from mutations_deployed import MUTATIONS
from rights import rights_are_those_of_the_matrix
from template_source import Invariant, Template, load_template, referred, resources

EVERY = (*INVARIANTS, rights_are_those_of_the_matrix)
# Of a function, not of its versions.
NOT_IN_A_VERSION = {"ReservedConcurrentExecutions", "Tags"}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("invariant", EVERY, ids=lambda invariant: invariant.__name__)
def test_every_deployment_holds(invariant: Invariant, scenario: str) -> None:
    assert invariant(deployed(scenario)) == []


@cache
def mutated() -> dict[str, Template]:
    """Every mutated template, translated: all by one start of SAM's Python."""
    spoilt = []
    for mutation in MUTATIONS:
        template = load_template()
        mutation.apply(template)
        spoilt.append((template, SCENARIOS[mutation.scenario]))
    pairs = zip(MUTATIONS, translate(spoilt), strict=True)
    return {str(mutation): decide(template, SCENARIOS[mutation.scenario]) for mutation, template in pairs}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_change_for_the_worse_is_noticed(mutation: Mutation) -> None:
    assert mutation.breaks(mutated()[str(mutation)]) != []


def test_every_invariant_has_a_change_that_it_notices() -> None:
    assert {mutation.breaks for mutation in MUTATIONS} == set(EVERY)


def unpublished(template: Template) -> set[str]:
    """The parameters whose change would alter a function and publish no version of it."""
    described = {referred(version["Description"]) for version in resources(template, VERSION).values()}
    published = set().union(*(set(names_in(template["Resources"][name or ""])) for name in described))
    settings = {
        name
        for function in resources(template, FUNCTION).values()
        for property_, value in function.items()
        if property_ not in NOT_IN_A_VERSION
        for name in parameters_of(template, value)
    }
    return settings - published


def test_a_new_value_of_any_setting_publishes_a_version() -> None:
    assert unpublished(translated_scenarios()["plain"]) == set()


def test_a_setting_that_is_left_out_is_noticed() -> None:
    template = load_template()
    description = template["Resources"]["FunctionSettings"]["Properties"]["Description"]["Fn::Sub"]
    description[0] = description[0].replace("${MemorySize}", "")
    template["Globals"]["Function"]["Environment"]["Variables"]["LOG_LEVEL"] = {"Ref": "AlarmTopicArn"}
    (translated,) = translate([(template, {})])
    assert unpublished(translated) == {"MemorySize", "AlarmTopicArn"}


def test_sam_publishes_nothing_for_a_value_alone() -> None:
    """The reason for FunctionSettings: when this fails, SAM has mended it, and FunctionSettings can go."""
    pairs = [(load_template(), {"MemorySize": memory}) for memory in ("1769", "3538")]
    before, after = (set(resources(template, VERSION)) for template in translate(pairs))
    assert before == after


def test_deployment_type_reaches_codedeploy() -> None:
    groups = resources(deployed("gradual, watched"), "AWS::CodeDeploy::DeploymentGroup")
    assert {group["DeploymentConfigName"]["Fn::Sub"][1]["ConfigName"] for group in groups.values()} == {
        "Linear10PercentEvery1Minute"
    }
    assert len(groups) == 2


def test_plain_deployment_has_nothing_optional() -> None:
    plain = deployed("plain")
    kinds = {resource["Type"] for resource in plain["Resources"].values()}
    assert not {kind for kind in kinds if kind.startswith(("AWS::ElastiCache", "AWS::EC2"))}
    assert "KmsKeyArn" not in set(names_in(plain["Resources"])) - set(names_in(plain["Resources"]["FunctionSettings"]))
    assert list(resources(plain, MAPPING)) == ["QueueFunctionDocuments"]
    assert {name for name in plain["Resources"] if "Fifo" in name} == set()


def test_functions_with_a_created_cache_are_in_its_vpc() -> None:
    (translated,) = translate([(load_template(), CREATED)])
    for function in resources(decide(translated, CREATED), FUNCTION).values():
        assert function["VpcConfig"] == {
            "SubnetIds": {"Ref": "VpcSubnetIds"},
            "SecurityGroupIds": [{"Fn::GetAtt": ["FunctionSecurityGroup", "GroupId"]}],
        }


def test_key_reaches_everything() -> None:
    plain, keyed = deployed("plain")["Resources"], deployed("key")["Resources"]
    changed = {name for name in plain if plain[name] != keyed[name]}
    kinds = (
        "SQS::Queue",
        "S3::Bucket",
        "DynamoDB::Table",
        "Logs::LogGroup",
        "SecretsManager::Secret",
        "Lambda::Function",
    )
    wanted = {name for name in plain if plain[name]["Type"].removeprefix("AWS::") in kinds}
    assert changed == wanted | {"QueueFunctionRole", "ApiFunctionRole"}
    assert KEY.keys() == {"KmsKeyArn"}


def test_alias_is_called_live() -> None:
    assert {alias["Name"] for alias in resources(deployed("plain"), ALIAS).values()} == {"live"}
