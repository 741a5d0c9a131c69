"""Read template.yaml as plain dictionaries, with `!Ref` and its like in their long form, and find one's way in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Template: TypeAlias = dict[str, Any]
Resource: TypeAlias = dict[str, Any]
Statement: TypeAlias = dict[str, Any]
Invariant: TypeAlias = Callable[[Template], list[str]]

ROOT = Path(__file__).resolve().parents[2]
NO_VALUE = {"Ref": "AWS::NoValue"}


@dataclass(frozen=True, slots=True)
class Feed:
    """A queue that starts a function: logical ids, and the mapping's properties."""

    name: str
    function: str
    queue: str
    properties: dict[str, Any]


class CloudFormationLoader(yaml.SafeLoader):
    """A safe loader that knows CloudFormation's short tags."""


def _long_form(loader: CloudFormationLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if tag in {"Ref", "Condition"}:
        return {tag: value}
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{tag}": value}


CloudFormationLoader.add_multi_constructor("!", _long_form)


def load_template() -> Template:
    """The template as dictionaries; a fresh copy on every call, so that a test may spoil it."""
    return deepcopy(_parsed_template())


@cache
def _parsed_template() -> Template:
    template = yaml.load((ROOT / "template.yaml").read_text(encoding="utf-8"), Loader=CloudFormationLoader)
    assert isinstance(template, dict)
    return template


def resources(template: Template, kind: str) -> dict[str, Resource]:
    """The properties of every resource of one type, by logical id."""
    found = template["Resources"].items()
    return {name: resource.get("Properties", {}) for name, resource in found if resource["Type"] == kind}


def functions(template: Template) -> dict[str, Resource]:
    """The functions' properties with the globals merged in, the environment name by name, as SAM does."""
    shared = template["Globals"]["Function"]
    merged = {}
    for name, own in resources(template, "AWS::Serverless::Function").items():
        variables = _variables(shared) | _variables(own)
        merged[name] = shared | own | {"Environment": {"Variables": variables}}
    return merged


def _variables(properties: Resource) -> dict[str, Any]:
    variables = properties.get("Environment", {}).get("Variables", {})
    assert isinstance(variables, dict)
    return variables


def sources(function: Resource, kind: str) -> dict[str, Resource]:
    """The properties of a function's events of one type, by name."""
    return {name: event["Properties"] for name, event in function.get("Events", {}).items() if event["Type"] == kind}


def as_list(value: Any) -> list[Any]:
    """A value that CloudFormation or IAM lets stand alone, as a list."""
    return value if isinstance(value, list) else [value]


def branches(value: Any) -> list[Any]:
    """What a value can be once its conditions are decided: both sides of Fn::If, without AWS::NoValue."""
    if isinstance(value, dict) and "Fn::If" in value:
        _, then, otherwise = value["Fn::If"]
        return branches(then) + branches(otherwise)
    return [] if value in (None, NO_VALUE) else [value]


def bounds(template: Template, value: Any) -> tuple[int, int]:
    """The least and the greatest number that a value can be; a parameter's come from its allowed range."""
    if isinstance(value, int):
        return value, value
    parameter = template["Parameters"][value["Ref"]]
    allowed = parameter.get("AllowedValues", [])
    return parameter.get("MinValue", min(allowed, default=0)), parameter.get("MaxValue", max(allowed, default=2**31))


def referred(value: Any) -> str | None:
    """The logical id that Ref or Fn::GetAtt points to; None for anything else."""
    if not isinstance(value, dict):
        return None
    target = value.get("Ref") or value.get("Fn::GetAtt", [None])[0]
    assert target is None or isinstance(target, str)
    return target


def statements(node: Any) -> Iterator[Statement]:
    """Every policy statement below a node, whatever kind of policy holds it."""
    if isinstance(node, dict):
        yield from as_list(node.get("Statement", []))
        for child in node.values():
            yield from statements(child)
    elif isinstance(node, list):
        for child in node:
            yield from statements(child)


def grants(template: Template) -> Iterator[tuple[str, Statement]]:
    """Every statement of the template that allows something, with the logical id of the resource that holds it."""
    for name, resource in template["Resources"].items():
        for statement in statements(resource):
            if statement["Effect"] == "Allow":
                yield name, statement


def feeds(template: Template) -> list[Feed]:
    """Every event source mapping: SAM's events, and those that stand for themselves to have a condition."""
    events = [
        Feed(name, function, referred(source["Queue"]) or "", source)
        for function, properties in functions(template).items()
        for name, source in sources(properties, "SQS").items()
    ]
    mappings = resources(template, "AWS::Lambda::EventSourceMapping").items()
    return events + [
        Feed(name, _function(mapping), referred(mapping["EventSourceArn"]) or "", mapping) for name, mapping in mappings
    ]


def _function(mapping: Resource) -> str:
    return str(mapping["FunctionName"].get("Ref", "")).removesuffix(".Alias")


def fed_queues(template: Template) -> list[tuple[str, Resource]]:
    """The queues that start a function."""
    fed = {feed.queue for feed in feeds(template)}
    return [(name, queue) for name, queue in resources(template, "AWS::SQS::Queue").items() if name in fed]


def dead_letter_queue(queue: Resource) -> str:
    """The logical id of the queue that takes what another one gives up."""
    return referred(queue.get("RedrivePolicy", {}).get("deadLetterTargetArn")) or "no dead-letter queue"


def denies_plain_text(statement: Statement, action: str) -> bool:
    """Whether a statement of a resource's policy denies an action to everyone who comes without TLS."""
    denial = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return denial.items() <= statement.items()
