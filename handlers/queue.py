"""The queue worker: a batch of SQS messages in, `batchItemFailures` out."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embakery.worker import Received, Worker
from handlers.services import services
from handlers.telemetry import logger, metrics, record_batch

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

Event = dict[str, Any]

# Kept back from the function's timeout for writing results and answering.
_RESERVE_MILLISECONDS = 10_000
_RESERVE_SHARE = 0.2


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: Event, context: LambdaContext) -> Event:
    """Embed and rerank the messages of one batch; name those that must come again."""
    records = event["Records"]
    outcome = _worker().process([_received(record) for record in records], deadline=ContextDeadline.of(context))
    record_batch(outcome, messages=len(records), cache=services().cache)
    _hasten(records, outcome.hopeless_ids)
    failed = _with_rest_of_group(records, outcome.failed_ids)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


@dataclass(frozen=True, slots=True)
class ContextDeadline:
    """The function's own deadline, less what writing and answering take."""

    context: LambdaContext
    reserve_milliseconds: int

    @classmethod
    def of(cls, context: LambdaContext) -> ContextDeadline:
        """Reserve a fifth of the time there is, ten seconds at most."""
        share = int(context.get_remaining_time_in_millis() * _RESERVE_SHARE)
        return cls(context, min(_RESERVE_MILLISECONDS, share))

    def is_near(self) -> bool:
        """Say whether only the reserve is left."""
        return self.context.get_remaining_time_in_millis() <= self.reserve_milliseconds


def _received(record: Event) -> Received:
    return Received(record["messageId"], record["body"])


@functools.cache
def _worker() -> Worker:
    ready = services()
    return Worker(ready.embedder, ready.cache, ready.destinations, ready.settings.tenant)


def _with_rest_of_group(records: list[Event], failed: Collection[str]) -> list[str]:
    """Add, on a FIFO queue, what follows a failure in its group: it must come again after it, not before."""
    broken_groups: set[str] = set()
    ids = []
    for record in records:
        group = record["attributes"].get("MessageGroupId")
        if record["messageId"] in failed and group is not None:
            broken_groups.add(group)
        if record["messageId"] in failed or group in broken_groups:
            ids.append(record["messageId"])
    return ids


def _hasten(records: list[Event], hopeless: Collection[str]) -> None:
    """Make messages that can never succeed visible at once: they reach the dead-letter queue in seconds.

    Left alone they would come again only after the visibility timeout, six times the function's, each of five times.
    Only a convenience: without the permission, or on a failure, they take the long way.
    """
    receipts = [record["receiptHandle"] for record in records if record["messageId"] in hopeless]
    if not receipts:
        return
    from botocore.exceptions import BotoCoreError, ClientError

    entries = [{"Id": str(i), "ReceiptHandle": receipt, "VisibilityTimeout": 0} for i, receipt in enumerate(receipts)]
    try:
        queue_url = _queue_url(records[0]["eventSourceARN"])
        for start in range(0, len(entries), 10):
            _sqs().change_message_visibility_batch(QueueUrl=queue_url, Entries=entries[start : start + 10])
    except (ClientError, BotoCoreError) as error:
        logger.warning("visibility_unchanged", extra={"reason": type(error).__name__})


@functools.cache
def _queue_url(arn: str) -> str:
    *_, account, name = arn.split(":")
    return str(_sqs().get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"])


@functools.cache
def _sqs() -> Any:
    import boto3

    return boto3.client("sqs")
