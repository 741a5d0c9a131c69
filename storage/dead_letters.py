"""A dead-letter queue on SQS: sending to it with the reason, reading it, and sending its messages on.

The reason travels in one message attribute, `embakery_failure`, a JSON object of code, reason, message_id, receives and
failed_at. One, because SQS takes ten for a message and the message's own are kept beside it.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from embakery.batches import batches
from embakery.dead_letters import DeadLetter

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        MessageAttributeValueTypeDef,
        MessageTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

log = logging.getLogger("embakery")

FAILURE_ATTRIBUTE = "embakery_failure"
MAX_REASON_CHARACTERS = 1000
# Messages that are being read are hidden for so long, if nobody lives to give them back.
HOLD_SECONDS = 120
# SQS's own limits; a message and a batch may be of the same size.
MAX_BYTES = 1024 * 1024
_MAX_ENTRIES = 10
_MAX_ATTRIBUTES = 10
# All servers are asked only by a poll that waits: its empty answer means an empty queue.
_WAIT_SECONDS = 1
_NOT_FOR_SQS = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MESSAGE_ID = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message was sent here. message_id: its id on the queue it failed on. failed_at: ISO 8601, UTC."""

    code: str
    reason: str
    message_id: str
    receives: int
    failed_at: str

    def to_json(self) -> dict[str, Any]:
        """Return the attribute's object."""
        return {name: getattr(self, name) for name in ("code", "reason", "message_id", "receives", "failed_at")}

    @classmethod
    def parse(cls, text: str) -> Failure | None:
        """Read the attribute; None for what we did not write."""
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            raw = json.loads(text)
            words = {name: raw[name] for name in ("code", "reason", "message_id", "failed_at")}
            well_formed = all(isinstance(word, str) for word in words.values()) and type(raw["receives"]) is int
            if well_formed and _MESSAGE_ID.fullmatch(words["message_id"]):
                return cls(receives=raw["receives"], **words)
        return None


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


