"""The queue worker: a batch of SQS messages in, `batchItemFailures` out."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from embakery.worker import Received, Worker
from handlers.deadline import ContextDeadline
from handlers.services import services
from handlers.telemetry import logger, metrics, record_batch

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

Event = dict[str, Any]


# log_event=False: no environment variable may put texts into the log.
@logger.inject_lambda_context(clear_state=True, log_event=False)
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: Event, context: LambdaContext) -> Event:
    """Embed and rerank the messages of one batch; name those that must come again."""
    records = event["Records"]
    deadline = ContextDeadline.of(context)
    outcome = _worker().process([_received(record) for record in records], deadline=deadline)
    record_batch(outcome, messages=len(records), cache=services().cache)
    if not deadline.is_near():
        _hasten(records, outcome.hopeless_ids)
    failed = _with_rest_of_group(records, outcome.failed_ids, outcome.hopeless_ids)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _received(record: Event) -> Received:
    return Received(record["messageId"], record["body"])


@functools.cache
def _worker() -> Worker:
    ready = services()
    return Worker(ready.embedder, ready.cache, ready.destinations, ready.settings.tenant, ready.settings.rerank_method)


def _with_rest_of_group(records: list[Event], failed: Collection[str], hopeless: Collection[str]) -> list[str]:
    """Add, on a FIFO queue, what follows a failure in its group: it must come again after it, not before.

    Not behind a hopeless message: that one never comes to anything, and would take its followers to the dead-letter
    queue with it.
    """
    broken_groups: set[str] = set()
    ids = []
    for record in records:
        # Standard queues may name groups too (fair queues), but promise no order.
        group = record["attributes"].get("MessageGroupId") if record["eventSourceARN"].endswith(".fifo") else None
        message_id = record["messageId"]
        if group is not None and message_id in failed and message_id not in hopeless:
            broken_groups.add(group)
        if message_id in failed or group in broken_groups:
            ids.append(message_id)
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
    from storage.clients import CONVENIENCE, open_client

    return open_client("sqs", CONVENIENCE)
