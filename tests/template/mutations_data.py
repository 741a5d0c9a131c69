"""Changes for the worse to stored data, the key and the HTTP side."""

from __future__ import annotations

import invariants_data as data
from mutation import GONE, Mutation

DENIAL = "PolicyDocument/Statement/0"

MUTATIONS = [
    Mutation(
        data.buckets_are_private,
        "ResultsBucket/Properties/PublicAccessBlockConfiguration/RestrictPublicBuckets",
        False,
    ),
    Mutation(data.buckets_are_private, "ResultsBucket/Properties/PublicAccessBlockConfiguration", GONE),
    Mutation(data.buckets_are_encrypted, "ResultsBucket/Properties/BucketEncryption", GONE),
    Mutation(data.buckets_refuse_plain_text, "ResultsBucketPolicy", GONE),
    Mutation(
        data.buckets_refuse_plain_text,
        f"ResultsBucketPolicy/Properties/{DENIAL}/Resource",
        [{"Fn::GetAtt": ["ResultsBucket", "Arn"]}],
    ),
    Mutation(data.data_outlives_the_stack, "ResultsBucket/DeletionPolicy", GONE),
    Mutation(data.data_outlives_the_stack, "ResultsBucket/UpdateReplacePolicy", "Delete"),
    Mutation(data.data_outlives_the_stack, "SourcesBucket/DeletionPolicy", GONE),
    Mutation(data.data_outlives_the_stack, "StateTable/Properties/TimeToLiveSpecification", GONE),
    Mutation(data.data_outlives_the_stack, "ResultsTable/DeletionPolicy", "Delete"),
    Mutation(data.data_outlives_the_stack, "ResultsTable/UpdateReplacePolicy", GONE),
    Mutation(data.tables_are_encrypted_and_recoverable, "ResultsTable/Properties/SSESpecification", GONE),
    Mutation(data.tables_are_encrypted_and_recoverable, "StateTable/Properties/SSESpecification", GONE),
    Mutation(
        data.tables_are_encrypted_and_recoverable,
        "ResultsTable/Properties/PointInTimeRecoverySpecification/PointInTimeRecoveryEnabled",
        False,
    ),
    Mutation(data.http_is_signed_and_throttled, "HttpApi/Properties/Auth", GONE),
    Mutation(data.http_is_signed_and_throttled, "HttpApi/Properties/DefaultRouteSettings", GONE),
    Mutation(data.http_is_signed_and_throttled, "HttpApi/Properties/AccessLogSettings", GONE),
    Mutation(
        data.http_is_signed_and_throttled,
        "ApiFunction/Properties/Events/Embeddings/Properties/Auth",
        {"Authorizer": "NONE"},
    ),
    Mutation(data.http_is_signed_and_throttled, "ApiFunction/Properties/Events/Rerank/Properties/ApiId", GONE),
    Mutation(data.http_functions_end_before_the_gateway, "ApiFunction/Properties/Timeout", 30),
    Mutation(
        data.buckets_are_encrypted,
        "SourcesBucket/Properties/BucketEncryption/ServerSideEncryptionConfiguration/0/Fn::If/1/BucketKeyEnabled",
        GONE,
    ),
    Mutation(data.tables_are_encrypted_and_recoverable, "StateTable/Properties/SSESpecification/KMSMasterKeyId", GONE),
    Mutation(data.tables_are_encrypted_and_recoverable, "ResultsTable/Properties/DeletionProtectionEnabled", False),
    Mutation(data.key_is_in_everything_that_takes_one, "HttpApiLogGroup/Properties/KmsKeyId", GONE),
    Mutation(data.key_is_in_everything_that_takes_one, "CacheSecret/Properties/KmsKeyId", GONE),
    Mutation(data.key_is_in_everything_that_takes_one, "Cache/Properties/KmsKeyId", {"Ref": "KmsKeyArn"}),
    Mutation(data.key_is_in_everything_that_takes_one, "/Globals/Function/KmsKeyArn", GONE),
]
