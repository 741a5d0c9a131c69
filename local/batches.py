"""Gathers messages into batches, as Lambda's pollers do: by size, by window and by payload."""

from __future__ import annotations

import threading
import time

from local.errors import QueueCallError
from local.functions import MAX_EVENT_BYTES
from local.sqs import MAX_PER_CALL, Message, MessageQueue, lambda_record, record_bytes

_LONG_POLL_SECONDS = 1
_WINDOW_STEP_SECONDS = 0.02
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
