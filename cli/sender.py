"""Packs documents into messages and sends them in batches of ten."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embakery.errors import RequestTooLargeError, StoreUnavailableError
from storage.batches import batches

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# SQS takes 1 MiB, for one message and for a batch of ten alike.
MAX_MESSAGE_BYTES = 1024 * 1024
# The rest of a message: version, destination, job.
_MAX_DOCUMENTS_BYTES = MAX_MESSAGE_BYTES - 1024
DOCUMENTS_PER_MESSAGE = 10
_MESSAGES_PER_BATCH = 10
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Packed:
    """A message's body and how many documents it holds."""

    body: str
    documents: int

    @property
    def size(self) -> int:
        """Bytes that SQS counts."""
        return len(self.body.encode())


def send_documents(
    client: SQSClient,
    queue_url: str,
    documents: Sequence[Mapping[str, Any]],
    *,
    destination: str = "default",
    job_id: str | None = None,
    on_sent: Callable[[int], None] = lambda _: None,
) -> int:
    """Send documents; returns how many. Raises StoreUnavailableError when SQS refuses a message for good."""
    messages = [_pack(part, destination, job_id) for part in _split(documents)]
    for batch in batches(
        messages, size=lambda message: message.size, max_items=_MESSAGES_PER_BATCH, max_bytes=MAX_MESSAGE_BYTES
    ):
        _send(client, queue_url, batch)
        on_sent(sum(message.documents for message in batch))
    return len(documents)


def _split(documents: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Yield documents by tens, fewer where their texts are long."""
    sizes = [_size(index, document) for index, document in enumerate(documents)]
    for part in batches(
        range(len(documents)), size=sizes.__getitem__, max_items=DOCUMENTS_PER_MESSAGE, max_bytes=_MAX_DOCUMENTS_BYTES
    ):
        yield [documents[index] for index in part]


def _size(index: int, document: Mapping[str, Any]) -> int:
    length = len(json.dumps(document, ensure_ascii=False).encode()) + 2
    if length > _MAX_DOCUMENTS_BYTES:
        raise RequestTooLargeError(f"documents[{index}]", f"{length} bytes, a message holds {MAX_MESSAGE_BYTES}")
    return length


def _pack(documents: list[Mapping[str, Any]], destination: str, job_id: str | None) -> Packed:
    message: dict[str, Any] = {"v": 1, "documents": documents, "destination": destination}
    if job_id is not None:
        message["job_id"] = job_id
    return Packed(json.dumps(message, ensure_ascii=False), len(documents))


def _send(client: SQSClient, queue_url: str, batch: list[Packed]) -> None:
    """Send a batch, and again what SQS did not take of it: an answer of success may hold failures."""
    waiting = {str(index): message for index, message in enumerate(batch)}
    for attempt in range(_ATTEMPTS):
        answer = client.send_message_batch(
            QueueUrl=queue_url,
            Entries=[{"Id": entry_id, "MessageBody": message.body} for entry_id, message in waiting.items()],
        )
        failed = answer.get("Failed", [])
        waiting = {failure["Id"]: waiting[failure["Id"]] for failure in failed}
        if not waiting:
            return
        time.sleep(0.1 * 2**attempt)
    raise StoreUnavailableError(f"sqs refused {len(waiting)} messages: {failed[0]['Code']}")
