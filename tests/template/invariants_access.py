"""What must hold for permissions and for the functions' environment.

Each function returns what breaks it, one line a finding; none means that it holds.
"""

from __future__ import annotations

import re
from typing import Any

from intrinsics import parameters_of
from template_source import (
    ROOT,
    Invariant,
    Template,
    as_list,
    branches,
    functions,
    grants,
    referred,
    resources,
    statements,
)

# A resource wildcard is fine below a named prefix of a named resource, and nowhere else.
BELOW_A_PREFIX = re.compile(r"\$\{\w+\.Arn\}/[\w-]+/\*")
# AWS accepts no narrower resource for these.
ONLY_ON_EVERYTHING = {
    "cloudwatch:DescribeAlarms",
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}
FOREIGN_VARIABLES = {"LOG_LEVEL", "POWERTOOLS_METRICS_NAMESPACE", "POWERTOOLS_SERVICE_NAME"}


def allowed_actions_are_named(template: Template) -> list[str]:
    """No wildcard in an action, and nothing allowed by exception."""
    return [
        f"{name}: {statement}"
        for name, statement in grants(template)
        if "Action" not in statement or any("*" in action for action in as_list(statement["Action"]))
    ]


def allowed_resources_are_named(template: Template) -> list[str]:
    """No wildcard in a resource but below a prefix, or where AWS takes nothing else."""
    broken = []
    for name, statement in grants(template):
        if statement["Action"] == "sts:AssumeRole":
            continue
        everything_needed = set(as_list(statement["Action"])) <= ONLY_ON_EVERYTHING
        for resource in as_list(statement.get("Resource", "*")):
            text = str(resource.get("Fn::Sub", resource) if isinstance(resource, dict) else resource)
            if "*" in text and not everything_needed and not BELOW_A_PREFIX.fullmatch(text):
                broken.append(f"{name}: {text}")
    return broken


def key_is_used_through_services(template: Template) -> list[str]:
    """A function never calls KMS: a service does on its behalf, and only one that this function has business with."""
    through = "kms:ViaService"
    return [
        f"{name}: {statement}"
        for name, statement in grants(template)
        if any(action.startswith("kms:") for action in as_list(statement["Action"]))
        and not statement.get("Condition", {}).get("StringEquals", {}).get(through)
    ]


def network_interfaces_are_lambdas_business(template: Template) -> list[str]:
    """The role must allow them, for Lambda; the function's own code is denied them by the key that only it sends."""
    allowed, denied = set(), set()
    for statement in statements(template["Resources"]):
        actions = {action for action in as_list(statement["Action"]) if action.startswith("ec2:")}
        if statement["Effect"] == "Allow":
            allowed |= actions
        elif "lambda:SourceFunctionArn" in statement.get("Condition", {}).get("ArnLike", {}):
            denied |= actions
    return sorted(allowed - denied)


def policies_are_not_named(template: Template) -> list[str]:
    """A name of ours would need CAPABILITY_NAMED_IAM and could not be replaced."""
    named = ("RoleName", "ManagedPolicyName")
    kinds = ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy")
    return [
        name for kind in kinds for name, one in resources(template, kind).items() if any(key in one for key in named)
    ]


def permissions_are_written_out(template: Template) -> list[str]:
    """SAM adds broad managed policies to a role that it makes itself; ours name policies of this template only."""
    own, roles = set(resources(template, "AWS::IAM::ManagedPolicy")), resources(template, "AWS::IAM::Role")
    made_by_sam = [
        name
        for name, function in functions(template).items()
        if "Policies" in function or referred(function.get("Role")) not in roles
    ]
    foreign = [
        f"{name}: {policy}"
        for name, role in roles.items()
        for entry in role.get("ManagedPolicyArns", [])
        for policy in branches(entry)
        if referred(policy) not in own
    ]
    return made_by_sam + foreign


def variables_are_known(template: Template) -> list[str]:
    """Every variable is one that the handlers read: a misspelt one would be ignored in silence."""
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "handlers").glob("*.py")))
    known = set(re.findall(r'"(EMBAKERY_\w+)"', code)) | FOREIGN_VARIABLES
    return [f"{function}: {name}" for function, name, _ in _variables(template) if name not in known]


def variables_hold_no_secret(template: Template) -> list[str]:
    """Whoever may describe a function reads its environment: only a secret's ARN may stand there."""
    secrets, broken = set(resources(template, "AWS::SecretsManager::Secret")), []
    for function, name, value in _variables(template):
        by_name = re.search("SECRET|PASSWORD|TOKEN|CREDENTIAL", name) and not name.endswith("_ARN")
        parameter = template["Parameters"].get(referred(value), {})
        hidden = any(template["Parameters"][one].get("NoEcho", False) for one in parameters_of(template, value))
        takes_only_arns = parameter.get("AllowedPattern", "").startswith("^$|^arn:")
        arn = name.endswith("_SECRET_ARN") and referred(value) not in secrets and not takes_only_arns
        if by_name or hidden or arn or "{{resolve:" in str(value):
            broken.append(f"{function}: {name}")
    return broken


def redis_url_takes_no_credentials(template: Template) -> list[str]:
    """The URL stands in the environment in plain text."""
    pattern = template["Parameters"]["RedisUrl"].get("AllowedPattern", ".*")
    refused = ["rediss://user:password@cache:6379", "rediss://:password@cache:6379/0"]
    taken = ["", "redis://cache:6379", "rediss://cache.example:6379/0"]
    return [url for url in refused if re.fullmatch(pattern, url)] + [u for u in taken if not re.fullmatch(pattern, u)]


def _variables(template: Template) -> list[tuple[str, str, Any]]:
    """Each environment variable: function, name, value."""
    return [
        (name, variable, value)
        for name, function in functions(template).items()
        for variable, value in function["Environment"]["Variables"].items()
    ]


INVARIANTS: tuple[Invariant, ...] = (
    allowed_actions_are_named,
    allowed_resources_are_named,
    key_is_used_through_services,
    network_interfaces_are_lambdas_business,
    policies_are_not_named,
    permissions_are_written_out,
    variables_are_known,
    variables_hold_no_secret,
    redis_url_takes_no_credentials,
)
