"""Changes for the worse to permissions and to the functions' environment."""

from __future__ import annotations

import invariants_access as access
from mutation import GONE, Mutation

QUEUE_ROLE = "QueueFunctionRole/Properties/Policies/0/PolicyDocument/Statement"
QUEUE_KEY = "QueueFunctionRole/Properties/Policies/2/Fn::If/1/PolicyDocument/Statement/0"
API_ROLE = "ApiFunctionRole/Properties/Policies/0/PolicyDocument/Statement"
API_KEY = "ApiFunctionRole/Properties/Policies/1/Fn::If/1/PolicyDocument/Statement/0"
DEPLOYMENT_ROLE = "DeploymentRole/Properties/Policies/0/PolicyDocument/Statement"
VPC_DENIAL = "VpcPolicy/Properties/PolicyDocument/Statement/1"

MUTATIONS = [
    Mutation(access.allowed_actions_are_named, f"{QUEUE_ROLE}/2/Action", "sqs:*"),
    Mutation(access.allowed_actions_are_named, f"{QUEUE_ROLE}/2/Action/1", "sqs:Delete*"),
    Mutation(access.allowed_actions_are_named, f"{API_ROLE}/1/Action", "*"),
    Mutation(access.allowed_resources_are_named, f"{QUEUE_ROLE}/2/Resource", "*"),
    Mutation(access.allowed_resources_are_named, f"{QUEUE_ROLE}/4/Resource", {"Fn::Sub": "${SourcesBucket.Arn}/*"}),
    Mutation(access.allowed_resources_are_named, f"{QUEUE_ROLE}/7/Resource", {"Fn::Sub": "${ResultsBucket.Arn}/*"}),
    Mutation(access.allowed_resources_are_named, f"{API_ROLE}/1/Resource", GONE),
    Mutation(access.allowed_resources_are_named, f"{API_ROLE}/1/Resource", {"Fn::Join": [":", ["arn", "*"]]}),
    Mutation(
        access.allowed_resources_are_named,
        "VpcPolicy/Properties/PolicyDocument/Statement/0/Action/0",
        "ec2:RunInstances",
    ),
    Mutation(
        access.allowed_resources_are_named,
        "RedisIamPolicy/Properties/PolicyDocument/Statement/0/Resource/Fn::If/2/1",
        "*",
    ),
    Mutation(access.allowed_resources_are_named, f"{DEPLOYMENT_ROLE}/0/Resource", "*"),
    Mutation(access.permissions_are_written_out, "ApiFunction/Properties/Role", GONE),
    Mutation(access.permissions_are_written_out, "ApiFunction/Properties/Policies", ["AmazonS3FullAccess"]),
    Mutation(
        access.permissions_are_written_out,
        "QueueFunctionRole/Properties/ManagedPolicyArns",
        ["arn:aws:iam::aws:policy/AmazonSQSFullAccess"],
    ),
    Mutation(access.variables_are_known, "/Globals/Function/Environment/Variables/EMBAKERY_REDIS_ULR", ""),
    Mutation(access.variables_are_known, "ApiFunction/Properties/Environment/Variables/EMBAKERY_DESTINATION", "{}"),
    Mutation(
        access.variables_hold_no_secret, "/Globals/Function/Environment/Variables/EMBAKERY_REDIS_PASSWORD", "hunter2"
    ),
    Mutation(
        access.variables_hold_no_secret, "/Globals/Function/Environment/Variables/EMBAKERY_CACHE_SECRET_ARN", "abc"
    ),
    Mutation(access.variables_hold_no_secret, "/Parameters/RedisUrl/NoEcho", True),
    Mutation(access.variables_hold_no_secret, "/Parameters/RedisPasswordSecretArn/AllowedPattern", ".*"),
    Mutation(
        access.variables_hold_no_secret,
        "ApiFunction/Properties/Environment/Variables/LOG_LEVEL",
        {"Fn::Sub": "{{resolve:secretsmanager:${CacheSecret}}}"},
    ),
    Mutation(access.redis_url_takes_no_credentials, "/Parameters/RedisUrl/AllowedPattern", GONE),
    Mutation(access.redis_url_takes_no_credentials, "/Parameters/RedisUrl/AllowedPattern", "^rediss://[^@]+$"),
    Mutation(access.key_is_used_through_services, f"{QUEUE_KEY}/Condition", GONE),
    Mutation(access.key_is_used_through_services, f"{API_KEY}/Condition/StringEquals/kms:ViaService", []),
    Mutation(access.network_interfaces_are_lambdas_business, VPC_DENIAL, GONE),
    Mutation(access.network_interfaces_are_lambdas_business, f"{VPC_DENIAL}/Action/1", GONE),
    Mutation(access.network_interfaces_are_lambdas_business, f"{VPC_DENIAL}/Condition/ArnLike", {}),
    Mutation(access.policies_are_not_named, "QueueFunctionRole/Properties/RoleName", "embakery-queue"),
    Mutation(access.policies_are_not_named, "FunctionSettings/Properties/ManagedPolicyName", "settings"),
]
