"""Messages on their way to or from a dead-letter queue, ten at a time; each is answered for by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from storage.clients import error_code

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef, SendMessageBatchRequestEntryTypeDef

# SQS's own limits; a message and a batch may be of the same size.
MAX_BYTES = 1024 * 1024
MAX_ENTRIES = 10


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message to send, named by `key` in the answer."""

    key: str
    body: str
    attributes: Mapping[str, MessageAttributeValueTypeDef]
    group_id: str
    deduplication_id: str

    @property
    def size(self) -> int:
        """Bytes that SQS counts: the body, and names, types and values of the attributes."""
        return len(self.body.encode()) + sum(map(_attribute_bytes, self.attributes.items()))


@dataclass(frozen=True, slots=True)
class Answer:
    """The keys of what was surely taken, SQS's words for why the rest was not, and whether there was an answer."""

    taken: frozenset[str]
    reasons: frozenset[str]
    reached: bool = True


class ParcelSender:
    """SendMessageBatch to one queue, its failures honoured entry by entry."""

    def __init__(self, client: SQSClient, queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url
        self.fifo = queue_url.endswith(".fifo")

    def send(self, batch: Sequence[Parcel]) -> Answer:
        """Send up to ten parcels. Raises nothing for an unreachable queue."""
        entries = [self._entry(index, parcel) for index, parcel in enumerate(batch)]
        try:
            answer = self._client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        except (ClientError, BotoCoreError) as error:
            return Answer(frozenset(), frozenset({error_code(error)}), reached=False)
        # An answer of success may hold failures.
        taken = frozenset(batch[int(entry["Id"])].key for entry in answer.get("Successful", []))
        return Answer(taken, frozenset(entry["Code"] for entry in answer.get("Failed", [])))

    def _entry(self, index: int, parcel: Parcel) -> SendMessageBatchRequestEntryTypeDef:
        entry: SendMessageBatchRequestEntryTypeDef = {
            "Id": str(index),
            "MessageBody": parcel.body,
            "MessageAttributes": parcel.attributes,
        }
        if self.fifo:
            entry["MessageGroupId"] = parcel.group_id
            entry["MessageDeduplicationId"] = parcel.deduplication_id
        return entry


def _attribute_bytes(attribute: tuple[str, MessageAttributeValueTypeDef]) -> int:
    name, value = attribute
    data = value.get("BinaryValue", b"")
    binary = len(data) if isinstance(data, bytes | bytearray) else 0
    return len(name.encode()) + len(value["DataType"]) + len(value.get("StringValue", "").encode()) + binary
