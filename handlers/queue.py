"""The queue worker: a batch of SQS messages in, `batchItemFailures` out."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embakery.delivery import Received
from embakery.errors import InvalidRequestError
from handlers.deadline import ContextDeadline
from handlers.queue_services import worker
from handlers.services import services
from handlers.telemetry import logger, metrics, record, record_batch, refusals_recorded
from storage.destinations import check_destination

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from storage.source_queue import QueueFactsReader, SqsSourceQueue

Event = dict[str, Any]

# By then a killed process is gone, and its messages may come again.
_GRACE_SECONDS = 5
# A call that nobody needs is not begun so near the end.
_CALL_SECONDS = 3
_TAKEN = "this function takes batches of an SQS queue"


def prepare() -> None:
    """Load what every batch needs, and the client of the destination that most of them name.

    Raises what `services` raises; ConfigurationError for a destination that is none; StoreUnavailableError, which the
    first batch may not meet any more.
    """
    worker()
    for name, url in services().settings.destinations.items():
        check_destination(name, url)
    open_default = services().destinations.get("default")
    if open_default is not None:
        open_default()


# log_event=False: no environment variable may put texts into the log.
@logger.inject_lambda_context(clear_state=True, log_event=False)
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: Event, context: LambdaContext) -> Event:
    """Embed and rerank the messages of one batch; name those that must come again.

    Raises what concerns all of them, and no message is done then: InvalidRequestError for an event that is no batch of
    messages, GoldenMismatchError, what `services` raises. Lambda lets the whole batch come again.
    """
    with refusals_recorded():
        return _work_on(_records(event), context)


def _work_on(records: list[Event], context: LambdaContext) -> Event:
    if not records:
        record({"Messages": 0})
        return _answer(())
    deadline = ContextDeadline.of(context)
    messages = [_received(one) for one in records]
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


def _records(event: object) -> list[Event]:
    """Return a batch's records. Raises InvalidRequestError if one is no message: it could not be reported alone."""
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, list):
        raise InvalidRequestError("event", f"has no Records: {_TAKEN}")
    for index, one in enumerate(records):
        if not isinstance(one, dict) or not isinstance(one.get("messageId"), str):
            raise InvalidRequestError(f"event.Records[{index}]", f"has no messageId: {_TAKEN}")
    return records


def _received(message: Mapping[str, Any]) -> Received:
    attributes = _object(message.get("attributes"))
    # Standard queues may name groups too (fair queues), but promise no order.
    is_fifo = str(message.get("eventSourceARN")).endswith(".fifo")
    count = str(attributes.get("ApproximateReceiveCount"))
    return Received(
        message["messageId"],
        message.get("body"),
        receive_count=int(count) if count.isdecimal() else 1,
        group_id=attributes.get("MessageGroupId") if is_fifo else None,
        attributes=_object(message.get("messageAttributes")),
    )


def _object(value: object) -> Mapping[str, Any]:
    # Made by hand, a record may hold anything; the queue's own are always right.
    return value if isinstance(value, Mapping) else {}


def _queue(records: list[Event]) -> SqsSourceQueue:
    from storage.source_queue import SqsSourceQueue

    receipts: dict[str, list[str]] = {}
    for one in records:
        receipts.setdefault(one["messageId"], []).append(str(one.get("receiptHandle") or ""))
    return SqsSourceQueue(_sqs, _facts(), arn=str(records[0].get("eventSourceARN")), receipts=receipts)


@functools.cache
def _facts() -> QueueFactsReader:
    from storage.source_queue import QueueFactsReader

    return QueueFactsReader(_sqs)


@functools.cache
def _sqs() -> Any:
    from storage.clients import CONVENIENCE, open_client

    return open_client("sqs", CONVENIENCE)
