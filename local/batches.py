"""Batches as Lambda's pollers form them, by size, window and payload, and how many may be in flight at once.

See https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html and services-sqs-scaling.html there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Iterator

from local.errors import QueueCallError
from local.invocations import MAX_EVENT_BYTES
from local.sqs import MAX_PER_CALL, Message, MessageQueue, lambda_record, record_bytes

_LONG_POLL_SECONDS = 1
_WINDOW_STEP_SECONDS = 0.02
# Lambda starts with five concurrent batches and adds up to 300 a minute.
_FIRST_POLLERS = 5
_SECONDS_PER_POLLER = 60 / 300
_EMPTY_EVENT_ROOM = MAX_EVENT_BYTES - len('{"Records": []}')


class BatchGatherer:
    """Forms one poller's batches. Not for several threads."""

    def __init__(
        self,
        queue: MessageQueue,
        *,
        queue_arn: str,
        batch_size: int,
        window_seconds: float,
        stopping: threading.Event,
    ) -> None:
        self._queue = queue
        self._queue_arn = queue_arn
        self._batch_size = batch_size
        self._window_seconds = window_seconds
        self._stopping = stopping
        self._carried: list[Message] = []

    def next_batch(self) -> list[Message]:
        """Return the next batch, empty if no message came within a second.

        The window starts with the first message. A message that would take the event over 6 MB opens the next batch.
        Raises QueueCallError if nothing was received yet.
        """
        pending = self._carried or self._receive(self._batch_size, _LONG_POLL_SECONDS)
        closes = time.monotonic() + self._window_seconds
        batch: list[Message] = []
        free_bytes = _EMPTY_EVENT_ROOM
        while True:
            taken, free_bytes = self._fitting(pending, self._batch_size - len(batch), free_bytes)
            batch += pending[:taken]
            self._carried = pending[taken:]
            if self._carried or not batch or len(batch) >= self._batch_size:
                return batch
            pending = self._receive_more(self._batch_size - len(batch), closes)
            if not pending:
                return batch

    @property
    def has_carried(self) -> bool:
        """Whether messages were received that no batch has taken yet."""
        return bool(self._carried)

    def forget(self, groups: Collection[str]) -> int:
        """Leave messages of these groups that were received for the next batch to their visibility timeout; count them.

        What failed comes again after that timeout: those behind it in its FIFO group must not come before.
        """
        kept = [message for message in self._carried if message.group_id not in groups]
        forgotten = len(self._carried) - len(kept)
        self._carried = kept
        return forgotten

    def _fitting(self, messages: list[Message], room: int, free_bytes: int) -> tuple[int, int]:
        """Return how many of the messages fit, and the bytes left then. One always fits into an empty event."""
        for taken, message in enumerate(messages[:room]):
            size = record_bytes(lambda_record(message, queue_arn=self._queue_arn))
            if size > free_bytes and free_bytes < _EMPTY_EVENT_ROOM:
                return taken, free_bytes
            free_bytes -= size
        return min(room, len(messages)), free_bytes

    def _receive_more(self, wanted: int, closes: float) -> list[Message]:
        """Receive until something comes; nothing when the window closes, the poller stops or the queue fails."""
        while not self._stopping.is_set() and (remaining := closes - time.monotonic()) > 0:
            try:
                received = self._receive(wanted, int(min(_LONG_POLL_SECONDS, remaining)))
            except QueueCallError:
                # What is in hand is delivered; the next poll will meet the trouble again and report it.
                return []
            if received:
                return received
            self._stopping.wait(min(_WINDOW_STEP_SECONDS, remaining))
        return []

    def _receive(self, wanted: int, wait_seconds: int) -> list[Message]:
        return self._queue.receive(max_messages=min(MAX_PER_CALL, wanted), wait_seconds=wait_seconds)


class GroupLocks:
    """Keeps a FIFO message group to one batch in flight, even where the handler makes failed messages visible early."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def held(self, groups: set[str]) -> Iterator[None]:
        """Wait until none of the groups is held, and hold them all: never some of them, so there is no deadlock."""
        with self._changed:
            self._changed.wait_for(lambda: self._held.isdisjoint(groups))
            self._held |= groups
        try:
            yield
        finally:
            with self._changed:
                self._held -= groups
                self._changed.notify_all()


class PollerAllowance:
    """How many of a mapping's pollers poll: five at first, more while messages keep coming, fewer when throttled."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._first = min(_FIRST_POLLERS, most)
        self._allowed = self._first
        self._changed_at = time.monotonic()
        self._more_wanted = False
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def allowed(self) -> int:
        """How many may poll now."""
        with self._changed:
            return self._allowed

    def wait_for_turn(self, number: int) -> None:
        """Return when the poller of this number, from 0, may poll, or must stop."""
        with self._changed:
            while not self._stopped and number >= self._allowed:
                is_next = number == self._allowed
                if is_next and self._more_wanted and (wait := self._seconds_until_growth()) <= 0:
                    # Those before it may all be in their handlers: the next in line sees for itself.
                    self._allow(self._allowed + 1)
                else:
                    self._changed.wait(wait if is_next and self._more_wanted else None)

    def stop(self) -> None:
        """Let everybody go who waits for a turn."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def found_messages(self) -> None:
        """A poll found messages: there may be work for one more."""
        with self._changed:
            self._more_wanted = True
            self._changed.notify_all()

    def found_nothing(self) -> None:
        """A poll found none: there is work for one fewer, down to as many as at first."""
        with self._changed:
            self._more_wanted = False
            if self._allowed > self._first:
                self._allow(self._allowed - 1)

    def throttled(self) -> None:
        """The function took no batch more: one fewer, down to one."""
        with self._changed:
            self._more_wanted = False
            self._allow(max(1, self._allowed - 1))

    def _allow(self, number: int) -> None:
        self._allowed = number
        self._changed_at = time.monotonic()
        self._changed.notify_all()

    def _seconds_until_growth(self) -> float:
        return self._changed_at + _SECONDS_PER_POLLER - time.monotonic()
