"""What must hold for stored results and for the HTTP side.

Each function returns what breaks it, one line a finding; none means that it holds.
"""

from __future__ import annotations

from typing import Any

from template_source import (
    NO_VALUE,
    Invariant,
    Template,
    denies_plain_text,
    functions,
    referred,
    resources,
    sources,
    statements,
)

BUCKET, TABLE = "AWS::S3::Bucket", "AWS::DynamoDB::Table"
KEY = {"Ref": "KmsKeyArn"}
# Buckets, tables and queues have invariants of their own.
TAKE_A_KEY = {
    "AWS::Logs::LogGroup": "KmsKeyId",
    "AWS::SecretsManager::Secret": "KmsKeyId",
    "AWS::ElastiCache::ServerlessCache": "KmsKeyId",
}


def buckets_are_private(template: Template) -> list[str]:
    """All four blocks: each closes another door."""
    blocks = ["BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"]
    wanted = dict.fromkeys(blocks, True)
    every = resources(template, BUCKET).items()
    return [name for name, bucket in every if bucket.get("PublicAccessBlockConfiguration") != wanted]


def buckets_are_encrypted(template: Template) -> list[str]:
    """Said in the template, not left to the region's default; by the given key with one call for many objects."""
    by_key = {
        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
        "BucketKeyEnabled": True,
    }
    wanted = [{"Fn::If": ["UsesKey", by_key, {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}]
    every = resources(template, BUCKET).items()
    return [
        name
        for name, bucket in every
        if bucket.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration") != wanted
    ]


def buckets_refuse_plain_text(template: Template) -> list[str]:
    """The denial covers the bucket and its objects."""
    protected = set()
    for policy in resources(template, "AWS::S3::BucketPolicy").values():
        bucket = referred(policy["Bucket"])
        whole = [{"Fn::GetAtt": [bucket, "Arn"]}, {"Fn::Sub": f"${{{bucket}.Arn}}/*"}]
        protected |= {
            bucket
            for statement in statements(policy)
            if denies_plain_text(statement, "s3:*") and statement["Resource"] == whole
        }
    return [name for name in resources(template, BUCKET) if name not in protected]


def data_outlives_the_stack(template: Template) -> list[str]:
    """Neither deleting the stack nor replacing a resource deletes results. What expires by itself is no result."""
    stores = {
        name: template["Resources"][name]
        for kind in (BUCKET, TABLE)
        for name, store in resources(template, kind).items()
        if not expires(store)
    }
    policies = ("DeletionPolicy", "UpdateReplacePolicy")
    return [
        f"{name}: {policy}" for name, store in stores.items() for policy in policies if store.get(policy) != "Retain"
    ]


def tables_are_encrypted_and_recoverable(template: Template) -> list[str]:
    """Encryption under a key that the account sees; any second of the last 35 days; no deletion by one wrong call."""
    encrypted = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": {"Fn::If": ["UsesKey", KEY, NO_VALUE]}}
    kept = {
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
        "DeletionProtectionEnabled": True,
    }
    return [
        name
        for name, table in resources(template, TABLE).items()
        if table.get("SSESpecification") != encrypted or not (expires(table) or kept.items() <= table.items())
    ]


def key_is_in_everything_that_takes_one(template: Template) -> list[str]:
    """One resource without the key, and what it holds is out of the key owner's hands."""
    wanted = {"Fn::If": ["UsesKey", KEY, NO_VALUE]}
    missing = [
        f"{name}: {given}"
        for kind, given in TAKE_A_KEY.items()
        for name, resource in resources(template, kind).items()
        if resource.get(given) != wanted
    ]
    return missing + [name for name, function in functions(template).items() if function.get("KmsKeyArn") != wanted]


def expires(table: dict[str, Any]) -> bool:
    """Say whether a table's items go away by themselves."""
    return bool(table.get("TimeToLiveSpecification", {}).get("Enabled"))


def http_is_signed_and_throttled(template: Template) -> list[str]:
    """IAM signs every route, none opts out, and a flood answers 429."""
    signed = {"EnableIamAuthorizer": True, "DefaultAuthorizer": "AWS_IAM"}
    limits = {"ThrottlingRateLimit", "ThrottlingBurstLimit"}
    broken = [
        name
        for name, api in resources(template, "AWS::Serverless::HttpApi").items()
        if api.get("Auth") != signed
        or set(api.get("DefaultRouteSettings", {})) != limits
        or "AccessLogSettings" not in api
    ]
    routes = [route for function in functions(template).values() for route in sources(function, "HttpApi").items()]
    return broken + [name for name, route in routes if "Auth" in route or "ApiId" not in route]


def http_functions_end_before_the_gateway(template: Template) -> list[str]:
    """API Gateway gives up after 30 s: what runs on answers nobody."""
    every = functions(template).items()
    return [name for name, function in every if sources(function, "HttpApi") and not function["Timeout"] < 30]


INVARIANTS: tuple[Invariant, ...] = (
    buckets_are_private,
    buckets_are_encrypted,
    buckets_refuse_plain_text,
    data_outlives_the_stack,
    tables_are_encrypted_and_recoverable,
    key_is_in_everything_that_takes_one,
    http_is_signed_and_throttled,
    http_functions_end_before_the_gateway,
)
