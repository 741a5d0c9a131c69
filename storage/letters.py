"""Reading a dead-letter queue on SQS: each message once, and all of them visible again at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from storage.clients import error_code
from storage.dead_letters import FAILURE_ATTRIBUTE, Failure
from storage.parcels import MAX_ENTRIES

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef, MessageTypeDef

log = logging.getLogger("embakery")

# Messages that are being read are hidden for so long, if nobody lives to give them back.
HOLD_SECONDS = 120
# All servers are asked only by a poll that waits: its empty answer means an empty queue.
_WAIT_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Letter:
    """A message found on a dead-letter queue. Its text is in `body`, which no representation shows.

    sent_at, first_received: as SQS says them; a standard queue keeps the time of the first sending. failure: None for a
    message that SQS itself moved here. source_arn: the queue from which it did. group_id: on a FIFO queue.
    """

    message_id: str
    sent_at: datetime
    first_received: datetime | None
    receive_count: int
    failure: Failure | None
    source_arn: str | None
    group_id: str | None
    receipt_handle: str = field(repr=False)
    body: str = field(repr=False)
    attributes: Mapping[str, MessageAttributeValueTypeDef] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body.encode())

    @property
    def code(self) -> str:
        """The error's stable word; `moved` for what SQS moved, `unknown` where nobody said."""
        return self.failure.code if self.failure else "moved" if self.source_arn else "unknown"

    @property
    def reason(self) -> str:
        """The error's own words."""
        if self.failure:
            return self.failure.reason
        return "moved by the queue after its last receive" if self.source_arn else "sent here without a reason"

    @property
    def original_id(self) -> str:
        """The message's id where it failed: SQS keeps it when it moves a message, one sent anew gets another."""
        return self.failure.message_id if self.failure else self.message_id


def letters(
    client: SQSClient, queue_url: str, limit: int | None = None, *, stop: Callable[[], bool] = lambda: False
) -> Generator[Letter]:
    """Read a dead-letter queue, each message at most once, and give everything back visible at the end.

    A FIFO queue shows only the first ten of each group: the rest waits until those are gone. To be closed
    (contextlib.closing) by whoever may leave it early.
    """
    with Hand(client, queue_url) as hand:
        for received in hand.receive(stop, limit):
            yield from received


class Hand:
    """Messages received from a queue. What was not deleted becomes visible again at the end, whatever happens."""

    def __init__(self, client: SQSClient, queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url
        self._receipts: dict[str, str] = {}
        self._seen: set[str] = set()

    def __enter__(self) -> Hand:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    def receive(self, stop: Callable[[], bool], limit: int | None = None) -> Iterator[list[Letter]]:
        """Yield what is visible, up to ten at a time, each message once, until nothing is left or `limit` were seen."""
        repeated = 0
        # Holds may run out: once all that is held has come again and nothing else did, there is nothing else.
        while repeated <= len(self._receipts) and len(self._seen) != limit and not stop():
            received = self._poll(MAX_ENTRIES if limit is None else min(MAX_ENTRIES, limit - len(self._seen)))
            if not received:
                return
            # Of a message that came twice only the latest receipt is sure to be good.
            self._receipts |= {name: message["ReceiptHandle"] for name, message in received.items()}
            fresh = [message for name, message in received.items() if name not in self._seen]
            self._seen |= received.keys()
            repeated = 0 if fresh else repeated + len(received)
            if fresh:
                yield [_letter(message) for message in fresh]

    def _poll(self, count: int) -> dict[str, MessageTypeDef]:
        answer = self._client.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=_WAIT_SECONDS,
            VisibilityTimeout=HOLD_SECONDS,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return {message["MessageId"]: message for message in answer.get("Messages", [])}

    def delete(self, message_ids: Iterable[str]) -> frozenset[str]:
        """Delete up to ten messages, trying twice; returns the ids of those that may still be there."""
        left = set(message_ids)
        with suppress(ClientError, BotoCoreError):
            for _ in range(2):
                names = sorted(left)
                answer = self._client.delete_message_batch(
                    QueueUrl=self._queue_url,
                    Entries=[{"Id": str(i), "ReceiptHandle": self._receipts[name]} for i, name in enumerate(names)],
                )
                gone = {names[int(entry["Id"])] for entry in answer.get("Successful", [])}
                for name in gone:
                    del self._receipts[name]
                left -= gone
                if not left:
                    break
        return frozenset(left)

    def _give_back(self) -> None:
        receipts = list(self._receipts.values())
        try:
            for start in range(0, len(receipts), MAX_ENTRIES):
                part = receipts[start : start + MAX_ENTRIES]
                self._client.change_message_visibility_batch(
                    QueueUrl=self._queue_url,
                    Entries=[
                        {"Id": str(i), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                        for i, receipt in enumerate(part)
                    ],
                )
        except (ClientError, BotoCoreError) as error:
            log.warning("visibility_unchanged", extra={"reason": error_code(error), "seconds": HOLD_SECONDS})


def _letter(message: MessageTypeDef) -> Letter:
    system: Mapping[str, str] = {str(name): value for name, value in message.get("Attributes", {}).items()}
    attributes = {name: _sendable(value) for name, value in message.get("MessageAttributes", {}).items()}
    source_arn = system.get("DeadLetterQueueSourceArn")
    # Where SQS moved it here, an attribute from us is of an earlier failure.
    said = attributes.get(FAILURE_ATTRIBUTE) if source_arn is None else None
    first = int(system.get("ApproximateFirstReceiveTimestamp", "0"))
    return Letter(
        message_id=message["MessageId"],
        sent_at=_time(int(system.get("SentTimestamp", "0"))),
        first_received=_time(first) if first else None,
        receive_count=int(system.get("ApproximateReceiveCount", "0")),
        failure=Failure.parse(said.get("StringValue", "")) if said else None,
        source_arn=source_arn,
        group_id=system.get("MessageGroupId"),
        receipt_handle=message["ReceiptHandle"],
        body=message["Body"],
        attributes=attributes,
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _sendable(value: Mapping[str, Any]) -> MessageAttributeValueTypeDef:
    """Return a received attribute without the empty lists that SQS puts in and does not take."""
    names = ("DataType", "StringValue", "BinaryValue")
    return {name: value[name] for name in names if value.get(name) is not None}  # type: ignore[return-value]
