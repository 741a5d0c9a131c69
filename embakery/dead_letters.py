"""Messages that will never succeed, and where they go: to the dead-letter queue at once, with the reason.

SQS itself moves a message there after its last receive, without a word of why. What the worker knows to be hopeless it
sends there itself: the reason goes with it as message attributes, which name fields and items and never quote a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message and why it failed.

    code: the error's stable word, such as `invalid_request`. reason: the error's own words. group_id: its group on a
    FIFO queue. attributes: the message's own attributes, in the names of a Lambda event (`stringValue`, `dataType`).
    """

    message_id: str
    body: str
    code: str
    reason: str
    receive_count: int
    group_id: str | None = None
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class DeadLetters(Protocol):
    """A dead-letter queue."""

    def send(self, letters: Sequence[DeadLetter]) -> frozenset[str]:
        """Send them; returns the ids of those that were surely taken. Raises nothing for an unreachable queue.

        What was not taken comes again, and reaches the queue the long way.
        """
