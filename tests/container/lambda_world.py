"""The AWS and Redis that a function under the runtime emulator works with, and messages for it."""

from __future__ import annotations

import contextlib
import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.environment import ACCOUNT_ID, REGION
from local.resources import AwsClients, Resources, create_resources
from local.servers import start_ministack, start_redis
from local.settings import LocalSettings, function_environment
from storage.s3 import current_rows, read_rows

EVENTS = Path(__file__).parents[2] / "events"
QUEUE, API = "handlers.queue.handler", "handlers.api.handler"
# Stands in every text of a test's own: no log may hold it.
CANARY = "canarywort"
# The emulated queue, and one that is not there, which has no dead-letter queue either.
DOCUMENTS = f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:embakery-documents"
NO_QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:embakery-no-such-queue"


@dataclass(frozen=True, slots=True)
class LambdaWorld:
    """What runs, and the variables that lead a function there."""

    aws_url: str
    clients: AwsClients
    resources: Resources
    env: Mapping[str, str]

    def rows(self, prefix: str = "results/") -> dict[str, dict[str, Any]]:
        """Return the current row of every id under a prefix of the bucket."""
        found = read_rows(self.clients.s3, bucket=self.resources.bucket, prefix=prefix)
        return {row["id"]: row for row in current_rows(found)}

    def items(self) -> dict[str, dict[str, Any]]:
        """Return every item of the results' table by id."""
        pages = self.clients.dynamodb.get_paginator("scan").paginate(TableName=self.resources.table)
        return {item["id"]["S"]: dict(item) for page in pages for item in page["Items"]}


@contextlib.contextmanager
def lambda_world(artifact: Path) -> Iterator[LambdaWorld]:
    """Start the servers, with everything in them that the sample events name."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embakery-lambda-")))
        aws, redis = start_ministack(folder), start_redis(folder)
        for server in (aws, redis):
            stack.callback(server.stop)
        url = f"http://{aws.address}"
        clients = AwsClients.connect(url)
        stack.callback(clients.close)
        resources = create_resources(clients, function_timeout_seconds=60)
        (record,) = event("sqs-source")["Records"]
        clients.s3.put_object(
            Bucket=resources.bucket,
            Key=json.loads(record["body"])["source"]["key"],
            Body=(EVENTS / "sources" / "manual.jsonl").read_bytes(),
        )
        redis_url = f"redis://{redis.address}/0"
        env = function_environment(LocalSettings(artifact), aws_url=url, redis_url=redis_url, resources=resources)
        yield LambdaWorld(url, clients, resources, env)


def event(name: str) -> dict[str, Any]:
    """Read a file of events/."""
    content: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_bytes())
    return content


def unique(name: str) -> str:
    """Return an id that no other test uses. It may stand in a log."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def message(*ids: str, destination: str = "default") -> str:
    """Return the body of a message of one document for each id."""
    documents = [{"id": one, "text": f"{CANARY} and the text of {one}"} for one in ids]
    return json.dumps({"v": 1, "documents": documents, "destination": destination})


def batch(*bodies: str, receives: int = 1, arn: str = DOCUMENTS) -> dict[str, Any]:
    """Return an event of messages with the ids m0, m1, ..., received so often from a queue."""
    record = event("sqs-documents")["Records"][0] | {"eventSourceARN": arn}
    attributes = record["attributes"] | {"ApproximateReceiveCount": str(receives)}
    records = [
        record | {"messageId": f"m{number}", "body": body, "attributes": attributes}
        for number, body in enumerate(bodies)
    ]
    return {"Records": records}


def embeddings(*texts: str) -> dict[str, Any]:
    """Return a request for embeddings."""
    body = json.dumps({"input": list(texts), "encoding_format": "base64"})
    return event("api-embeddings") | {"body": body}
