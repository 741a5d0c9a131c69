"""What must hold for what AWS gets: SAM's translation, its conditions decided.

Each function takes such a template and returns what breaks it, one line a finding; none means that it holds.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from typing import Any

from intrinsics import names_in, placeholders
from template_source import Invariant, Resource, Template, as_list, referred, resources, statements

FUNCTION, ALIAS, VERSION = "AWS::Lambda::Function", "AWS::Lambda::Alias", "AWS::Lambda::Version"
MAPPING = "AWS::Lambda::EventSourceMapping"
# Deployments of CodeDeploy's own; SAM puts the prefix before.
CONFIGURATION = "CodeDeployDefault.Lambda"


def what_is_named_is_there(template: Template) -> list[str]:
    """A name whose condition is false fails the deployment before it begins."""
    known = set(template["Resources"]) | set(template["Parameters"])
    entries = {**template["Resources"], **template["Outputs"]}
    return [
        f"{holder}: {name}"
        for holder, entry in entries.items()
        for name in (*names_in(entry), *as_list(entry.get("DependsOn", [])))
        if name not in known and not name.startswith("AWS::")
    ]


def nothing_waits_for_itself(template: Template) -> list[str]:
    """CloudFormation refuses a circle of references."""
    needs = {
        name: (set(names_in(resource)) | set(as_list(resource.get("DependsOn", [])))) & set(template["Resources"])
        for name, resource in template["Resources"].items()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def functions_are_called_by_their_alias(template: Template) -> list[str]:
    """What calls the function itself would get the newest code at once, whatever the deployment's type."""
    aliases = set(resources(template, ALIAS))
    calls = [(name, one["FunctionName"]) for name, one in resources(template, MAPPING).items()]
    calls += [(name, one["FunctionName"]) for name, one in resources(template, "AWS::Lambda::Permission").items()]
    broken = [f"{name}: {called}" for name, called in calls if referred(called) not in aliases]
    for name, api in resources(template, "AWS::ApiGatewayV2::Api").items():
        uris = [
            method["x-amazon-apigateway-integration"]["uri"]
            for path in api["Body"]["paths"].values()
            for method in path.values()
        ]
        broken += [f"{name}: {uri}" for uri in uris if not set(placeholders(uri["Fn::Sub"])) & aliases]
    return broken + ([] if calls else ["nothing calls a function"])


def aliases_are_shifted_by_codedeploy(template: Template) -> list[str]:
    """Each function has one alias on its own version, and a group with our role that goes back on an alarm."""
    broken = []
    for name in resources(template, FUNCTION):
        found = [key for key, one in resources(template, ALIAS).items() if referred(one["FunctionName"]) == name]
        if len(found) != 1:
            broken.append(f"{name}: aliases {found}")
            continue
        alias = template["Resources"][found[0]]
        version = resources(template, VERSION).get(referred(alias["Properties"]["FunctionVersion"]) or "", {})
        update = alias.get("UpdatePolicy", {}).get("CodeDeployLambdaAliasUpdate", {})
        group = resources(template, "AWS::CodeDeploy::DeploymentGroup").get(
            referred(update.get("DeploymentGroupName")) or ""
        )
        if referred(version.get("FunctionName")) != name or group is None or not _goes_back(template, group):
            broken.append(f"{name}: version or deployment group")
    return broken


def deployments_watch_the_new_version(template: Template) -> list[str]:
    """By an alarm of its own: CodeDeploy does not start while one is red, even if the old version made it so."""
    broken = []
    alarms = resources(template, "AWS::CloudWatch::Alarm")
    for name, group in resources(template, "AWS::CodeDeploy::DeploymentGroup").items():
        for entry in group.get("AlarmConfiguration", {}).get("Alarms", [{}]):
            alarm = alarms.get(referred(entry.get("Name")) or "", {})
            told = {one["Name"]: one["Value"] for one in alarm.get("Dimensions", [])}
            version = referred(told.get("ExecutedVersion"))
            of_alias = str(told.get("Resource", {})).endswith(":live'}")
            if (
                version not in resources(template, VERSION)
                or version not in names_in(alarm.get("AlarmName"))
                or not of_alias
            ):
                broken.append(f"{name}: {alarm.get('AlarmName')}")
    return broken


def failures_are_still_reported_by_item(template: Template) -> list[str]:
    """In the mapping that AWS gets."""
    every = resources(template, MAPPING).items()
    return [name for name, one in every if one.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]]


def roles_are_ours(template: Template) -> list[str]:
    """SAM makes a role, with policies of AWS's, wherever it finds none."""
    ours = {"QueueFunctionRole", "ApiFunctionRole", "DeploymentRole"}
    own = set(resources(template, "AWS::IAM::ManagedPolicy"))
    every = resources(template, "AWS::IAM::Role")
    return sorted(set(every) ^ ours) + [
        f"{name}: {policy}"
        for name, role in every.items()
        for policy in role.get("ManagedPolicyArns", [])
        if referred(policy) not in own
    ]


def roles_are_taken_by_one_service(template: Template) -> list[str]:
    """And by nobody else."""
    wanted = {"DeploymentRole": "codedeploy.amazonaws.com"}
    return [
        name
        for name, role in resources(template, "AWS::IAM::Role").items()
        for statement in statements(role["AssumeRolePolicyDocument"])
        if statement["Principal"] != {"Service": wanted.get(name, "lambda.amazonaws.com")}
    ]


def settings_hold_a_value_for_each_place(template: Template) -> list[str]:
    """What the policy's description may hold, were every parameter as long as it may be; lists as in use."""
    listed = {"VpcSubnetIds": 3 * 25, "VpcSecurityGroupIds": 3 * 21}
    settings = resources(template, "AWS::IAM::ManagedPolicy")["FunctionSettings"]["Description"]
    lengths = [listed.get(name) or _longest(template["Parameters"][name]) for name in set(names_in(settings))]
    return [f"{sum(lengths)} characters"] if sum(lengths) + len(lengths) > 1000 else []


def _longest(parameter: Resource) -> int:
    values = [parameter.get("MaxValue", ""), *parameter.get("AllowedValues", [])]
    return max(parameter.get("MaxLength", 0), *(len(str(value)) for value in values)) or (
        30 if "AllowedPattern" in parameter else 1001
    )


def _goes_back(template: Template, group: dict[str, Any]) -> bool:
    events = group["AutoRollbackConfiguration"]["Events"]
    kind = group["DeploymentConfigName"]["Fn::Sub"]
    return (
        group["AutoRollbackConfiguration"]["Enabled"]
        and {"DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM"} <= set(events)
        and group.get("AlarmConfiguration", {}).get("Enabled", False)
        and referred(group["ServiceRoleArn"]) == "DeploymentRole"
        and kind[0] == f"{CONFIGURATION}${{ConfigName}}"
        and re.fullmatch(r"AllAtOnce|(Canary|Linear)10Percent\w+", kind[1]["ConfigName"]) is not None
    )


INVARIANTS: tuple[Invariant, ...] = (
    what_is_named_is_there,
    nothing_waits_for_itself,
    functions_are_called_by_their_alias,
    aliases_are_shifted_by_codedeploy,
    deployments_watch_the_new_version,
    failures_are_still_reported_by_item,
    roles_are_ours,
    roles_are_taken_by_one_service,
    settings_hold_a_value_for_each_place,
)
