"""The template as AWS gets it: translated by SAM, its conditions decided, for the deployments that we look at."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from intrinsics import Parameters, decide
from template_source import ROOT, Template, load_template

SAM_PYTHON = ROOT / ".venv-sam" / "bin" / "python"
# Its translator's answer to some hundred templates takes seconds.
_PATIENCE_SECONDS = 240

KEY = {"KmsKeyArn": "arn:aws:kms:eu-central-1:123456789012:key/1b4c"}
VPC = {"VpcSubnetIds": "subnet-1,subnet-2"}
GROUPS = {"VpcSecurityGroupIds": "sg-1"}
URL = {"RedisUrl": "rediss://cache.example:6379"}
PASSWORD = URL | {"RedisPasswordSecretArn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:redis"}
SIGNED_IN = VPC | GROUPS | URL | {"RedisIamCacheName": "vectors", "RedisUsername": "embakery"}
CREATED = VPC | {"CreateCache": "true", "VpcId": "vpc-1"}
FIFO = {"WithFifoQueue": "true"}

SCENARIOS: dict[str, Parameters] = {
    "plain": {},
    "fifo": FIFO,
    "key": KEY,
    "vpc": VPC | GROUPS,
    "redis": URL,
    "redis with a password": PASSWORD,
    "redis with IAM": SIGNED_IN,
    "replication group with IAM": SIGNED_IN | {"RedisIamServerless": "false"},
    "created cache": CREATED,
    "reserved": {"ReserveQueueConcurrency": "true", "ApiReservedConcurrency": "20", "MaximumConcurrency": "50"},
    "gradual, watched": {"DeploymentType": "Linear10PercentEvery1Minute", "AlarmTopicArn": "arn:aws:sns:::ops"},
    "bare": {"WithDashboard": "false", "Architecture": "arm64"},
    "everything": FIFO
    | KEY
    | CREATED
    | {"ReserveQueueConcurrency": "true", "AlarmTopicArn": "arn:aws:sns:eu-central-1:123456789012:ops"}
    | {"DeploymentType": "Canary10Percent5Minutes", "ApiReservedConcurrency": "5"},
}


def need_translator() -> Path:
    """SAM's Python, or skip; in CI fail, because make sets it up."""
    if SAM_PYTHON.exists():
        return SAM_PYTHON
    if os.environ.get("CI") == "true":
        pytest.fail("no .venv-sam; make test sets it up")
    pytest.skip("no .venv-sam: make check sets it up")


def translate(templates: Sequence[tuple[Template, Parameters]]) -> list[Template]:
    """What SAM makes of templates, each with its parameters; one start of Python for all."""
    program = Path(__file__).with_name("transform.py")
    done = subprocess.run(
        [need_translator(), program],
        input=json.dumps(list(templates)),
        capture_output=True,
        text=True,
        check=True,
        timeout=_PATIENCE_SECONDS,
    )
    translated = json.loads(done.stdout)
    assert isinstance(translated, list)
    return translated


@cache
def translated_scenarios() -> dict[str, Template]:
    """The template translated for every scenario, conditions not yet decided."""
    pairs = [(load_template(), given) for given in SCENARIOS.values()]
    return dict(zip(SCENARIOS, translate(pairs), strict=True))


def deployed(scenario: str) -> Template:
    """The template that AWS would create in a scenario."""
    return decide(translated_scenarios()[scenario], SCENARIOS[scenario])
