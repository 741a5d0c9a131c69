"""What must hold for permissions and for the functions' environment.

Each function returns what breaks it, one line a finding; none means that it holds.
"""

from __future__ import annotations

import re
from typing import Any

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
)

# A resource wildcard is fine below a named prefix of a named resource, and nowhere else.
BELOW_A_PREFIX = re.compile(r"\$\{\w+\.Arn\}/[\w-]+/\*")
# Lambda attaches a function to a VPC with these and accepts no narrower resource.
ONLY_ON_EVERYTHING = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}
FOREIGN_VARIABLES = {"LOG_LEVEL", "POWERTOOLS_METRICS_NAMESPACE", "POWERTOOLS_SERVICE_NAME"}
RUNS = {"logs:CreateLogStream", "logs:PutLogEvents", "secretsmanager:GetSecretValue"}
ROLE_ACTIONS = {
    "ApiFunctionRole": RUNS | {"sts:AssumeRole"},
    "QueueFunctionRole": RUNS
    | {"sts:AssumeRole", "s3:PutObject", "dynamodb:PutItem", "sqs:SendMessage"}
    | {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"}
    | {"sqs:GetQueueAttributes", "sqs:GetQueueUrl", "s3:GetObject"}
    | {"dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:UpdateItem"},
    "RedisPasswordPolicy": {"secretsmanager:GetSecretValue"},
    "RedisIamPolicy": {"elasticache:Connect"},
    "VpcPolicy": ONLY_ON_EVERYTHING,
}


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


def roles_allow_exactly_what_is_needed(template: Template) -> list[str]:
    """Who may do what, word for word."""
    allowed: dict[str, set[str]] = {}
    for name, statement in grants(template):
        allowed.setdefault(name, set()).update(as_list(statement["Action"]))
    names = sorted(allowed.keys() | ROLE_ACTIONS.keys())
    return [name for name in names if allowed.get(name) != ROLE_ACTIONS.get(name)]


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
        hidden = parameter.get("NoEcho", False)
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
    roles_allow_exactly_what_is_needed,
    permissions_are_written_out,
    variables_are_known,
    variables_hold_no_secret,
    redis_url_takes_no_credentials,
)
