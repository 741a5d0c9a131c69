"""template.yaml holds every invariant, and every invariant notices the change that it is there for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import invariants_access as access
import invariants_data as data
import invariants_queue as queue
import invariants_watch as watch
import pytest
from template_source import Invariant, Template, functions, load_template, resources, sources

INVARIANTS = (*queue.INVARIANTS, *watch.INVARIANTS, *access.INVARIANTS, *data.INVARIANTS)
GONE = object()


@dataclass(frozen=True)
class Mutation:
    """One change to the template: the dotted path to a value below Resources (or from the top, after a slash)."""

    breaks: Invariant
    path: str
    value: Any

    def __str__(self) -> str:
        shown = "gone" if self.value is GONE else json.dumps(self.value)
        return f"{self.breaks.__name__}: {self.path} {shown}"

    def apply(self, template: Template) -> None:
        """Change the template in place. Raises KeyError or IndexError where the path leads nowhere."""
        path = self.path.removeprefix("/") if self.path.startswith("/") else f"Resources/{self.path}"
        *way, last = (int(step) if step.isdecimal() else step for step in path.split("/"))
        node: Any = template
        for step in way:
            node = node[step]
        if self.value is GONE:
            del node[last]
        else:
            node[last] = self.value


DOCUMENTS = "QueueFunction/Properties/Events/Documents/Properties"
QUEUE_ROLE = "QueueFunctionRole/Properties/Policies/0/PolicyDocument/Statement"
API_ROLE = "ApiFunctionRole/Properties/Policies/0/PolicyDocument/Statement"
DENIAL = "PolicyDocument/Statement/0"
QUEUES = ("DocumentsQueue", "DeadLetterQueue", "ResultsQueue", "BulkQueue")

MUTATIONS = [
    Mutation(queue.visibility_covers_six_tries_and_the_window, "DocumentsQueue/Properties/VisibilityTimeout", 779),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "DocumentsQueue/Properties/VisibilityTimeout", GONE),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "QueueFunction/Properties/Timeout", 121),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "/Parameters/BatchingWindowSeconds/MaxValue", 61),
    Mutation(queue.visibility_covers_six_tries_and_the_window, "/Parameters/BatchingWindowSeconds/MaxValue", GONE),
    Mutation(queue.messages_are_tried_ten_times, "DocumentsQueue/Properties/RedrivePolicy/maxReceiveCount", 9),
    Mutation(queue.messages_are_tried_ten_times, "DocumentsQueue/Properties/RedrivePolicy", GONE),
    Mutation(queue.failures_are_reported_by_item, f"{DOCUMENTS}/FunctionResponseTypes", GONE),
    Mutation(queue.failures_are_reported_by_item, f"{DOCUMENTS}/FunctionResponseTypes", []),
    Mutation(queue.concurrency_fits_the_reservation, "QueueFunction/Properties/ReservedConcurrentExecutions", 5),
    Mutation(queue.concurrency_fits_the_reservation, f"{DOCUMENTS}/ScalingConfig", GONE),
    Mutation(queue.concurrency_fits_the_reservation, f"{DOCUMENTS}/ScalingConfig/MaximumConcurrency", 1001),
    Mutation(queue.concurrency_is_bounded, f"{DOCUMENTS}/ScalingConfig", GONE),
    *(Mutation(queue.queues_are_encrypted, f"{name}/Properties/SqsManagedSseEnabled", GONE) for name in QUEUES),
    *(Mutation(queue.queues_are_encrypted, f"{name}/Properties/SqsManagedSseEnabled", False) for name in QUEUES),
    *(Mutation(queue.queues_take_a_mebibyte, f"{name}/Properties/MaximumMessageSize", 262144) for name in QUEUES),
    *(Mutation(queue.queues_refuse_plain_text, f"{name}Policy", GONE) for name in QUEUES),
    *(Mutation(queue.queues_refuse_plain_text, f"{name}Policy/Properties/Queues", []) for name in QUEUES),
    *(Mutation(queue.queues_refuse_plain_text, f"{name}Policy/Properties/{DENIAL}/Condition", {}) for name in QUEUES),
    *(Mutation(queue.queues_refuse_plain_text, f"{name}Policy/Properties/{DENIAL}/Effect", "Allow") for name in QUEUES),
    Mutation(
        queue.queues_refuse_plain_text,
        f"ResultsQueuePolicy/Properties/{DENIAL}/Resource",
        {"Fn::GetAtt": ["DocumentsQueue", "Arn"]},
    ),
    Mutation(queue.dead_letters_are_kept_longest, "DeadLetterQueue/Properties/MessageRetentionPeriod", 345600),
    Mutation(queue.dead_letters_are_kept_longest, "DocumentsQueue/Properties/MessageRetentionPeriod", 1209600),
    Mutation(queue.dead_letter_queue_takes_its_source_only, "DocumentsQueue/Properties/QueueName", GONE),
    Mutation(
        queue.dead_letter_queue_takes_its_source_only,
        "DocumentsQueue/Properties/QueueName",
        {"Fn::Sub": "${AWS::StackName}-papers"},
    ),
    Mutation(
        queue.dead_letter_queue_takes_its_source_only,
        "DeadLetterQueue/Properties/RedriveAllowPolicy/redrivePermission",
        "allowAll",
    ),
    Mutation(watch.dead_letters_raise_an_alarm, "DeadLettersAlarm", GONE),
    Mutation(watch.dead_letters_raise_an_alarm, "DeadLettersAlarm/Properties/MetricName", "NumberOfMessagesSent"),
    Mutation(watch.dead_letters_raise_an_alarm, "DeadLettersAlarm/Properties/Threshold", 1),
    Mutation(
        watch.dead_letters_raise_an_alarm,
        "DeadLettersAlarm/Properties/Dimensions/0/Value",
        {"Fn::GetAtt": ["DocumentsQueue", "QueueName"]},
    ),
    Mutation(watch.old_messages_raise_an_alarm, "DocumentsAgeAlarm", GONE),
    Mutation(watch.old_messages_raise_an_alarm, "DocumentsAgeAlarm/Properties/Threshold", 780),
    Mutation(watch.function_errors_raise_an_alarm, "QueueErrorsAlarm", GONE),
    Mutation(watch.function_errors_raise_an_alarm, "ApiErrorsAlarm", GONE),
    Mutation(watch.alarms_notify, "ApiErrorsAlarm/Properties/AlarmActions", GONE),
    Mutation(watch.logs_expire, "QueueLogGroup/Properties/RetentionInDays", GONE),
    Mutation(watch.logs_expire, "HttpApiLogGroup/Properties/RetentionInDays", GONE),
    Mutation(watch.functions_log_to_groups_of_the_template, "ApiFunction/Properties/LoggingConfig", GONE),
    Mutation(watch.functions_log_to_groups_of_the_template, "ApiLogGroup", GONE),
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
        access.allowed_resources_are_named, "RedisIamPolicy/Properties/PolicyDocument/Statement/0/Resource/0", "*"
    ),
    Mutation(access.roles_allow_exactly_what_is_needed, f"{API_ROLE}/1/Action", ["secretsmanager:PutSecretValue"]),
    Mutation(access.roles_allow_exactly_what_is_needed, f"{QUEUE_ROLE}/2/Action/1", "sqs:PurgeQueue"),
    Mutation(access.roles_allow_exactly_what_is_needed, f"{QUEUE_ROLE}/2", GONE),
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
]


@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda invariant: invariant.__name__)
def test_the_template_holds(invariant: Invariant) -> None:
    assert invariant(load_template()) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_change_for_the_worse_is_noticed(mutation: Mutation) -> None:
    template = load_template()
    mutation.apply(template)
    assert mutation.breaks(template) != []


def test_every_invariant_has_a_change_that_it_notices() -> None:
    assert {mutation.breaks for mutation in MUTATIONS} == set(INVARIANTS)


def test_visibility_timeout_is_no_longer_than_needed() -> None:
    assert resources(load_template(), "AWS::SQS::Queue")["DocumentsQueue"]["VisibilityTimeout"] == 6 * 120 + 60


def test_destinations_are_json_after_substitution() -> None:
    template = load_template()
    source = functions(template)["QueueFunction"]["Environment"]["Variables"]["EMBAKERY_DESTINATIONS"]["Fn::Sub"]
    url = "https://sqs.us-east-1.amazonaws.com/123456789012/results"
    names = {"${ResultsBucket}": "bucket", "${ResultsTable}": "table", "${ResultsQueue}": url}
    for placeholder, value in names.items():
        source = source.replace(placeholder, value)
    assert json.loads(source) == {
        "default": "s3://bucket/results/",
        "table": "dynamodb://table",
        "queue": f"sqs+{url}",
    }


def test_access_log_is_json_without_bodies() -> None:
    settings = resources(load_template(), "AWS::Serverless::HttpApi")["HttpApi"]["AccessLogSettings"]
    assert set(json.loads(settings["Format"])) == {
        "requestId", "time", "route", "status", "latency_ms", "response_bytes", "error",
    }  # fmt: skip


def test_routes_are_those_of_the_handler() -> None:
    routes = sources(functions(load_template())["ApiFunction"], "HttpApi").values()
    assert {f"{route['Method']} {route['Path']}" for route in routes} == {
        "POST /v1/embeddings",
        "POST /v1/rerank",
        "GET /health",
        "GET /v1/models",
    }
