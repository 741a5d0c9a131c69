"""Who may do what to what, word for word: the template must grant exactly this, and docs/permissions.md shows it.

`when`: a right that stands in the template only in such a deployment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deployed import CREATED, FIFO, KEY, PASSWORD, SIGNED_IN
from intrinsics import Parameters
from template_source import Resource, Statement, Template, as_list, resources

QUEUE, API, DEPLOY = "QueueFunction", "ApiFunction", "CodeDeploy"
BOTH = (QUEUE, API)


@dataclass(frozen=True, slots=True)
class Right:
    """One line of the matrix. who: a function, or CodeDeploy. actions: of one service, without its prefix."""

    who: str
    service: str
    actions: str
    on: str
    why: str
    when: str = ""

    def granted(self) -> set[tuple[str, str]]:
        """Each action with its resource."""
        return {(f"{self.service}:{action}", on) for action in self.actions.split() for on in self.on.split(", ")}


TAKE = "ChangeMessageVisibility DeleteMessage GetQueueAttributes GetQueueUrl ReceiveMessage"
INTERFACES = (
    "AssignPrivateIpAddresses CreateNetworkInterface DeleteNetworkInterface DescribeNetworkInterfaces "
    "DescribeSubnets UnassignPrivateIpAddresses"
)
ALIASES = "QueueFunction, QueueFunction:live, ApiFunction, ApiFunction:live"

RIGHTS: tuple[Right, ...] = (
    Right(QUEUE, "logs", "CreateLogStream PutLogEvents", "QueueLogGroup", "write logs and metrics"),
    Right(QUEUE, "sqs", TAKE, "DocumentsQueue", "take documents; give back what failed"),
    Right(QUEUE, "sqs", "GetQueueUrl SendMessage", "DeadLetterQueue", "send on what never succeeds, with its reason"),
    Right(QUEUE, "sqs", TAKE, "DocumentsFifoQueue", "the same, in order", "WithFifoQueue"),
    Right(QUEUE, "sqs", "GetQueueUrl SendMessage", "DeadLetterFifoQueue", "the same, in order", "WithFifoQueue"),
    Right(QUEUE, "s3", "GetObject", "SourcesBucket/sources/*", "read claim checks"),
    Right(QUEUE, "sqs", "SendMessage", "BulkQueue", "hand over what is too large"),
    Right(QUEUE, "dynamodb", "BatchGetItem GetItem PutItem UpdateItem", "StateTable", "marks and notes"),
    Right(QUEUE, "s3", "PutObject", "ResultsBucket/results/*", 'destination "default"'),
    Right(QUEUE, "dynamodb", "PutItem", "ResultsTable", 'destination "table"'),
    Right(QUEUE, "sqs", "SendMessage", "ResultsQueue", 'destination "queue"'),
    Right(QUEUE, "kms", "Decrypt GenerateDataKey", "KmsKeyArn", "through the services above only", "KmsKeyArn"),
    Right(API, "logs", "CreateLogStream PutLogEvents", "ApiLogGroup", "write logs and metrics"),
    Right(API, "kms", "Decrypt", "KmsKeyArn", "the secret and its environment, through those services", "KmsKeyArn"),
    *(Right(who, "secretsmanager", "GetSecretValue", "CacheSecret", "key of the cache's HMACs") for who in BOTH),
    *(
        Right(
            who,
            "secretsmanager",
            "GetSecretValue",
            "RedisPasswordSecretArn",
            "password of the cache",
            "RedisPasswordSecretArn",
        )
        for who in BOTH
    ),
    *(
        Right(
            who, "elasticache", "Connect", "cache RedisIamCacheName, user RedisUsername", "sign in", "RedisIamCacheName"
        )
        for who in BOTH
    ),
    *(Right(who, "elasticache", "Connect", "Cache, CacheUser", "sign in", "CreateCache") for who in BOTH),
    *(Right(who, "ec2", INTERFACES, "*", "Lambda attaches it; denied to its own code", "VpcSubnetIds") for who in BOTH),
    Right(DEPLOY, "lambda", "GetAlias GetProvisionedConcurrencyConfig UpdateAlias", ALIASES, "shift traffic"),
    Right(DEPLOY, "cloudwatch", "DescribeAlarms", "*", "go back on an alarm"),
)

# Which deployment has which rights beyond those that are always there.
WHEN: dict[str, tuple[Parameters, set[str]]] = {
    "plain": ({}, set()),
    "fifo": (FIFO, {"WithFifoQueue"}),
    "key": (KEY, {"KmsKeyArn"}),
    "redis with a password": (PASSWORD, {"RedisPasswordSecretArn"}),
    "redis with IAM": (SIGNED_IN, {"RedisIamCacheName", "VpcSubnetIds"}),
    "created cache": (CREATED, {"CreateCache", "VpcSubnetIds"}),
    "everything": ({**FIFO, **KEY, **CREATED}, {"WithFifoQueue", "KmsKeyArn", "CreateCache", "VpcSubnetIds"}),
}


def wanted_rights(conditions: set[str]) -> dict[str, set[tuple[str, str]]]:
    """Who should be granted which actions on which resources."""
    wanted: dict[str, set[tuple[str, str]]] = {who: set() for who in (QUEUE, API, DEPLOY)}
    for right in RIGHTS:
        if not right.when or right.when in conditions:
            wanted[right.who] |= right.granted()
    return wanted


def granted_rights(template: Template) -> dict[str, set[tuple[str, str]]]:
    """Who is granted which actions on which resources, by SAM's translation with its conditions decided."""
    holders = {QUEUE: _role(template, QUEUE), API: _role(template, API), DEPLOY: "DeploymentRole"}
    return {
        who: {
            (action, shown(resource))
            for statement in _statements(template, role)
            if statement["Effect"] == "Allow"
            for action in as_list(statement["Action"])
            for resource in as_list(statement["Resource"])
        }
        for who, role in holders.items()
    }


