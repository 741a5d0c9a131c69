"""The queue as the poller sees it, and Lambda's SQS event shape."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from local.errors import QueueCallError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageAttributeValueOutputTypeDef, MessageTypeDef

# SQS's own limit for one ReceiveMessage or DeleteMessageBatch.
MAX_PER_CALL = 10


@dataclass(frozen=True, slots=True)
class Message:
    """A received message. `attributes` are SQS's own, such as ApproximateReceiveCount; all are strings."""

    id: str
    receipt_handle: str
    body: str
    md5_of_body: str
    attributes: Mapping[str, str]
    message_attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def group_id(self) -> str | None:
        """The FIFO message group; None on a standard queue."""
        return self.attributes.get("MessageGroupId")


@dataclass(frozen=True, slots=True)
class DeleteFailure:
    """A message that was not deleted. `retryable` is false where the request was wrong, such as a stale handle."""

    message: Message
    code: str
    retryable: bool


class MessageQueue(Protocol):
    """What the poller needs of a queue. Both calls raise QueueCallError."""

    def receive(self, *, max_messages: int, wait_seconds: int) -> list[Message]:
        """Receive up to `max_messages` (at most 10), waiting up to `wait_seconds` for the first."""

    def delete(self, messages: Sequence[Message]) -> list[DeleteFailure]:
        """Delete the messages, any number, and return those that are still there."""


class SqsQueue:
    """A queue of SQS, or of an emulator of it."""

    def __init__(self, client: SQSClient, url: str) -> None:
        self._client = client
        self._url = url

    def receive(self, *, max_messages: int, wait_seconds: int) -> list[Message]:
        """Receive messages with all their attributes."""
        try:
            answer = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=max_messages,
                WaitTimeSeconds=wait_seconds,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        except (ClientError, BotoCoreError) as error:
            raise QueueCallError(f"ReceiveMessage failed: {error}") from error
        return [_message(received) for received in answer.get("Messages", [])]

    def delete(self, messages: Sequence[Message]) -> list[DeleteFailure]:
        """Delete in DeleteMessageBatch calls of ten, and return the entries that failed."""
        rest = iter(messages)
        failures: list[DeleteFailure] = []
        while ten := list(islice(rest, MAX_PER_CALL)):
            failures += self._delete_ten(ten)
        return failures

    def _delete_ten(self, messages: Sequence[Message]) -> list[DeleteFailure]:
        try:
            answer = self._client.delete_message_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(index), "ReceiptHandle": message.receipt_handle}
                    for index, message in enumerate(messages)
                ],
            )
        except (ClientError, BotoCoreError) as error:
            raise QueueCallError(f"DeleteMessageBatch failed: {error}") from error
        return [
            DeleteFailure(messages[int(entry["Id"])], code=entry["Code"], retryable=not entry["SenderFault"])
            for entry in answer.get("Failed", [])
        ]


def lambda_record(message: Message, *, queue_arn: str) -> dict[str, Any]:
    """Return the message as an item of the `Records` that Lambda passes to a handler.

    See https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html
    """
    return {
        "messageId": message.id,
        "receiptHandle": message.receipt_handle,
        "body": message.body,
        "attributes": dict(message.attributes),
        "messageAttributes": {name: _lambda_attribute(value) for name, value in message.message_attributes.items()},
        "md5OfBody": message.md5_of_body,
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }


def record_bytes(record: Mapping[str, Any]) -> int:
    """Return how many bytes the record takes in an event, its comma included."""
    return len(json.dumps(record, ensure_ascii=False).encode()) + 2


def _message(received: MessageTypeDef) -> Message:
    return Message(
        id=received["MessageId"],
        receipt_handle=received["ReceiptHandle"],
        body=received["Body"],
        md5_of_body=received["MD5OfBody"],
        attributes={str(name): value for name, value in received.get("Attributes", {}).items()},
        message_attributes=dict(received.get("MessageAttributes", {})),
    )


def _lambda_attribute(value: Mapping[str, Any] | MessageAttributeValueOutputTypeDef) -> dict[str, Any]:
    """Return a message attribute with Lambda's names; binary values are base64 in an event."""
    attribute: dict[str, Any] = {"dataType": value["DataType"], "stringListValues": [], "binaryListValues": []}
    if "StringValue" in value:
        attribute["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        attribute["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode()
    return attribute
