"""The template grants what rights.py says and no more, the handlers need all of that, and the document shows it."""

from __future__ import annotations

import ast
from functools import cache

import botocore.session
import pytest
from botocore import xform_name
from deployed import translate
from intrinsics import decide
from rights import API, BOTH, QUEUE, RIGHTS, WHEN, granted_rights, matrix, wanted_rights
from template_source import ROOT, Template, load_template

SERVICES = ("dynamodb", "s3", "secretsmanager", "sqs")
# What Lambda's poller does with the role.
POLLER = {"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"}
# What the command line alone uses, and destinations whose rights docs/permissions.md says how to add.
NOT_BY_DEFAULT = {"compaction.py", "letters.py", "move_task.py", "redrive.py", "s3_vectors.py"}


@cache
def translated() -> dict[str, Template]:
    pairs = zip(WHEN, translate([(load_template(), given) for given, _ in WHEN.values()]), strict=True)
    return {name: decide(template, WHEN[name][0]) for name, template in pairs}


@pytest.mark.parametrize("deployment", WHEN)
def test_exactly_the_matrix_is_granted(deployment: str) -> None:
    assert granted_rights(translated()[deployment]) == wanted_rights(WHEN[deployment][1])


def test_every_right_of_the_matrix_is_in_some_deployment() -> None:
    known: set[str] = set().union(*(conditions for _, conditions in WHEN.values()))
    assert {right.when for right in RIGHTS} - {""} == known


def test_document_shows_the_matrix() -> None:
    text = (ROOT / "docs/permissions.md").read_text(encoding="utf-8")
    assert f"\n\n{matrix()}\n\n" in text


def called() -> set[str]:
    """The IAM actions of what handlers and storage call by boto3, in what runs by default."""
    session = botocore.session.get_session()
    operations = {
        xform_name(operation): f"{service}:{operation.removesuffix('Batch')}"
        for service in SERVICES
        for operation in session.get_service_model(service).operation_names
    }
    files = [*(ROOT / "handlers").glob("*.py"), *(ROOT / "storage").glob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files if path.name not in NOT_BY_DEFAULT]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    return {operations[name] for name in names if name in operations}


def test_what_is_called_is_granted_and_what_is_granted_is_called() -> None:
    granted = {
        action for right in RIGHTS if right.who in BOTH and right.service in SERVICES for action, _ in right.granted()
    }
    assert granted - POLLER == called() - POLLER
    assert called() >= {"dynamodb:PutItem", "s3:GetObject", "secretsmanager:GetSecretValue", "sqs:SendMessage"}


def test_api_reaches_no_store() -> None:
    services = {right.service for right in RIGHTS if right.who == API}
    assert services == {"ec2", "elasticache", "kms", "logs", "secretsmanager"}
    assert {right.service for right in RIGHTS if right.who == QUEUE} - services == {"dynamodb", "s3", "sqs"}
