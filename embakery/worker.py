"""The queue worker's use case: messages in, results written, and which messages must come again.

    fresh messages       all together: one embedding of every document, one write for each destination
    what came before     alone, unit by unit, smallest first, each message settled as soon as it is done

An item that fails leaves its neighbours, in its message and in others, alone: they are written. Its message is reported
as failed, comes again, and is sent to the dead-letter queue once nothing in it can succeed any more; writing its
neighbours again does nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from embakery.alone import Alone
from embakery.breaker import Breaker
from embakery.delivery import Failure, Failures, Received, SourceQueue
from embakery.isolation import Markbook, NoTrail, Trail
from embakery.lanes import Lane, lanes
from embakery.opened import Opener, SourcePolicy
from embakery.rounds import Deadline
from embakery.work import Ledger, Pass, Resources, WorkCounts

# A dead-letter queue that takes nothing, so often in a row, is not tried again for the rest of the batch.
_MAX_REFUSALS = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch.

    failures: in the messages' order, several for a message of several bad items. failed_ids: messages that must come
    again. hopeless_ids: those of them in which nothing can ever succeed that has not.
    """

    failures: tuple[Failure, ...]
    failed_ids: tuple[str, ...]
    hopeless_ids: frozenset[str]
    counts: WorkCounts


@dataclass(frozen=True, slots=True)
class Worker:
    """What the worker needs: resources to work with, where payloads lie, and where it keeps its marks."""

    resources: Resources
    sources: SourcePolicy = field(default_factory=SourcePolicy)
    trail: Trail = field(default_factory=NoTrail)
    clock: Callable[[], float] = time.time

    def process(self, messages: Sequence[Received], *, queue: SourceQueue, deadline: Deadline) -> Outcome:
        """Embed, rerank and write. Raises GoldenMismatchError, before any work, on a machine whose bits are others."""
        self.resources.embedder.require_golden()
        batch = _Batch(self, messages, queue, deadline)
        batch.run()
        return batch.outcome()


class _Batch:
    """One batch on its way through the worker."""

    def __init__(self, worker: Worker, messages: Sequence[Received], queue: SourceQueue, deadline: Deadline) -> None:
        self._queue = queue
        self._failures = Failures(messages)
        ledger = Ledger(self._failures)
        self._counts = ledger.counts
        # A message delivered twice at once is worked on once.
        distinct = {message.message_id: message for message in messages}.values()
        opener = Opener(worker.resources, worker.sources, ledger, queue)
        self._opened = [opened for opened in map(opener.open, distinct) if opened is not None]
        self._isolated = [lane for lane in lanes(self._opened) if lane.is_isolated]
        taken = [opened.message_id for lane in self._isolated for opened in lane.messages]
        now = worker.clock()
        self._book = Markbook(worker.trail, taken, now=now, until=now + deadline.seconds_to_end())
        self._fresh = [opened for opened in self._opened if opened.message_id not in set(taken)]
        self._pass = Pass(worker.resources, ledger, deadline)
        self._alone = Alone(self._pass, opener, ledger, self._book, settle=self._settle)
        self._burials = Breaker(threshold=_MAX_REFUSALS, pause_seconds=math.inf)

    def run(self) -> None:
        """Work on everything, what may end the process after what it would take along."""
        innocent = [lane for lane in self._isolated if not self._is_suspect(lane)]
        if self._isolated:
            self._bury_unworkable()
        left = self._alone.work([lane for lane in innocent if lane.came_before])
        self._pass.run([item for opened in self._fresh for item in opened.items])
        left += self._alone.work([lane for lane in innocent if not lane.came_before])
        self._alone.finish(left)
        self._alone.work([lane for lane in self._isolated if self._is_suspect(lane)])
        self._bury(self._failures.retried_ids)

    def outcome(self) -> Outcome:
        """Return what became of it."""
        retried = self._failures.retried_ids
        hopeless = self._failures.hopeless_ids.intersection(retried)
        return Outcome(tuple(self._failures), retried, hopeless, self._counts)

    def _is_suspect(self, lane: Lane) -> bool:
        """Say whether a lane is for the end as a whole. Where there is no order, only its suspect units are."""
        return lane.is_ordered and any(self._book.has_suspects(opened.message_id) for opened in lane.messages)

    def _bury_unworkable(self) -> None:
        """Settle what holds nothing to be worked on, before anything is begun that may end the process."""
        with_work = {opened.message_id for opened in self._opened if opened.has_work}
        self._bury([message_id for message_id in self._failures.failed_ids if message_id not in with_work])

    def _settle(self, message_id: str) -> None:
        """Let a message go of which nothing is left to do: what kills the process later cannot take it along."""
        if message_id in self._failures:
            self._bury([message_id])
        else:
            self._queue.delete([message_id])

    def _bury(self, message_ids: Sequence[str]) -> None:
        """Send to the dead-letter queue what will never succeed, and what would go there anyway without a reason."""
        done = [message_id for message_id in message_ids if self._is_done_for(message_id)]
        if not done or not self._burials.allows() or self._queue.dead_letters is None:
            return
        sent = self._queue.dead_letters.send([self._failures.letter(message_id) for message_id in done])
        if not sent:
            self._burials.failed()
        else:
            self._burials.succeeded()
            self._counts.dead_lettered += len(sent)
            self._failures.bury(sorted(sent))
            self._queue.delete(sorted(sent))

    def _is_done_for(self, message_id: str) -> bool:
        if message_id in self._failures.hopeless_ids:
            return True
        most = self._queue.max_receive_count
        return most is not None and self._failures.received(message_id).receive_count >= most
