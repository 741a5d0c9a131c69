"""Messages as a queue delivers them, and what failed of them.

On a FIFO queue what follows a failure in its group must fail too: it has to come again after it, not before. Not so
behind a message that can never succeed: it never comes to anything, and would take its followers to the dead-letter
queue with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from embakery.dead_letters import DeadLetter, DeadLetters
from embakery.errors import BehindFailureError, EmbakeryError, InvalidRequestError

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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message must come again. `error` names field and item, never a text."""

    message_id: str
    error: EmbakeryError

    @property
    def is_permanent(self) -> bool:
        """Whether the message will fail again however often it comes."""
        return isinstance(self.error, InvalidRequestError)


class Failures:
    """What failed of a batch, and which groups are held up by it."""

    def __init__(self, messages: Sequence[Received]) -> None:
        self._messages = {message.message_id: message for message in messages}
        self._places = {message_id: place for place, message_id in enumerate(self._messages)}
        self._by_message: dict[str, list[Failure]] = {}
        self._broken_at: dict[str, int] = {}

    def __iter__(self) -> Iterator[Failure]:
        """Yield the failures in the messages' order."""
        for message_id in self._messages:
            yield from self._by_message.get(message_id, ())

    def add(self, message_id: str, error: EmbakeryError) -> None:
        """Take down a failure."""
        failure = Failure(message_id, error)
        self._by_message.setdefault(message_id, []).append(failure)
        group_id = self._messages[message_id].group_id
        if group_id is not None and not failure.is_permanent:
            place = self._places[message_id]
            self._broken_at[group_id] = min(place, self._broken_at.get(group_id, place))

    def hold_up(self, message: Received) -> bool:
        """Say whether a failure before it in its group holds a message up, and take that down as its failure."""
        broken_at = None if message.group_id is None else self._broken_at.get(message.group_id)
        if broken_at is None or broken_at >= self._places[message.message_id]:
            return False
        if not any(isinstance(failure.error, BehindFailureError) for failure in self.of(message.message_id)):
            self.add(message.message_id, BehindFailureError("a message before it in its group failed"))
        return True

    def of(self, message_id: str) -> Sequence[Failure]:
        """Return the failures of one message."""
        return self._by_message.get(message_id, ())

    def received(self, message_id: str) -> Received:
        """Return a message of the batch."""
        return self._messages[message_id]

    @property
    def failed_ids(self) -> tuple[str, ...]:
        """The ids of messages that failed, in the messages' order."""
        return tuple(message_id for message_id in self._messages if message_id in self._by_message)

    @property
    def hopeless_ids(self) -> frozenset[str]:
        """The ids of failed messages in which nothing can ever succeed that has not."""
        return frozenset(
            message_id
            for message_id, failures in self._by_message.items()
            if all(failure.is_permanent for failure in failures)
        )

    def letter(self, message_id: str) -> DeadLetter:
        """Return a failed message with its reasons, as the dead-letter queue gets it."""
        message, failures = self._messages[message_id], self.of(message_id)
        reasons = [str(failure.error) for failure in failures[:_MAX_REASONS]]
        more = [f"and {len(failures) - _MAX_REASONS} more"] if len(failures) > _MAX_REASONS else []
        return DeadLetter(
            message_id=message_id,
            body=str(message.body),
            code=failures[0].error.code,
            reason="; ".join(reasons + more),
            receive_count=message.receive_count,
            group_id=message.group_id,
            attributes=message.attributes,
        )


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
