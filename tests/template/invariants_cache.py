"""What must hold for the cache that the stack can create: who reaches it, what they may do there, what it may cost.

Each function returns what breaks it, one line a finding; none means that it holds.
"""

from __future__ import annotations

import re
from typing import Any

from template_source import Invariant, Resource, Template, branches, functions, referred, resources

from embakery.cache import CacheSecret, MemoryBackend, VectorCache

CACHE = "AWS::ElastiCache::ServerlessCache"
# What storage/redis_backend.py sends; test_cache_access.py runs it against a server with these rights.
COMMANDS = {"get", "mget", "set"}
PORT = 6379
LOWER_CASE_ID = {"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]}
LOWER_CASE_NAME = {"Fn::Join": ["-", ["embakery", {"Fn::Select": [0, {"Fn::Split": ["-", LOWER_CASE_ID]}]}]]}


def cache_costs_no_more_than_was_said(template: Template) -> list[str]:
    """A serverless cache is paid by use, and grows as long as somebody writes."""
    wanted = {
        "DataStorage": {"Maximum": {"Ref": "CacheMaximumGigabytes"}, "Unit": "GB"},
        "ECPUPerSecond": {"Maximum": {"Ref": "CacheMaximumEcpuPerSecond"}},
    }
    return [name for name, cache in resources(template, CACHE).items() if cache.get("CacheUsageLimits") != wanted]


def cache_is_reached_by_the_functions_only(template: Template) -> list[str]:
    """One rule lets somebody in, to one port; nobody reaches the functions."""
    groups = {group for cache in resources(template, CACHE).values() for group in map(referred, _groups(cache))}
    callers = {
        referred(group)
        for function in functions(template).values()
        for config in branches(function["VpcConfig"])
        for way in branches(config["SecurityGroupIds"])
        if isinstance(way, list)
        for group in way
    }
    entries = list(resources(template, "AWS::EC2::SecurityGroupIngress").values())
    wanted = [
        (group, caller, "tcp", PORT, PORT) for group in sorted(map(str, groups)) for caller in sorted(map(str, callers))
    ]
    return ([] if [_rule(entry) for entry in entries] == wanted else [f"lets in: {entries}"]) + [
        f"{name}: lets in by itself"
        for name, group in resources(template, "AWS::EC2::SecurityGroup").items()
        if "SecurityGroupIngress" in group
    ]


def security_groups_say_where_to(template: Template) -> list[str]:
    """EC2 lets a group without any rule reach everything."""
    return [
        name
        for name, group in resources(template, "AWS::EC2::SecurityGroup").items()
        if not group.get("SecurityGroupEgress")
        or any(rule["IpProtocol"] == "-1" and rule["CidrIp"] != "127.0.0.1/32" for rule in group["SecurityGroupEgress"])
    ]


def cache_user_signs_in_with_iam(template: Template) -> list[str]:
    """IAM takes only a user whose name is its id, both in lower case, and the same goes for the cache's name."""
    users = resources(template, "AWS::ElastiCache::User")
    broken = [
        name
        for name, user in users.items()
        if user.get("AuthenticationMode") != {"Type": "iam"}
        or user["UserName"] != user["UserId"]
        or user["UserId"] != LOWER_CASE_NAME
    ]
    names = [cache["ServerlessCacheName"] for cache in resources(template, CACHE).values()]
    return broken + [
        f"cache's name {name}" for name in names if referred(name) not in users and name != LOWER_CASE_NAME
    ]


def cache_user_may_do_what_the_backend_does(template: Template) -> list[str]:
    """Three commands, on keys of ours."""
    secret = CacheSecret(b"0" * 32)
    key = VectorCache(MemoryBackend(), secret=secret, space_id="s", dimension=1).key("tenant", (1,))
    prefix = key.decode().partition(":")[0]
    wanted = ["on", "resetchannels", f"~{prefix}:*", "-@all", *(f"+{command}" for command in sorted(COMMANDS))]
    users = resources(template, "AWS::ElastiCache::User").items()
    return [name for name, user in users if user["AccessString"].split() != wanted]


def cache_admits_its_user_alone(template: Template) -> list[str]:
    """Without a user group, a serverless cache lets everybody in who reaches it. Engines must be one."""
    groups, users = resources(template, "AWS::ElastiCache::UserGroup"), resources(template, "AWS::ElastiCache::User")
    broken = [
        name for name, cache in resources(template, CACHE).items() if referred(cache.get("UserGroupId")) not in groups
    ]
    broken += [name for name, group in groups.items() if [referred(user) for user in group["UserIds"]] != list(users)]
    every = {**resources(template, CACHE), **groups, **users}
    return broken + [name for name, one in every.items() if one["Engine"] != "valkey"]


def functions_find_the_cache(template: Template) -> list[str]:
    """By TLS, as the user, with the cache's name for the token; and in its subnets."""
    wanted: dict[str, Any] = {
        "EMBAKERY_REDIS_URL": {"Fn::Sub": "rediss://${Cache.Endpoint.Address}:${Cache.Endpoint.Port}"},
        "EMBAKERY_REDIS_USERNAME": {"Ref": "CacheUser"},
        "EMBAKERY_REDIS_IAM_CACHE_NAME": {"Ref": "Cache"},
    }
    broken = []
    for name, function in functions(template).items():
        variables = function["Environment"]["Variables"]
        for variable, value in wanted.items():
            chosen = variables.get(variable, {})
            if not isinstance(chosen, dict) or chosen.get("Fn::If", [])[:2] != ["CreatesCache", value]:
                broken.append(f"{name}: {variable}")
    return broken


def created_cache_is_complete_or_absent(template: Template) -> list[str]:
    """Everything that belongs to it comes and goes with one condition."""
    kinds = r"AWS::(ElastiCache::.+|EC2::SecurityGroup.*)"
    return [
        name
        for name, resource in template["Resources"].items()
        if re.fullmatch(kinds, resource["Type"]) and resource.get("Condition") != "CreatesCache"
    ]


def _groups(cache: Resource) -> list[Any]:
    return list(cache.get("SecurityGroupIds", []))


def _rule(entry: Resource) -> tuple[Any, ...]:
    caller = referred(entry.get("SourceSecurityGroupId"))
    return referred(entry["GroupId"]), caller, entry["IpProtocol"], entry["FromPort"], entry["ToPort"]


INVARIANTS: tuple[Invariant, ...] = (
    cache_costs_no_more_than_was_said,
    cache_is_reached_by_the_functions_only,
    security_groups_say_where_to,
    cache_user_signs_in_with_iam,
    cache_user_may_do_what_the_backend_does,
    cache_admits_its_user_alone,
    functions_find_the_cache,
    created_cache_is_complete_or_absent,
)
