"""The queue worker: a batch of SQS messages in, `batchItemFailures` out."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embakery.delivery import Received
from handlers.deadline import ContextDeadline
from handlers.queue_services import worker
from handlers.services import services
from handlers.telemetry import logger, metrics, record_batch

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from storage.source_queue import QueueFactsReader, SqsSourceQueue

Event = dict[str, Any]

# By then a killed process is gone, and its messages may come again.
_GRACE_SECONDS = 5
# A call that nobody needs is not begun so near the end.
_CALL_SECONDS = 3


def prepare() -> None:
    """Load what every batch needs, and the client of the destination that most of them name.

    Raises what `services` raises; StoreUnavailableError, which the first batch may not meet any more.
    """
    worker()
    open_default = services().destinations.get("default")
    if open_default is not None:
        open_default()


# log_event=False: no environment variable may put texts into the log.
@logger.inject_lambda_context(clear_state=True, log_event=False)
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: Event, context: LambdaContext) -> Event:
    """Embed and rerank the messages of one batch; name those that must come again."""
    records = event["Records"]
    if not records:
        return _answer(())
    deadline = ContextDeadline.of(context)
    messages = [_received(record) for record in records]
    queue = _queue(records)
    again = {message.message_id for message in messages if message.receive_count > 1}
    ready = worker()
    # The queue hides them for six times as long. Should this batch be killed too, they come again as soon as they can.
    queue.show_again(sorted(again), seconds=math.ceil(deadline.seconds_to_end()) + _GRACE_SECONDS)
    outcome = ready.process(messages, queue=queue, deadline=deadline)
    record_batch(outcome, messages=len(records), cache=services().cache)
    if deadline.seconds_to_end() > _CALL_SECONDS:
        # What may pass has the queue's own patience; what never will need not wait, if anything ends its coming.
        queue.show_again([one for one in outcome.failed_ids if one in again - outcome.hopeless_ids])
        # Asked only where there are such: it takes calls that a cold start should not pay for.
        if outcome.hopeless_ids and queue.max_receive_count is not None:
            queue.show_again(sorted(outcome.hopeless_ids), seconds=0)
    return _answer(outcome.failed_ids)


def _answer(failed_ids: tuple[str, ...]) -> Event:
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed_ids]}


def _received(record: Mapping[str, Any]) -> Received:
    attributes = record.get("attributes") or {}
    # Standard queues may name groups too (fair queues), but promise no order.
    is_fifo = str(record.get("eventSourceARN")).endswith(".fifo")
    return Received(
        record["messageId"],
        record.get("body"),
        receive_count=int(attributes.get("ApproximateReceiveCount", 1)),
        group_id=attributes.get("MessageGroupId") if is_fifo else None,
        attributes=record.get("messageAttributes") or {},
    )


def _queue(records: list[Event]) -> SqsSourceQueue:
    from storage.source_queue import SqsSourceQueue

    receipts: dict[str, list[str]] = {}
    for record in records:
        receipts.setdefault(record["messageId"], []).append(record.get("receiptHandle") or "")
    return SqsSourceQueue(_sqs, _facts(), arn=str(records[0].get("eventSourceARN")), receipts=receipts)


@functools.cache
def _facts() -> QueueFactsReader:
    from storage.source_queue import QueueFactsReader

    return QueueFactsReader(_sqs)


@functools.cache
def _sqs() -> Any:
    from storage.clients import CONVENIENCE, open_client

    return open_client("sqs", CONVENIENCE)
