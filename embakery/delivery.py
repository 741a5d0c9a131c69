"""Messages as a queue delivers them, and what failed of them.

On a FIFO queue what follows a failure in its group must fail too: it has to come again after it, not before. Not so
behind a message that never comes again, because nothing in it can succeed or because it was sent to the dead-letter
queue: it would take its followers there with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from embakery.dead_letters import DeadLetter, DeadLetters
from embakery.errors import BehindFailureError, DeadlineExceededError, EmbakeryError, InvalidRequestError

# A payload may have ten thousands of bad lines: so many reasons are kept of each message.
_MAX_FAILURES = 20
_MAX_REASONS = 3


@dataclass(frozen=True, slots=True)
class Received:
    """A message as the queue gave it.

    receive_count: how often it was received, this time included. group_id: its group on a FIFO queue, None on a
    standard one. attributes: its message attributes, in the names of a Lambda event.
    """

    message_id: str
    body: object
    receive_count: int = 1
    group_id: str | None = None
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class SourceQueue(Protocol):
    """The queue that a batch came from."""

    @property
    def max_receive_count(self) -> int | None:
        """After how many receives it gives a message up to its dead-letter queue; None if it never does."""

    @property
    def dead_letters(self) -> DeadLetters | None:
        """Its dead-letter queue, if it has one."""

    def delete(self, message_ids: Sequence[str]) -> None:
        """Delete messages of this batch now, before its end. Raises nothing: what stays comes again, harmlessly."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message must come again. `error` names field and item, never a text."""

    message_id: str
    error: EmbakeryError

    @property
    def is_permanent(self) -> bool:
        """Whether the message will fail again however often it comes."""
        return isinstance(self.error, InvalidRequestError)


@dataclass(slots=True)
class _Record:
    """The failures of one message: the first of them, and what all of them come to."""

    first: list[Failure] = field(default_factory=list)
    count: int = 0
    is_hopeless: bool = True
    is_late: bool = False

    def add(self, failure: Failure) -> None:
        late = isinstance(failure.error, DeadlineExceededError)
        if late and self.is_late:
            # Once says it all.
            return
        self.count += 1
        self.is_hopeless = self.is_hopeless and failure.is_permanent
        self.is_late = self.is_late or late
        if len(self.first) < _MAX_FAILURES:
            self.first.append(failure)


class Failures:
    """What failed of a batch, what is held up by it, and what went to the dead-letter queue."""

    def __init__(self, messages: Sequence[Received]) -> None:
        self._messages = {message.message_id: message for message in messages}
        self._records: dict[str, _Record] = {}
        self._buried: set[str] = set()

    def __iter__(self) -> Iterator[Failure]:
        """Yield the failures in the messages' order, the first twenty of each."""
        for message_id in self.failed_ids:
            yield from self._records[message_id].first

    def __contains__(self, message_id: str) -> bool:
        """Say whether anything of a message failed."""
        return message_id in self._records

    def add(self, message_id: str, error: EmbakeryError) -> None:
        """Take down a failure."""
        self._records.setdefault(message_id, _Record()).add(Failure(message_id, error))

    def bury(self, message_ids: Sequence[str]) -> None:
        """Take down that messages are in the dead-letter queue: they hold nobody up."""
        self._buried.update(message_ids)

    def hold_up(self, message: Received) -> bool:
        """Say whether a failure before it in its group holds a message up, and take that down as its failure."""
        if message.group_id is None or not self._is_behind_failure(message):
            return False
        if message.message_id not in self._records:
            self.add(message.message_id, BehindFailureError("a message before it in its group failed"))
        return True

    def count(self, message_id: str) -> int:
        """Return how much failed of a message."""
        return self._records[message_id].count if message_id in self._records else 0

    def is_late(self, message_id: str) -> bool:
        """Say whether time ran out for anything of a message."""
        return message_id in self._records and self._records[message_id].is_late

    def received(self, message_id: str) -> Received:
        """Return a message of the batch."""
        return self._messages[message_id]

    @property
    def failed_ids(self) -> tuple[str, ...]:
        """The ids of messages that failed, in the messages' order."""
        return tuple(message_id for message_id in self._messages if message_id in self._records)

    @property
    def retried_ids(self) -> tuple[str, ...]:
        """The ids of messages that must come again, in the messages' order."""
        return tuple(message_id for message_id in self.failed_ids if message_id not in self._buried)

    @property
    def hopeless_ids(self) -> frozenset[str]:
        """The ids of failed messages in which nothing can ever succeed that has not."""
        return frozenset(message_id for message_id, record in self._records.items() if record.is_hopeless)

    def letter(self, message_id: str) -> DeadLetter:
        """Return a failed message with its reasons, as the dead-letter queue gets it."""
        message, record = self._messages[message_id], self._records[message_id]
        reasons = [str(failure.error) for failure in record.first[:_MAX_REASONS]]
        more = [f"and {record.count - _MAX_REASONS} more"] if record.count > _MAX_REASONS else []
        return DeadLetter(
            message_id=message_id,
            body=str(message.body),
            code=record.first[0].error.code,
            reason="; ".join(reasons + more),
            receive_count=message.receive_count,
            group_id=message.group_id,
            attributes=message.attributes,
        )

    def _is_behind_failure(self, message: Received) -> bool:
        for message_id, other in self._messages.items():
            if message_id == message.message_id:
                return False
            if other.group_id == message.group_id and self._comes_again(message_id):
                return True
        return False

    def _comes_again(self, message_id: str) -> bool:
        record = self._records.get(message_id)
        return record is not None and not record.is_hopeless and message_id not in self._buried