class SqsDeadLetters:
    """Sends messages to one dead-letter queue. Implements the port `embakery.dead_letters.DeadLetters`."""

    def __init__(self, client: SQSClient, *, queue_url: str) -> None:
        self._sender = _Sender(client, queue_url)

    def send(self, letters: Sequence[DeadLetter]) -> frozenset[str]:
        """Send them; returns the ids of those that were surely taken. Raises nothing for an unreachable queue.

        A message that leaves no room for the reason (ten attributes of its own, or 1 MiB) is not sent.
        """
        parcels = [parcel for parcel in map(_dead, letters) if parcel is not None]
        reasons = {"does_not_fit"} if len(parcels) < len(letters) else set()
        taken: set[str] = set()
        for batch in batches(parcels, size=lambda parcel: parcel.size, max_items=_MAX_ENTRIES, max_bytes=MAX_BYTES):
            answer = self._sender.send(batch)
            taken |= answer.taken
            reasons |= answer.reasons
            if not answer.reached:
                # What is unreachable stays so for longer than a function may wait, batch after batch.
                break
        if reasons:
            left = len({letter.message_id for letter in letters} - taken)
            log.warning("dead_letters_not_sent", extra={"letters": left, "reasons": sorted(reasons)})
        return frozenset(taken)


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
            received = self._poll(_MAX_ENTRIES if limit is None else min(_MAX_ENTRIES, limit - len(self._seen)))
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
            for start in range(0, len(receipts), _MAX_ENTRIES):
                part = receipts[start : start + _MAX_ENTRIES]
                self._client.change_message_visibility_batch(
                    QueueUrl=self._queue_url,
                    Entries=[
                        {"Id": str(i), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                        for i, receipt in enumerate(part)
                    ],
                )
        except (ClientError, BotoCoreError) as error:
            log.warning("visibility_unchanged", extra={"reason": _word(error), "seconds": HOLD_SECONDS})


@dataclass(slots=True)
class MoveCounts:
    """What became of the letters: sent on and deleted; not sent; sent on but not surely deleted."""

    moved: int = 0
    failed: int = 0
    undeleted: int = 0
    reasons: set[str] = field(default_factory=set)


class Mover:
    """Sends letters on to another queue, as they came but without `embakery_failure`, and deletes what was surely sent.

    A letter that was sent when the process is killed before it is deleted is still here, and is sent again by the next
    run: twice at most for one kill. On FIFO queues order within a group is kept, nothing overtakes a letter that
    failed, and SQS drops the second sending if it comes within five minutes.
    """

    def __init__(self, client: SQSClient, hand: Hand, target_url: str, *, per_second: int | None = None) -> None:
        self._sender = _Sender(client, target_url)
        self._hand = hand
        self._per_second = per_second
        self._next_at = 0.0
        self._broken_groups: set[str | None] = set()
        self.counts = MoveCounts()

    def move(
        self,
        *,
        wanted: Callable[[Letter], bool],
        stop: Callable[[], bool],
        limit: int | None = None,
        on_letters: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Move what is wanted of the queue, up to a limit. Ends early where the target takes nothing at all."""
        for received in self._hand.receive(stop):
            chosen = [letter for letter in received if wanted(letter)]
            room = None if limit is None else limit - self.counts.moved - self.counts.undeleted
            for wave in self._waves(chosen[:room]):
                if stop() or not self._send(wave):
                    return
            on_letters(len(received))
            if limit is not None and self.counts.moved + self.counts.undeleted >= limit:
                return

    def _waves(self, chosen: Sequence[Letter]) -> Iterator[list[Letter]]:
        """Split for sending; on FIFO queues one of a group at a time, so that a failure stops those behind it."""
        max_items = min(_MAX_ENTRIES, self._per_second or _MAX_ENTRIES)
        wave: list[Letter] = []
        groups: set[str | None] = set()
        for letter in chosen:
            if self._sender.fifo and letter.group_id in groups:
                yield from batches(wave, size=_letter_size, max_items=max_items, max_bytes=MAX_BYTES)
                wave, groups = [], set()
            wave.append(letter)
            groups.add(letter.group_id)
        yield from batches(wave, size=_letter_size, max_items=max_items, max_bytes=MAX_BYTES)

    def _send(self, wave: list[Letter]) -> bool:
        """Send, delete and count; returns whether the target answered."""
        ready = [letter for letter in wave if not self._sender.fifo or letter.group_id not in self._broken_groups]
        self.counts.failed += len(wave) - len(ready)
        if not ready:
            return True
        self._pace(len(ready))
        answer = self._sender.send([_onward(letter) for letter in ready])
        self._broken_groups |= {letter.group_id for letter in ready if letter.message_id not in answer.taken}
        undeleted = self._hand.delete(answer.taken) if answer.taken else frozenset()
        self.counts.moved += len(answer.taken) - len(undeleted)
        self.counts.undeleted += len(undeleted)
        self.counts.failed += len(ready) - len(answer.taken)
        self.counts.reasons |= answer.reasons
        return answer.reached

    def _pace(self, count: int) -> None:
        if self._per_second is None:
            return
        now = time.monotonic()
        time.sleep(max(0.0, self._next_at - now))
        self._next_at = max(now, self._next_at) + count / self._per_second


@dataclass(frozen=True, slots=True)
class _Parcel:
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
class _Answer:
    """The keys of what was surely taken, SQS's words for why the rest was not, and whether there was an answer."""

    taken: frozenset[str]
    reasons: frozenset[str]
    reached: bool = True


class _Sender:
    """SendMessageBatch to one queue, its failures honoured entry by entry."""

    def __init__(self, client: SQSClient, queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url
        self.fifo = queue_url.endswith(".fifo")

    def send(self, batch: Sequence[_Parcel]) -> _Answer:
        entries = [self._entry(index, parcel) for index, parcel in enumerate(batch)]
        try:
            answer = self._client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        except (ClientError, BotoCoreError) as error:
            return _Answer(frozenset(), frozenset({_word(error)}), reached=False)
        # An answer of success may hold failures.
        taken = frozenset(batch[int(entry["Id"])].key for entry in answer.get("Successful", []))
        return _Answer(taken, frozenset(entry["Code"] for entry in answer.get("Failed", [])))

    def _entry(self, index: int, parcel: _Parcel) -> SendMessageBatchRequestEntryTypeDef:
        entry: SendMessageBatchRequestEntryTypeDef = {
            "Id": str(index),
            "MessageBody": parcel.body,
            "MessageAttributes": parcel.attributes,
        }
        if self.fifo:
            entry["MessageGroupId"] = parcel.group_id
            entry["MessageDeduplicationId"] = parcel.deduplication_id
        return entry


def _dead(letter: DeadLetter) -> _Parcel | None:
    """Pack a message with its reason; None if there is no room for it."""
    reason = _NOT_FOR_SQS.sub("\ufffd", letter.reason)[:MAX_REASON_CHARACTERS]
    failed_at = datetime.now(UTC).isoformat(timespec="seconds")
    failure = Failure(letter.code, reason, letter.message_id, letter.receive_count, failed_at)
    # A message that was redriven by SQS itself still has the reason of its last failure.
    own = {name: value for name, value in letter.attributes.items() if name != FAILURE_ATTRIBUTE}
    if len(own) >= _MAX_ATTRIBUTES:
        return None
    try:
        attributes = {name: _from_event(value) for name, value in own.items()}
    except (KeyError, ValueError):
        return None
    text = json.dumps(failure.to_json(), ensure_ascii=False)
    attributes[FAILURE_ATTRIBUTE] = {"DataType": "String", "StringValue": text}
    group = letter.group_id or letter.message_id
    parcel = _Parcel(letter.message_id, letter.body, attributes, group, letter.message_id)
    return parcel if parcel.size <= MAX_BYTES else None


def _onward(letter: Letter) -> _Parcel:
    """Pack a letter as it was. By its original id SQS knows the second of two runs' sendings, and no one else's."""
    own = {name: value for name, value in letter.attributes.items() if name != FAILURE_ATTRIBUTE}
    group = letter.group_id or letter.message_id
    return _Parcel(letter.message_id, letter.body, own, group, letter.original_id)


def _letter_size(letter: Letter) -> int:
    return _onward(letter).size


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


def _from_event(value: Mapping[str, Any]) -> MessageAttributeValueTypeDef:
    """Return an attribute of a Lambda event as boto3 takes it. Raises KeyError or ValueError for one without value."""
    kind = value["dataType"]
    if kind.split(".")[0] == "Binary":
        return {"DataType": kind, "BinaryValue": base64.b64decode(value["binaryValue"], validate=True)}
    if not isinstance(value["stringValue"], str):
        raise ValueError("an attribute without value")
    return {"DataType": kind, "StringValue": value["stringValue"]}


def _attribute_bytes(attribute: tuple[str, MessageAttributeValueTypeDef]) -> int:
    name, value = attribute
    data = value.get("BinaryValue", b"")
    binary = len(data) if isinstance(data, bytes | bytearray) else 0
    return len(name.encode()) + len(value["DataType"]) + len(value.get("StringValue", "").encode()) + binary


def _word(error: Exception) -> str:
    """Name an error by SQS's own word for it or its type: its text may quote what was sent."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
