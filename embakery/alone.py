"""Works on messages by themselves: unit by unit, each marked, each message settled as soon as it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from embakery.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidRequestError,
    PoisonError,
    UnavailableError,
)
from embakery.isolation import Markbook, Span, State
from embakery.lanes import Lane
from embakery.opened import Opened, Opener
from embakery.work import Item, Ledger, Pass


@dataclass(frozen=True, slots=True)
class Unit:
    """Items to be worked on by themselves."""

    opened: Opened
    span: Span
    items: Sequence[Item]

    @property
    def rank(self) -> tuple[int, int, int]:
        """What comes first: the least suspect, then the smallest."""
        return self.span.own, self.span.sightings, sum(item.size for item in self.items)


class Alone:
    """Works on the lanes of one batch that must be isolated.

    settle: takes a message's id when nothing of it is left to do.
    """

    def __init__(
        self, work: Pass, opener: Opener, ledger: Ledger, book: Markbook, *, settle: Callable[[str], None]
    ) -> None:
        self._pass = work
        self._opener = opener
        self._failures = ledger.failures
        self._counts = ledger.counts
        self._book = book
        self._settle = settle

    def work(self, lanes: Iterable[Lane]) -> list[Unit]:
        """Work on lanes, the smallest first; return the suspect units, which are for the end.

        Where messages have an order, nothing is left for the end.
        """
        suspects: list[Unit] = []
        for lane in sorted(lanes, key=lambda lane: lane.size):
            for opened in lane.messages:
                left = [unit for unit in self._units(opened) if not self._attempt_unless_suspect(unit, lane)]
                suspects += left
                if not left:
                    self._settle(opened.message_id)
        return suspects

    def finish(self, suspects: Sequence[Unit]) -> None:
        """Work on the suspect units, the least suspect first."""
        left = sorted(suspects, key=lambda unit: unit.rank)
        while left:
            unit = left.pop(0)
            self._attempt(unit)
            if not any(other.opened is unit.opened for other in left):
                self._settle(unit.opened.message_id)

    def _units(self, opened: Opened) -> Iterator[Unit]:
        """Yield a message's units; what keeps its payload from being read is its failure."""
        if self._failures.hold_up(opened.received):
            return
        if self._pass.is_over():
            # A payload is not even fetched.
            self._failures.add(opened.message_id, DeadlineExceededError("no time left"))
            return
        try:
            for span, items in self._opener.units(opened, self._book):
                if self._pass.is_over():
                    self._failures.add(opened.message_id, DeadlineExceededError("no time left"))
                    return
                yield Unit(opened, span, items)
        except (InvalidRequestError, UnavailableError, ConfigurationError) as error:
            self._failures.add(opened.message_id, error)

    def _attempt_unless_suspect(self, unit: Unit, lane: Lane) -> bool:
        """Work on a unit now, or return False: it is for the end."""
        if unit.span.is_suspect and not unit.span.is_poison and not lane.is_ordered:
            return False
        self._attempt(unit)
        return True

    def _attempt(self, unit: Unit) -> None:
        if unit.span.is_poison:
            # Named before anything is begun that may end the process.
            self._counts.poison += 1
            problem = "was in hand each time its process was killed, and is not tried again"
            self._failures.add(unit.opened.message_id, PoisonError(unit.items[0].place, problem))
        elif self._pass.is_over():
            self._pass.run(unit.items)
        elif not self._failures.hold_up(unit.opened.received):
            self._work_on(unit)

    def _work_on(self, unit: Unit) -> None:
        """Embed and write a unit, under marks that say how far it is."""
        message_id, span = unit.opened.message_id, unit.span
        failed_before, late_before = self._failures.count(message_id), self._failures.is_late(message_id)
        self._counts.isolated += 1
        self._book.begin(message_id, span)
        results = self._pass.compute(unit.items)
        self._book.write(message_id, span)
        self._pass.write(results)
        if self._failures.count(message_id) > failed_before:
            # Not DONE for bad items either: the message would come again without their failures, and be deleted.
            late = self._failures.is_late(message_id) and not late_before
            self._book.end(message_id, span, State.SPLIT if late and len(unit.items) > 1 else State.FREE)
        elif span.is_part:
            self._book.end(message_id, span, State.DONE)
