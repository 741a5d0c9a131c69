"""Decide a template's conditions for given parameters, as CloudFormation does before it creates anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from template_source import NO_VALUE, Template

Parameters: TypeAlias = Mapping[str, str]

_GONE = object()


def parameters(template: Template, given: Parameters) -> dict[str, str]:
    """Every parameter's value: the given ones, the defaults of the others. Raises KeyError for one that is unknown."""
    unknown = set(given) - set(template["Parameters"])
    if unknown:
        raise KeyError(f"no such parameters: {sorted(unknown)}")
    defaults = {name: str(declared["Default"]) for name, declared in template["Parameters"].items()}
    return defaults | dict(given)


def decide(template: Template, given: Parameters) -> Template:
    """The template without what its conditions leave out. Ref, Fn::GetAtt and Fn::Sub stay as they are."""
    values = parameters(template, given)
    decided = dict(template)
    for section in ("Resources", "Outputs"):
        kept = {
            name: entry
            for name, entry in template.get(section, {}).items()
            if "Condition" not in entry or holds(template, {"Condition": entry["Condition"]}, values)
        }
        decided[section] = _decided(template, kept, values)
    return decided


def holds(template: Template, condition: Any, values: Parameters) -> bool:
    """Whether a condition, or a rule's, is true."""
    if isinstance(condition, bool):
        return condition
    ((function, operands),) = condition.items()
    match function:
        case "Condition":
            return holds(template, template["Conditions"][operands], values)
        case "Fn::Not":
            return not holds(template, operands[0], values)
        case "Fn::And":
            return all(holds(template, operand, values) for operand in operands)
        case "Fn::Or":
            return any(holds(template, operand, values) for operand in operands)
        case "Fn::Equals":
            left, right = (text(template, operand, values) for operand in operands)
            return left == right
        case "Fn::EachMemberEquals":
            members = text(template, operands[0], values).split(",")
            return all(member == operands[1] for member in members)
    raise NotImplementedError(function)


def text(template: Template, node: Any, values: Parameters) -> str:
    """What a literal, a parameter, Fn::Join or Fn::FindInMap of them comes to. A list is joined by commas."""
    if not isinstance(node, dict):
        return str(node)
    ((function, operand),) = node.items()
    match function:
        case "Ref":
            return values[operand]
        case "Fn::Join":
            separator, listed = operand
            return str(separator).join(text(template, listed, values).split(","))
        case "Fn::FindInMap":
            name, first, second = (text(template, part, values) for part in operand)
            return str(template["Mappings"][name][first][second])
    raise NotImplementedError(function)


def broken_rules(template: Template, given: Parameters) -> list[str]:
    """What CloudFormation would say of the parameters before it begins."""
    values = parameters(template, given)
    return [
        assertion["AssertDescription"]
        for rule in template["Rules"].values()
        if holds(template, rule.get("RuleCondition", True), values)
        for assertion in rule["Assertions"]
        if not holds(template, assertion["Assert"], values)
    ]


def conditions_of(template: Template, node: Any) -> set[str]:
    """The names of all conditions that a node depends on, and those that these are made of."""
    names = {branch[0] for branch in _operands(node, "Fn::If")} | set(_operands(node, "Condition"))
    return names.union(*(conditions_of(template, template["Conditions"][name]) for name in names))


def parameters_of(template: Template, node: Any) -> set[str]:
    """The names of all parameters that a node's value depends on, by way of its conditions too."""
    decided_by = [template["Conditions"][name] for name in conditions_of(template, node)]
    return {name for part in (node, *decided_by) for name in names_in(part)} & set(template["Parameters"])


def names_in(node: Any) -> Iterator[str]:
    """Every name that Ref, Fn::GetAtt or Fn::Sub below a node refers to, without attributes; pseudo parameters too."""
    yield from _operands(node, "Ref")
    for target in _operands(node, "Fn::GetAtt"):
        yield target[0]
    for source in _operands(node, "Fn::Sub"):
        pattern, own = (source, {}) if isinstance(source, str) else source
        yield from (name.partition(".")[0] for name in placeholders(pattern) if name not in own)


def placeholders(pattern: str) -> list[str]:
    """What stands in the braces of Fn::Sub."""
    return [part.partition("}")[0] for part in pattern.split("${")[1:]]


def _operands(node: Any, function: str) -> Iterator[Any]:
    if isinstance(node, dict):
        # A statement of a policy has conditions of its own, which are no names.
        if function in node and not (function == "Condition" and not isinstance(node[function], str)):
            yield node[function]
        for child in node.values():
            yield from _operands(child, function)
    elif isinstance(node, list):
        for child in node:
            yield from _operands(child, function)


def _decided(template: Template, node: Any, values: Parameters) -> Any:
    if isinstance(node, list):
        listed = (_decided(template, child, values) for child in node)
        return [child for child in listed if child is not _GONE]
    if not isinstance(node, dict):
        return node
    if node == NO_VALUE:
        return _GONE
    if "Fn::If" in node:
        condition, then, otherwise = node["Fn::If"]
        chosen = then if holds(template, {"Condition": condition}, values) else otherwise
        return _decided(template, chosen, values)
    named = {key: _decided(template, child, values) for key, child in node.items()}
    return {key: child for key, child in named.items() if child is not _GONE}
