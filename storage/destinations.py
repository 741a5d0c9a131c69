"""Destinations are named in the settings, never by a message: this turns a setting into a store.

s3://bucket/prefix/      one compressed JSONL object for a batch
dynamodb://table         one item for each document
sqs+https://queue-url    one message for each result
"""

from __future__ import annotations

from embakery.errors import ConfigurationError
from embakery.results import ResultStore


def open_store(name: str, url: str) -> ResultStore:
    """Open the store of one destination. Raises ConfigurationError. boto3's clients are made on the way, by need."""
    from storage.clients import open_client
    from storage.dynamodb import DynamoDBStore
    from storage.s3 import S3Store
    from storage.sqs import SqsStore

    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme == "s3" and bucket:
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        return S3Store(open_client("s3"), bucket=bucket, prefix=folder)
    if scheme == "dynamodb" and rest:
        return DynamoDBStore(open_client("dynamodb"), table=rest)
    if scheme in {"sqs+http", "sqs+https"} and rest:
        return SqsStore(open_client("sqs"), queue_url=url.removeprefix("sqs+"))
    raise ConfigurationError(f"destination {name}: its URL must begin with s3://, dynamodb:// or sqs+https://")
