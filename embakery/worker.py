"""The queue worker's use case: messages in, results written, and which messages must come again.

    fresh messages       all together: one embedding of every document, one write for each destination
    what came before     alone, unit by unit, smallest first, each message settled as soon as it is done

An item that fails leaves its neighbours, in its message and in others, alone: they are written. Its message is reported
as failed, comes again, and is sent to the dead-letter queue once nothing in it can succeed any more; writing its
neighbours again does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from embakery.delivery import Failure, Failures, Received, SourceQueue
from embakery.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidRequestError,
    PoisonError,
    UnavailableError,
)
from embakery.isolation import DONE, SPLIT, Marks, NoTrail, Span, Trail, has_suspects
from embakery.opened import Opened, Opener, SourcePolicy
from embakery.rounds import Deadline
from embakery.work import Item, Pass, Resources, WorkCounts


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

    def process(self, messages: Sequence[Received], *, queue: SourceQueue, deadline: Deadline) -> Outcome:
        """Embed, rerank and write. Raises GoldenMismatchError, before any work, on a machine whose bits are others."""
        self.resources.embedder.require_golden()
        batch = _Batch(self, messages, queue, deadline)
        batch.run()
        return batch.outcome()


@dataclass(frozen=True, slots=True)
class _Unit:
    """Items to be worked on by themselves."""

    opened: Opened
    span: Span
    items: Sequence[Item]

    @property
    def rank(self) -> tuple[int, int]:
        """What comes first: the least suspect, then the smallest."""
        return self.span.own, sum(item.size for item in self.items)


class _Batch:
    """One batch on its way through the worker."""

    def __init__(self, worker: Worker, messages: Sequence[Received], queue: SourceQueue, deadline: Deadline) -> None:
        self._trail = worker.trail
        self._queue = queue
        self._counts = WorkCounts()
        self._failures = Failures(messages)
        self._pass = Pass(worker.resources, self._failures, self._counts, deadline)
        # A message delivered twice at once is worked on once.
        distinct = {message.message_id: message for message in messages}.values()
        self._opener = Opener(worker.resources, worker.sources, self._failures, self._counts)
        self._opened = [opened for opened in map(self._opener.open, distinct) if opened is not None]
        self._buried: set[str] = set()
        self._unsettled: dict[str, int] = {}

    def run(self) -> None:
        """Work on everything."""
        lanes, together = _sorted_out(self._opened)
        marks = self._trail.read([opened.message_id for lane in lanes for opened in lane])
        if lanes:
            # Before anything is begun that may end the process: what holds nothing to be worked on.
            self._settle(set(self._failures.failed_ids) - {one.message_id for one in self._opened if one.has_work})
        suspects = [lane for lane in lanes if _is_ordered(lane) and _has_suspects(lane, marks)]
        deferred = self._isolate([lane for lane in lanes if lane not in suspects and not _is_large(lane)], marks)
        self._pass.run([item for opened in together for item in opened.items])
        deferred += self._isolate([lane for lane in lanes if lane not in suspects and _is_large(lane)], marks)
        for unit in sorted(deferred, key=lambda unit: unit.rank):
            self._attempt(unit)
        self._isolate(suspects, marks)
        self._settle(self._failures.failed_ids)

    def outcome(self) -> Outcome:
        """Return what became of it."""
        failed = tuple(message_id for message_id in self._failures.failed_ids if message_id not in self._buried)
        return Outcome(tuple(self._failures), failed, self._failures.hopeless_ids - self._buried, self._counts)

    def _isolate(self, lanes: Iterable[Sequence[Opened]], marks: dict[str, Marks]) -> list[_Unit]:
        """Work on lanes, the smallest first, unit by unit; return the suspect units, which are for the end.

        Where messages have an order, nothing is left for the end.
        """
        deferred: list[_Unit] = []
        for lane in sorted(lanes, key=lambda lane: sum(opened.size for opened in lane)):
            for opened in lane:
                self._unsettled[opened.message_id] = 1
                for unit in self._units(opened, marks.get(opened.message_id, {})):
                    self._unsettled[opened.message_id] += 1
                    # Poison is not worked on: it is named at once, before anything can end the process.
                    if unit.span.is_suspect and not unit.span.is_poison and not _is_ordered(lane):
                        deferred.append(unit)
                    else:
                        self._attempt(unit)
                self._step_done(opened)
        return deferred

    def _units(self, opened: Opened, marks: Marks) -> Iterable[_Unit]:
        """Yield a message's units; what keeps its payload from being read is its failure."""
        if self._failures.hold_up(opened.received):
            return
        try:
            for span, items in self._opener.units(opened, marks):
                yield _Unit(opened, span, items)
        except (InvalidRequestError, UnavailableError, ConfigurationError) as error:
            self._failures.add(opened.message_id, error)

    def _attempt(self, unit: _Unit) -> None:
        message_id, span = unit.opened.message_id, unit.span
        if span.is_poison:
            self._counts.poison += 1
            problem = "was in hand each time its process was killed, and is not tried again"
            self._failures.add(message_id, PoisonError(unit.items[0].place, problem))
        elif self._pass.is_over():
            self._pass.run(unit.items)
        elif not self._failures.hold_up(unit.opened.received):
            known = len(self._failures.of(message_id))
            self._counts.isolated += 1
            self._trail.begin(message_id, span.unit)
            self._pass.run(unit.items)
            self._trail.end(message_id, span.unit, _mark(unit, self._failures.of(message_id)[known:]))
        self._step_done(unit.opened)

    def _step_done(self, opened: Opened) -> None:
        """Settle a message whose last unit is done: what kills the process later cannot take it along."""
        self._unsettled[opened.message_id] -= 1
        if self._unsettled[opened.message_id] == 0:
            if self._failures.of(opened.message_id):
                self._settle([opened.message_id])
            else:
                self._queue.delete([opened.message_id])

    def _settle(self, message_ids: Iterable[str]) -> None:
        """Send to the dead-letter queue what will never succeed, and what would go there anyway without a reason."""
        if self._queue.dead_letters is None:
            return
        done = [message_id for message_id in message_ids if self._is_done_for(message_id)]
        sent = self._queue.dead_letters.send([self._failures.letter(message_id) for message_id in done])
        if sent:
            self._counts.dead_lettered += len(sent)
            self._buried |= sent
            self._queue.delete(sorted(sent))

    def _is_done_for(self, message_id: str) -> bool:
        if message_id in self._buried or not self._failures.of(message_id):
            return False
        if message_id in self._failures.hopeless_ids:
            return True
        most = self._queue.max_receive_count
        return most is not None and self._failures.received(message_id).receive_count >= most


