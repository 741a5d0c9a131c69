"""Plays Lambda's event source mapping for SQS: polls, forms batches, invokes, deletes what succeeded.

Nothing but a success deletes a message. What failed is left to its visibility timeout, so SQS counts its receives and
moves it to the dead-letter queue. A throttled batch is left to it too: Lambda may try that one again within the
timeout, but either way it is one receive.

See https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html and services-sqs-errorhandling.html there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from local.batch_response import MalformedResponseError, failed_message_ids
from local.batches import BatchGatherer, GroupLocks, PollerAllowance
from local.errors import InvocationError, QueueCallError, ThrottledError
from local.sqs import MAX_PER_CALL, DeleteFailure, Message, MessageQueue, lambda_record

_DELETE_TRIES = 3
# To delete what is gone is a success for SQS. Its emulators refuse the receipt handle, though it came from them: the
# message was deleted since, by the handler or by another delivery, or was delivered again, which is then to settle it.
_GONE = "ReceiptHandleIsInvalid"
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


class Invocable(Protocol):
    """A function."""

    def invoke(self, event: object) -> Any:
        """Run it and return its response. Raises InvocationError."""


@dataclass(frozen=True, slots=True)
class MappingSettings:
    """How the mapping polls, with Lambda's rules for what goes together."""

    queue_arn: str
    batch_size: int = 10
    batching_window_seconds: float = 0.0
    max_concurrency: int = 1
    report_batch_item_failures: bool = True

    def __post_init__(self) -> None:
        """Check the rules. Raises ValueError."""
        if (
            not 1 <= self.batch_size <= 10_000
            or self.max_concurrency < 1
            or not 0 <= self.batching_window_seconds <= 300
        ):
            raise ValueError("batch_size is 1 to 10000, max_concurrency at least 1, batching_window_seconds 0 to 300")
        if self.is_fifo and (self.batch_size > MAX_PER_CALL or self.batching_window_seconds):
            raise ValueError("a FIFO queue takes a batch_size of at most 10 and no batching window")
        if self.batch_size > MAX_PER_CALL and not self.batching_window_seconds:
            raise ValueError("a batch_size over 10 needs a batching window")

    @property
    def is_fifo(self) -> bool:
        """Whether the queue keeps order within message groups."""
        return self.queue_arn.endswith(".fifo")


@dataclass(frozen=True, slots=True)
class MappingStatistics:
    """What the mapping did since its start. Invocations, then messages, then trouble.

    A message counts once for each time it was received. `kept` were not to be deleted, `failed_deletes` could not be,
    and `already_gone` were to be deleted but had been before.
    """

    batches: int = 0
    deleted: int = 0
    kept: int = 0
    throttles: int = 0
    failed_invocations: int = 0
    malformed_responses: int = 0
    failed_polls: int = 0
    failed_deletes: int = 0
    already_gone: int = 0


@dataclass(frozen=True, slots=True)
class _Delivery:
    """What became of a batch: the messages that stay in the queue, and whether to poll less."""

    staying: Sequence[Message]
    back_off: bool = False


