"""Changes for the worse to the cache that the stack can create."""

from __future__ import annotations

import invariants_cache as cache
from mutation import GONE, Mutation

USER, GROUP, CACHE = "CacheUser/Properties", "CacheUserGroup/Properties", "Cache/Properties"
VARIABLES = "/Globals/Function/Environment/Variables"
ANYBODY = {"IpProtocol": "tcp", "FromPort": 6379, "ToPort": 6379, "CidrIp": "10.0.0.0/8"}

MUTATIONS = [
    Mutation(cache.cache_costs_no_more_than_was_said, f"{CACHE}/CacheUsageLimits", GONE),
    Mutation(cache.cache_costs_no_more_than_was_said, f"{CACHE}/CacheUsageLimits/ECPUPerSecond", GONE),
    Mutation(cache.cache_costs_no_more_than_was_said, f"{CACHE}/CacheUsageLimits/DataStorage/Maximum", 5000),
    Mutation(cache.cache_is_reached_by_the_functions_only, "CacheIngress", GONE),
    Mutation(cache.cache_is_reached_by_the_functions_only, "CacheIngress/Properties/SourceSecurityGroupId", GONE),
    Mutation(cache.cache_is_reached_by_the_functions_only, "CacheIngress/Properties/ToPort", 6380),
    Mutation(cache.cache_is_reached_by_the_functions_only, "CacheIngress/Properties/IpProtocol", "-1"),
    Mutation(
        cache.cache_is_reached_by_the_functions_only, "CacheSecurityGroup/Properties/SecurityGroupIngress", [ANYBODY]
    ),
    Mutation(cache.security_groups_say_where_to, "CacheSecurityGroup/Properties/SecurityGroupEgress", GONE),
    Mutation(cache.security_groups_say_where_to, "FunctionSecurityGroup/Properties/SecurityGroupEgress", []),
    Mutation(
        cache.security_groups_say_where_to, "CacheSecurityGroup/Properties/SecurityGroupEgress/0/CidrIp", "0.0.0.0/0"
    ),
    Mutation(cache.cache_user_signs_in_with_iam, f"{USER}/AuthenticationMode/Type", "no-password-required"),
    Mutation(cache.cache_user_signs_in_with_iam, f"{USER}/UserName", "default"),
    Mutation(cache.cache_user_signs_in_with_iam, f"{USER}/UserId", {"Fn::Sub": "${AWS::StackName}-cache"}),
    Mutation(cache.cache_user_signs_in_with_iam, f"{CACHE}/ServerlessCacheName", {"Ref": "AWS::StackName"}),
    Mutation(cache.cache_user_may_do_what_the_backend_does, f"{USER}/AccessString", "on ~* +@all"),
    Mutation(
        cache.cache_user_may_do_what_the_backend_does,
        f"{USER}/AccessString",
        "on resetchannels ~embakery:* -@all +get +mget +set +flushall",
    ),
    Mutation(
        cache.cache_user_may_do_what_the_backend_does,
        f"{USER}/AccessString",
        "on resetchannels ~vectors:* -@all +get +mget +set",
    ),
    Mutation(cache.cache_admits_its_user_alone, f"{CACHE}/UserGroupId", GONE),
    Mutation(cache.cache_admits_its_user_alone, f"{GROUP}/UserIds", ["default", {"Ref": "CacheUser"}]),
    Mutation(cache.cache_admits_its_user_alone, f"{GROUP}/Engine", "redis"),
    Mutation(
        cache.functions_find_the_cache,
        f"{VARIABLES}/EMBAKERY_REDIS_URL/Fn::If/1",
        {"Fn::Sub": "redis://${Cache.Endpoint.Address}:${Cache.Endpoint.Port}"},
    ),
    Mutation(cache.functions_find_the_cache, f"{VARIABLES}/EMBAKERY_REDIS_USERNAME", {"Ref": "RedisUsername"}),
    Mutation(cache.functions_find_the_cache, f"{VARIABLES}/EMBAKERY_REDIS_IAM_CACHE_NAME/Fn::If/0", "HasCache"),
    Mutation(cache.created_cache_is_complete_or_absent, "FunctionEgressToCache/Condition", GONE),
    Mutation(cache.created_cache_is_complete_or_absent, "CacheUser/Condition", "HasCache"),
]
