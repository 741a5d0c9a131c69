"""The emulated AWS and Redis that the functions' containers work with, and what the sample events need there."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from sam_relay import reachable

from local.environment import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from local.resources import AwsClients, Resources, create_resources
from local.servers import start_ministack, start_redis
from local.settings import LocalSettings, function_environment
from storage.s3 import current_rows, read_rows

EVENTS = Path(__file__).parents[2] / "events"
# What template.yaml says.
QUEUE_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class World:
    """What runs, and the variables that lead a function's container there."""

    aws_url: str
    clients: AwsClients
    resources: Resources
    variables: dict[str, str]

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the current row of every id in the bucket."""
        found = read_rows(self.clients.s3, bucket=self.resources.bucket, prefix="results/")
        return {row["id"]: row for row in current_rows(found)}


@contextlib.contextmanager
def emulated_world(artifact: Path) -> Iterator[World]:
    """Start the servers, reachable from containers, with everything in them that the sample events name."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embakery-sam-")))
        aws, redis = start_ministack(folder), start_redis(folder)
        for server in (aws, redis):
            stack.callback(server.stop)
        here = f"http://{aws.address}"
        clients = AwsClients.connect(here)
        stack.callback(clients.close)
        resources = create_resources(clients, function_timeout_seconds=QUEUE_TIMEOUT_SECONDS, batching_window_seconds=1)
        host = stack.enter_context(reachable([aws.port, redis.port]))
        there = f"http://{host}:{aws.port}"
        variables = function_environment(
            LocalSettings(artifact),
            aws_url=there,
            redis_url=f"redis://{host}:{redis.port}/0",
            resources=resources,
        )
        _deposit_sources(clients, resources)
        yield World(
            here,
            clients,
            resources,
            variables
            | {
                "EMBAKERY_ARTIFACT": "/opt/artifact",
                # The template names secrets by ARN only.
                "EMBAKERY_CACHE_SECRET_ARN": _create_secret(here, variables["EMBAKERY_CACHE_SECRET"]),
                # The template knows the account; the emulator's bucket belongs to another.
                "EMBAKERY_SOURCE_OWNER": "",
            },
        )


def _create_secret(url: str, secret: str) -> str:
    manager = boto3.client(
        "secretsmanager",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
    )
    return str(manager.create_secret(Name="embakery-cache", SecretString=secret)["ARN"])


def _deposit_sources(clients: AwsClients, resources: Resources) -> None:
    """Put the payload of events/sqs-source.json where the message says that it is."""
    (record,) = json.loads((EVENTS / "sqs-source.json").read_bytes())["Records"]
    key = json.loads(record["body"])["source"]["key"]
    content = (EVENTS / "sources" / "manual.jsonl").read_bytes()
    clients.s3.put_object(Bucket=resources.bucket, Key=key, Body=content)