class EventSourceMapping:
    """Connects one queue to one function, with `max_concurrency` pollers, each with at most one batch in hand."""

    def __init__(
        self,
        settings: MappingSettings,
        *,
        queue: MessageQueue,
        function: Invocable,
        log: Callable[[str], None],
    ) -> None:
        """Describe the mapping; `start` starts it. `log` takes lines without any content of messages."""
        self.settings = settings
        self._queue = queue
        self._function = function
        self._log = log
        self._groups = GroupLocks()
        self._allowance = PollerAllowance(settings.max_concurrency)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._statistics = MappingStatistics()
        self._pollers = [
            threading.Thread(target=self._poll_until_stopped, args=(number,), name=f"poller-{number}", daemon=True)
            for number in range(settings.max_concurrency)
        ]

    @property
    def queue_name(self) -> str:
        """The queue's name."""
        return self.settings.queue_arn.rpartition(":")[2]

    @property
    def statistics(self) -> MappingStatistics:
        """What happened so far."""
        with self._lock:
            return self._statistics

    @property
    def active_pollers(self) -> int:
        """How many of the `max_concurrency` pollers take batches now."""
        return self._allowance.allowed

    def start(self) -> None:
        """Start the pollers. Five of them poll at first, more while there are messages."""
        for poller in self._pollers:
            poller.start()

    def request_stop(self) -> None:
        """Tell the pollers to take no further batch, and return at once."""
        self._stopping.set()
        self._allowance.stop()

    def stop(self, *, timeout_seconds: float = 30.0) -> bool:
        """Stop polling and let batches in flight finish; return whether all did within the time."""
        self.request_stop()
        for poller in self._pollers:
            if poller.is_alive():
                poller.join(timeout_seconds)
        return not any(poller.is_alive() for poller in self._pollers)

    def _poll_until_stopped(self, number: int) -> None:
        gatherer = BatchGatherer(
            self._queue,
            queue_arn=self.settings.queue_arn,
            batch_size=self.settings.batch_size,
            window_seconds=self.settings.batching_window_seconds,
            stopping=self._stopping,
        )
        pause = _FIRST_PAUSE_SECONDS
        while self._may_poll(number, gatherer):
            if self._poll_once(gatherer):
                pause = _FIRST_PAUSE_SECONDS
            else:
                self._stopping.wait(pause)
                pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)

    def _may_poll(self, number: int, gatherer: BatchGatherer) -> bool:
        """Wait for the poller's turn, unless it has messages in hand; return False when it must stop."""
        if not gatherer.has_carried:
            self._allowance.wait_for_turn(number)
        return not self._stopping.is_set()

    def _poll_once(self, gatherer: BatchGatherer) -> bool:
        """Take one batch through; return False when it is time to back off."""
        try:
            batch = gatherer.next_batch()
        except QueueCallError as error:
            self._count(failed_polls=1)
            self._log(f"poll failed: {error}")
            return False
        if not batch:
            self._allowance.found_nothing()
            return True
        self._allowance.found_messages()
        with self._groups.held(self._groups_of(batch)):
            delivery = self._deliver(batch)
            self._count(kept=gatherer.forget(self._groups_of(delivery.staying)))
        if delivery.back_off:
            self._allowance.throttled()
        return not delivery.back_off

    def _groups_of(self, messages: Sequence[Message]) -> set[str]:
        """Return the FIFO groups. A standard queue may name groups too (fair queues), but promises no order."""
        return {message.group_id for message in messages if message.group_id} if self.settings.is_fifo else set()

    def _deliver(self, batch: Sequence[Message]) -> _Delivery:
        """Invoke the function with the batch and delete what succeeded."""
        records = [lambda_record(message, queue_arn=self.settings.queue_arn) for message in batch]
        try:
            response = self._function.invoke({"Records": records})
            failed = self._failed(response, {message.id for message in batch})
        except ThrottledError as error:
            self._count(throttles=1, kept=len(batch))
            self._log(f"throttled, {len(batch)} messages wait for their visibility timeout: {error}")
            return _Delivery(batch, back_off=True)
        except InvocationError as error:
            self._count(batches=1, failed_invocations=1, kept=len(batch))
            self._log(f"invocation failed, {len(batch)} messages wait for their visibility timeout: {error}")
            # With ReportBatchItemFailures, Lambda does not poll less when invocations fail.
            return _Delivery(batch, back_off=not self.settings.report_batch_item_failures)
        except MalformedResponseError as error:
            self._count(batches=1, malformed_responses=1, kept=len(batch))
            self._log(f"malformed response, {len(batch)} messages wait for their visibility timeout: {error}")
            return _Delivery(batch)
        kept = [message for message in batch if message.id in failed]
        self._count(batches=1, kept=len(kept))
        return _Delivery(kept + self._delete([message for message in batch if message.id not in failed]))

    def _failed(self, response: object, batch_ids: Collection[str]) -> Collection[str]:
        if not self.settings.report_batch_item_failures:
            # Lambda does not read the response then: the classic way to lose messages.
            return ()
        return failed_message_ids(response, batch_ids)

    def _delete(self, messages: Sequence[Message]) -> list[Message]:
        """Delete the messages, trying failed entries again; return those that stay, to be delivered again."""
        rest, staying = list(messages), []
        for attempt in range(_DELETE_TRIES):
            if rest and attempt:
                self._stopping.wait(_FIRST_PAUSE_SECONDS * attempt)
            failures = self._delete_once(rest) if rest else []
            staying += [failure.message for failure in failures if not failure.retryable]
            rest = [failure.message for failure in failures if failure.retryable]
        staying += rest
        self._count(failed_deletes=len(staying))
        return staying

    def _delete_once(self, messages: Sequence[Message]) -> list[DeleteFailure]:
        try:
            failures = self._queue.delete(messages)
        except QueueCallError as error:
            self._log(f"delete failed: {error}")
            return [DeleteFailure(message, "QueueCallError", retryable=True) for message in messages]
        real = [failure for failure in failures if failure.code != _GONE]
        self._count(deleted=len(messages) - len(failures), already_gone=len(failures) - len(real))
        for failure in real:
            self._log(f"message {failure.message.id} was not deleted: {failure.code}")
        return real

    def _count(self, **more: int) -> None:
        with self._lock:
            counts = {name: getattr(self._statistics, name) + number for name, number in more.items()}
            self._statistics = replace(self._statistics, **counts)
