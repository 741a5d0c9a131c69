"""Creates in the emulator what template.yaml creates in an account: queues, bucket and table."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.config import Config

from local.environment import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

BUCKET = "embakery"
TABLE = "embakery-results"
STATE_TABLE = "embakery-state"
# PITFALLS: throttling consumes receive counts, so fewer than 5 dead-letters messages that never ran.
# An isolated killer uses up one each time it is met (docs/decisions/0015).
MAX_RECEIVE_COUNT = 10
_FIFO = {"FifoQueue": "true"}


@dataclass(frozen=True, slots=True)
class Queue:
    """An SQS queue."""

    name: str
    url: str
    arn: str


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that was created."""

    documents: Queue
    documents_fifo: Queue
    dead_letters: Queue
    dead_letters_fifo: Queue
    bulk: Queue
    results: Queue
    bucket: str
    table: str
    state_table: str


@dataclass(frozen=True, slots=True)
class AwsClients:
    """boto3 clients of the emulator. They read nothing of this machine's AWS configuration and use no proxy."""

    sqs: SQSClient
    s3: S3Client
    dynamodb: DynamoDBClient

    @classmethod
    def connect(cls, endpoint_url: str) -> AwsClients:
        """Make the clients; connects on first use."""
        session = boto3.Session(
            botocore_session=_isolated_session(),
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
            region_name=REGION,
        )
        config = Config(
            proxies={}, connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 2}, max_pool_connections=50
        )
        return cls(
            sqs=session.client("sqs", endpoint_url=endpoint_url, config=config),
            s3=session.client("s3", endpoint_url=endpoint_url, config=config),
            dynamodb=session.client("dynamodb", endpoint_url=endpoint_url, config=config),
        )

    def close(self) -> None:
        """Close the clients' connections."""
        self.sqs.close()
        self.s3.close()
        self.dynamodb.close()


def create_resources(
    clients: AwsClients,
    *,
    function_timeout_seconds: float,
    batching_window_seconds: float = 0,
    visibility_timeout_seconds: int | None = None,
) -> Resources:
    """Create the queues, the bucket and the tables.

    The visibility timeout of the document queues is Lambda's recommendation, six times the function's timeout plus the
    batching window, unless given.
    """
    visibility = visibility_timeout_seconds
    if visibility is None:
        visibility = round(6 * function_timeout_seconds + batching_window_seconds)
    sqs = clients.sqs
    dead_letters = _create_queue(sqs, "embakery-dead-letters", {})
    dead_letters_fifo = _create_queue(sqs, "embakery-dead-letters.fifo", _FIFO)
    resources = Resources(
        documents=_create_queue(sqs, "embakery-documents", _source(dead_letters, visibility)),
        documents_fifo=_create_queue(sqs, "embakery-documents.fifo", _FIFO | _source(dead_letters_fifo, visibility)),
        dead_letters=dead_letters,
        dead_letters_fifo=dead_letters_fifo,
        bulk=_create_queue(sqs, "embakery-bulk.fifo", _FIFO | {"VisibilityTimeout": str(visibility)}),
        results=_create_queue(sqs, "embakery-results", {}),
        bucket=BUCKET,
        table=TABLE,
        state_table=STATE_TABLE,
    )
    clients.s3.create_bucket(Bucket=BUCKET)
    for table in (TABLE, STATE_TABLE):
        _create_table(clients.dynamodb, table)
    return resources


def _source(dead_letters: Queue, visibility_timeout_seconds: int) -> dict[str, str]:
    redrive = {"deadLetterTargetArn": dead_letters.arn, "maxReceiveCount": MAX_RECEIVE_COUNT}
    return {"VisibilityTimeout": str(visibility_timeout_seconds), "RedrivePolicy": json.dumps(redrive)}


def _create_queue(sqs: SQSClient, name: str, attributes: dict[str, str]) -> Queue:
    kept_two_weeks = {"MessageRetentionPeriod": str(14 * 24 * 3600)}
    # The stubs know attribute names only as literals.
    url = sqs.create_queue(QueueName=name, Attributes=kept_two_weeks | attributes)["QueueUrl"]  # type: ignore[arg-type]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    return Queue(name=name, url=url, arn=arn)


def _create_table(dynamodb: DynamoDBClient, name: str) -> None:
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )


def _isolated_session() -> botocore.session.Session:
    """Return a session that ignores AWS_PROFILE and the files under ~/.aws: a missing profile would stop us."""
    return botocore.session.Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
