"""At-least-once delivery made to happen: a queue that hands a share of its messages out twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

from local.sqs import DeleteFailure, Message, MessageQueue

# Only messages of FIFO queues have one; a standard queue's may name groups, too.
_FIFO_ATTRIBUTE = "SequenceNumber"


class DuplicatingQueue:
    """Wraps a queue. The copy has the original's id and receipt handle, and comes while the original is in flight.

    Of a standard queue, it comes in the same batch or in the next receive, anybody's; of a FIFO queue, next to the
    original in the same batch, so that the group's order holds. A copy not yet handed out ends with the original's
    deletion by this queue; a handler that deletes behind its back may still see the copy come, as with SQS.
    """

    def __init__(self, queue: MessageQueue, seed: int, share: float) -> None:
        """Duplicate a `share` (0 to 1) of the messages that `queue` delivers, chosen by `seed`."""
        self._queue = queue
        self._random = random.Random(seed)
        self._share = share
        self._later: list[Message] = []
        self._duplicated = 0
        self._lock = threading.Lock()

    @property
    def duplicated(self) -> int:
        """How many copies were handed out."""
        with self._lock:
            return self._duplicated

    def receive(self, *, max_messages: int, wait_seconds: int) -> list[Message]:
        """Receive messages and copies, together up to `max_messages`."""
        copies = self._take_later(max_messages)
        if len(copies) == max_messages:
            return copies
        # Room for a copy, where there is room for two.
        wanted = max(1, max_messages - len(copies) - (1 if self._share else 0))
        received = self._queue.receive(max_messages=wanted, wait_seconds=0 if copies else wait_seconds)
        return copies + self._with_copies(received, room=max_messages - len(copies) - len(received))

    def delete(self, messages: Sequence[Message]) -> list[DeleteFailure]:
        """Delete messages; their copies still to come are dropped."""
        handles = {message.receipt_handle for message in messages}
        with self._lock:
            self._later = [copy for copy in self._later if copy.receipt_handle not in handles]
        return self._queue.delete(messages)

    def _take_later(self, most: int) -> list[Message]:
        with self._lock:
            taken, self._later = self._later[:most], self._later[most:]
            self._duplicated += len(taken)
            return taken

    def _with_copies(self, received: Sequence[Message], *, room: int) -> list[Message]:
        delivered = []
        with self._lock:
            for message in received:
                delivered.append(message)
                # Drawn for every message, so that the choice depends on nothing but the seed and the order.
                chosen, at_once = self._random.random() < self._share, self._random.random() < 0.5
                is_fifo = _FIFO_ATTRIBUTE in message.attributes
                if chosen and room > 0 and (at_once or is_fifo):
                    delivered.append(message)
                    self._duplicated += 1
                    room -= 1
                elif chosen and not is_fifo:
                    self._later.append(message)
        return delivered
