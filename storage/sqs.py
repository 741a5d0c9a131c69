"""Results on an SQS queue: one message for each result, at least once, with a stable deduplication id.

On a FIFO queue SQS drops duplicates itself, and one id's results keep their order; on a standard queue a consumer drops
them by the message attribute `dedup_id`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from embakery.batches import batches
from embakery.breaker import Breaker
from embakery.errors import StoreUnavailableError
from embakery.results import Result, WriteOutcome
from storage.advice import explain
from storage.parcels import MAX_ENTRIES

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

# SQS allows 1 MiB for a batch; attributes count too.
_MAX_BATCH_BYTES = 1_000_000
_ATTRIBUTE_BYTES = 256
# A queue that takes nothing so often in a row is not waited for batch after batch.
_MAX_SILENT_CALLS = 3


class SqsStore:
    """Sends results to one queue."""

    def __init__(self, client: SQSClient, *, queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url
        self._fifo = queue_url.endswith(".fifo")

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Send every result. Raises StoreUnavailableError if none could be sent."""
        entries = [self._entry(index, result) for index, result in enumerate(results)]
        refused: dict[str, str] = {}
        # For this batch: the next one asks again.
        breaker = Breaker(threshold=_MAX_SILENT_CALLS, pause_seconds=math.inf)
        for batch in batches(entries, size=_size, max_items=MAX_ENTRIES, max_bytes=_MAX_BATCH_BYTES):
            if not breaker.allows():
                refused |= {entry["Id"]: "NotTried" for entry in batch}
                continue
            failed = self._send(batch)
            if len(failed) == len(batch):
                breaker.failed()
            else:
                breaker.succeeded()
            refused |= failed
        if results and len(refused) == len(results):
            raise StoreUnavailableError(f"sqs took no message: {refused['0']}")
        return [WriteOutcome.FAILED if entry["Id"] in refused else WriteOutcome.WRITTEN for entry in entries]

    def _entry(self, index: int, result: Result) -> SendMessageBatchRequestEntryTypeDef:
        dedup_id = deduplication_id(result)
        entry: SendMessageBatchRequestEntryTypeDef = {
            "Id": str(index),
            # ASCII: SQS takes no U+FFFE and U+FFFF, which an id or metadata may hold.
            "MessageBody": json.dumps(result.to_json()),
            "MessageAttributes": {"dedup_id": {"DataType": "String", "StringValue": dedup_id}},
        }
        if self._fifo:
            entry["MessageDeduplicationId"] = dedup_id
            entry["MessageGroupId"] = hashlib.sha256(f"{result.tenant}#{result.id}".encode()).hexdigest()
        return entry

    def _send(self, batch: list[SendMessageBatchRequestEntryTypeDef]) -> dict[str, str]:
        """Send a batch and return the ids of the entries that SQS did not take, with its reasons."""
        try:
            answer = self._client.send_message_batch(QueueUrl=self._queue_url, Entries=batch)
        except (ClientError, BotoCoreError) as error:
            return {entry["Id"]: explain(error) for entry in batch}
        return {failure["Id"]: failure["Code"] for failure in answer.get("Failed", [])}


def deduplication_id(result: Result) -> str:
    """Name a result by what makes it unique: tenant, kind, id, space, version."""
    fields = (result.tenant, result.kind, result.id, result.space_id, str(result.version))
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _size(entry: SendMessageBatchRequestEntryTypeDef) -> int:
    return len(entry["MessageBody"].encode()) + _ATTRIBUTE_BYTES
