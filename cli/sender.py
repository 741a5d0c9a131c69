"""Sends messages in batches of ten, patiently, and keeps the journal of what SQS took."""

from __future__ import annotations

import functools
import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

from cli.inputs.checking import Checked, to_json
from cli.journal import State
from cli.packing import DOCUMENTS_PER_MESSAGE, MAX_MESSAGE_BYTES, Envelope, Packed, Packer
from cli.signals import Stop
from embakery.batches import batches
from embakery.errors import InvalidRequestError, RequestTooLargeError, StoreUnavailableError
from storage.clients import error_code

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef, SendMessageBatchResultTypeDef

Answer = TypeVar("Answer")

_MESSAGES_PER_BATCH = 10
# With the pauses between them half a minute, which outlasts a throttle and a router that starts again.
_ATTEMPTS = 9
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
# While a batch is in flight a signal only sets a flag; a pause looks at it this often.
_GLANCE_SECONDS = 0.1
_THROTTLED = frozenset(
    {"ThrottlingException", "Throttling", "RequestThrottled", "RequestLimitExceeded", "OverLimit", "KmsThrottled"}
    | {"AWS.SimpleQueueService.OverLimit", "TooManyRequestsException", "ServiceUnavailable", "InternalError"}
)


@dataclass(frozen=True, slots=True)
class Numbered:
    """A message with its place in the run, and a digest of all messages up to it."""

    position: int
    digest: str
    message: Packed


@dataclass(frozen=True, slots=True)
class Events:
    """What is told on the way: messages that SQS took, messages it refuses for good (how many documents, and why)."""

    sent: Callable[[Packed], None] = lambda _: None
    refused: Callable[[Packed, str], None] = lambda _, __: None