def rights_are_those_of_the_matrix(template: Template) -> list[str]:
    """What is granted beyond it, or missing, in the deployment that the template is decided for."""
    granted, wanted = granted_rights(template), wanted_rights(_conditions(template))
    return [f"{who}: {right}" for who in wanted for right in sorted(granted[who] ^ wanted[who])]


def _conditions(template: Template) -> set[str]:
    there = {
        "WithFifoQueue": "DocumentsFifoQueue",
        "CreateCache": "Cache",
        "VpcSubnetIds": "VpcPolicy",
        "RedisPasswordSecretArn": "RedisPasswordPolicy",
        "RedisIamCacheName": "RedisIamPolicy",
    }
    found = {name for name, resource in there.items() if resource in template["Resources"]}
    if "KmsMasterKeyId" in template["Resources"]["DocumentsQueue"]["Properties"]:
        found.add("KmsKeyArn")
    return found - {"RedisIamCacheName"} if "CreateCache" in found else found


def shown(resource: Any) -> str:
    """A resource as the matrix names it: by logical id or parameter, and what is below it."""
    if isinstance(resource, str):
        return resource
    ((function, operand),) = resource.items()
    if function == "Fn::GetAtt":
        return str(operand[0])
    if function == "Ref":
        return str(operand)
    assert function == "Fn::Sub", resource
    text = str(operand).replace(".Arn}", "}")
    for kind, name in (("serverlesscache", "cache"), ("replicationgroup", "cache"), ("user", "user")):
        text = text.replace(
            f"arn:${{AWS::Partition}}:elasticache:${{AWS::Region}}:${{AWS::AccountId}}:{kind}:", f"{name} "
        )
    return text.replace("${", "").replace("}", "")


def matrix() -> str:
    """The matrix as a table in Markdown."""
    lines = ["| who | may | on | for | where |", "|---|---|---|---|---|"]
    for right in RIGHTS:
        actions = ", ".join(f"`{right.service}:{action}`" for action in right.actions.split())
        named = ", ".join(f"`{one}`" if one != "*" else "everything: AWS takes no less" for one in right.on.split(", "))
        when = f"`{right.when}`" if right.when else "always"
        lines.append(f"| {right.who} | {actions} | {named} | {right.why} | {when} |")
    return "\n".join(lines)


def _role(template: Template, function: str) -> str:
    (role,) = resources(template, "AWS::Lambda::Function")[function]["Role"].values()
    return str(role[0])


def _statements(template: Template, role: str) -> Iterator[Statement]:
    held: Resource = template["Resources"][role]["Properties"]
    for policy in held.get("Policies", []):
        yield from policy["PolicyDocument"]["Statement"]
    for attached in held.get("ManagedPolicyArns", []):
        yield from template["Resources"][attached["Ref"]]["Properties"]["PolicyDocument"]["Statement"]
