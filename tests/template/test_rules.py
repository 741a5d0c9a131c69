"""Parameters that contradict each other are refused before anything is created, and none that fit are."""

from __future__ import annotations

import pytest
from deployed import CREATED, GROUPS, PASSWORD, SCENARIOS, SIGNED_IN, URL, VPC
from intrinsics import Parameters, broken_rules
from template_source import load_template

REFUSED: list[tuple[Parameters, str]] = [
    (URL | {"RedisIamCacheName": "vectors"} | VPC | GROUPS, "RedisIamCacheName needs RedisUsername"),
    ({"RedisIamCacheName": "vectors", "RedisUsername": "embakery"} | VPC | GROUPS, "RedisIamCacheName needs RedisUrl"),
    (SIGNED_IN | PASSWORD, "not both"),
    (SIGNED_IN | {"VpcSubnetIds": "", "VpcSecurityGroupIds": ""}, "RedisIamCacheName needs VpcSubnetIds"),
    ({"RedisPasswordSecretArn": "arn:aws:secretsmanager:::x"}, "RedisPasswordSecretArn needs RedisUrl"),
    (CREATED | URL, "CreateCache and RedisUrl"),
    (CREATED | {"RedisIamCacheName": "vectors", "RedisUsername": "embakery"}, "CreateCache and RedisIamCacheName"),
    (CREATED | {"VpcId": ""}, "CreateCache needs VpcId"),
    (CREATED | {"VpcSubnetIds": ""}, "CreateCache needs VpcSubnetIds"),
    (CREATED | GROUPS, "leave VpcSecurityGroupIds empty"),
    (VPC, "VpcSubnetIds needs VpcSecurityGroupIds"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_contradicts_itself_is_refused(given: Parameters, said: str) -> None:
    assert [text for text in broken_rules(load_template(), given) if said in text] != []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_fits_is_taken(scenario: str) -> None:
    assert broken_rules(load_template(), SCENARIOS[scenario]) == []


def test_every_assertion_is_met() -> None:
    rules = load_template()["Rules"].values()
    said = [assertion["AssertDescription"] for rule in rules for assertion in rule["Assertions"]]
    broken = {text for given, _ in REFUSED for text in broken_rules(load_template(), given)}
    assert broken == set(said)
    assert len(said) == len(REFUSED)