def _sorted_out(messages: Sequence[Opened]) -> tuple[list[list[Opened]], list[Opened]]:
    """Return the lanes of messages to be isolated, and the messages to be worked on together.

    A lane is a group of a FIFO queue, or one message of a standard one. One message that must be isolated takes its
    group along: its order is kept.
    """
    lanes: dict[str, list[Opened]] = {}
    for opened in messages:
        lanes.setdefault(opened.lane, []).append(opened)
    isolated = [lane for lane in lanes.values() if any(opened.must_be_isolated for opened in lane)]
    taken = {opened.message_id for lane in isolated for opened in lane}
    return isolated, [opened for opened in messages if opened.message_id not in taken]


def _is_ordered(lane: Sequence[Opened]) -> bool:
    return lane[0].received.group_id is not None


def _is_large(lane: Sequence[Opened]) -> bool:
    return any(opened.source is not None for opened in lane)


def _has_suspects(lane: Sequence[Opened], marks: dict[str, Marks]) -> bool:
    return any(has_suspects(marks.get(opened.message_id, {})) for opened in lane)


def _mark(unit: _Unit, failures: Sequence[Failure]) -> int:
    if not failures:
        return DONE
    # Not DONE for bad items either: the message would come again without their failures, and be deleted.
    late = any(isinstance(failure.error, DeadlineExceededError) for failure in failures)
    return SPLIT if late and len(unit.items) > 1 else 0