class Sender:
    """Sends to one queue.

    put: keeps a claim check's payload. stop: whether to stop. state, record: the journal, if there is one.
    """

    def __init__(
        self,
        client: SQSClient,
        queue_url: str,
        events: Events,
        *,
        put: Callable[[bytes], object] | None = None,
        stop: Stop | None = None,
        state: State | None = None,
        record: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._queue_url = queue_url
        self._fifo = queue_url.endswith(".fifo")
        self._events = events
        self._put = put
        self._stop = stop or Stop()
        self._state = state or State()
        self._record = record or (lambda: None)

    def send(self, messages: Iterable[Packed]) -> None:
        """Send every message that the state does not say was sent.

        Raises Interrupted, StoreUnavailableError when patience is at its end, InvalidRequestError if the messages are
        not those that the state is about.
        """
        parcels = (self._with_payload_kept(numbered) for numbered in self._unsent(messages))
        for batch in batches(parcels, size=_size, max_items=_MESSAGES_PER_BATCH, max_bytes=MAX_MESSAGE_BYTES):
            for part in _by_distinct_groups(batch) if self._fifo else [batch]:
                with self._stop.held_off():
                    self._send_batch(part)
        self._state.done = True
        self._record()

    def _unsent(self, messages: Iterable[Packed]) -> Iterator[Numbered]:
        """Number the messages; hold back what was left until those before are known to be the same as last time."""
        digest = hashlib.sha256()
        before = self._state.to
        held: list[Numbered] = []
        position = -1
        for position, message in enumerate(messages):
            digest.update(hashlib.sha256(message.body.encode()).digest())
            numbered = Numbered(position, digest.hexdigest(), message)
            if position >= before:
                yield numbered
                continue
            if position in self._state.left:
                held.append(numbered)
            if position == before - 1:
                if numbered.digest != self._state.digest:
                    raise _other_input()
                # They count as the newest, whose digest stands for all up to there.
                yield from (replace(left, digest=numbered.digest) for left in held)
        if position < before - 1:
            raise _other_input()

    def _with_payload_kept(self, numbered: Numbered) -> Numbered:
        message = numbered.message
        if message.payload is None or self._put is None:
            return numbered
        put, payload = self._put, message.payload
        self._patiently(lambda: put(payload))
        # Let go here: a batch of ten is not to hold ten payloads. The empty one still says that there was one.
        return replace(numbered, message=replace(message, payload=b""))

    def _send_batch(self, batch: list[Numbered]) -> None:
        """Send a batch, and again what SQS did not take of it: an answer of success may hold failures."""
        waiting = {str(numbered.position): numbered for numbered in batch}
        self._state.left |= {numbered.position for numbered in batch}
        for attempt in range(_ATTEMPTS):
            answer = self._patiently(functools.partial(self._call, list(waiting.values())))
            failures = {failure["Id"]: failure for failure in answer.get("Failed", [])}
            taken = {entry["Id"] for entry in answer.get("Successful", [])}
            refused = {name for name, failure in failures.items() if failure["SenderFault"]}
            self._settle([waiting.pop(name) for name in list(waiting) if name in taken], refused=None)
            for name in [name for name in waiting if name in refused]:
                self._settle([waiting.pop(name)], refused=str(failures[name]["Code"]))
            self._state.to = max(self._state.to, batch[-1].position + 1)
            self._state.digest = batch[-1].digest
            self._record()
            if not waiting:
                return
            self._pause(attempt)
        codes = sorted({failures[name]["Code"] for name in waiting if name in failures})
        raise StoreUnavailableError(f"sqs did not take {len(waiting)} messages: {', '.join(codes)}")

    def _call(self, batch: list[Numbered]) -> SendMessageBatchResultTypeDef:
        return self._client.send_message_batch(
            QueueUrl=self._queue_url, Entries=[self._entry(numbered) for numbered in batch]
        )

    def _settle(self, settled: Iterable[Numbered], *, refused: str | None) -> None:
        for numbered in settled:
            self._state.left.discard(numbered.position)
            if refused is not None:
                self._events.refused(numbered.message, refused)
                continue
            self._state.messages += 1
            self._state.documents += numbered.message.documents
            self._events.sent(numbered.message)

    def _entry(self, numbered: Numbered) -> SendMessageBatchRequestEntryTypeDef:
        message = numbered.message
        entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(numbered.position), "MessageBody": message.body}
        if message.group is not None:
            entry["MessageGroupId"] = message.group
            entry["MessageDeduplicationId"] = message.deduplication_id
        return entry

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Call, and again after what may pass."""
        for attempt in range(_ATTEMPTS):
            try:
                return call()
            except (ClientError, BotoCoreError, StoreUnavailableError) as error:
                if not _may_pass(error):
                    raise
                last = error
            self._pause(attempt)
        raise StoreUnavailableError(f"gave up after {_ATTEMPTS} tries: {last}") from last

    def _pause(self, attempt: int) -> None:
        """Wait, longer each time and never in step with others. Raises Interrupted."""
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt)
        end = time.monotonic() + longest * random.uniform(0.5, 1)  # noqa: S311 - jitter
        while (left := end - time.monotonic()) > 0:
            self._stop.check()
            time.sleep(min(left, _GLANCE_SECONDS))


def send_documents(
    client: SQSClient,
    queue_url: str,
    documents: Sequence[Mapping[str, Any]],
    *,
    destination: str = "default",
    job_id: str | None = None,
    on_sent: Callable[[int], None] = lambda _: None,
) -> int:
    """Send documents as they are, by tens; returns how many.

    Raises RequestTooLargeError before anything is sent, StoreUnavailableError when SQS refuses a message for good.
    """
    packer = Packer(Envelope(destination=destination, job_id=job_id), documents=DOCUMENTS_PER_MESSAGE)
    rows = [
        Checked(f"documents[{index}]", str(document.get("id")), 1, to_json(document))
        for index, document in enumerate(documents)
    ]
    messages = list(packer.pack(rows, _too_large))
    Sender(client, queue_url, Events(lambda message: on_sent(message.documents), _refused)).send(messages)
    return len(documents)


def _too_large(where: str, problem: str) -> None:
    raise RequestTooLargeError(where, problem)


def _refused(message: Packed, code: str) -> None:
    raise StoreUnavailableError(f"sqs refused a message of {message.documents} documents: {code}")


def _by_distinct_groups(batch: list[Numbered]) -> Iterator[list[Numbered]]:
    """Split where a group comes a second time: were the first refused and the second taken, order would be lost."""
    part: list[Numbered] = []
    groups: set[str | None] = set()
    for numbered in batch:
        if numbered.message.group in groups:
            yield part
            part, groups = [], set()
        part.append(numbered)
        groups.add(numbered.message.group)
    yield part


def _size(numbered: Numbered) -> int:
    return numbered.message.size


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status == 429 or status >= 500 or error_code(error) in _THROTTLED
    return isinstance(error, HTTPClientError | BotoConnectionError | StoreUnavailableError)


def _other_input() -> InvalidRequestError:
    problem = "the documents are not those that the run which did not end had sent; --again starts over"
    return InvalidRequestError("", problem)
