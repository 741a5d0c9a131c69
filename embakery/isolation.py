"""Finds the item that kills the process, and lets its neighbours go on.

A document that ends the process (out of memory, a crash in native code, an endless loop until the timeout) takes its
whole batch down, and its batch comes again. So what comes again is worked on in units, each marked before it is begun
and after: a mark without its end tells, to whoever takes the message next, what was in hand at the kill.

    a unit that was killed      is cut into smaller ones, which come after everything else
    an item seen twice          at a kill, once alone, fails alone: it is not tried again
    a unit killed while writing comes last too, but that says nothing of its texts
    a unit that was done        is not done again

Marks are kept by message, outside of the process: its memory is what a kill takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

# More marks than this for one level would make a message's marks large; fewer, its search long.
_PARTS = 50
_POISON_SIGHTINGS = 2


class State(StrEnum):
    """How far a unit was when its mark was left."""

    BEGUN = "begun"  # being embedded or ranked
    WRITING = "writing"  # its vectors are there, and on their way to a store
    DONE = "done"  # its results are written
    SPLIT = "split"  # it did not get through in the time there was: it is to be cut
    FREE = "free"  # it ended without a result: it is to be tried again


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of a unit.

    sightings: kills at which it was in hand, before this mark. until: when the invocation that left the mark ends at
    the latest, in seconds since 1970; before that, the unit may be in its hand still.
    """

    state: State
    sightings: int = 0
    until: float = 0.0

    def seen(self, now: float) -> int:
        """Return the kills at which it was in hand: this one too, if its invocation is over without an end."""
        return self.sightings + (self.state is State.BEGUN and now >= self.until)

    def is_suspect(self, now: float) -> bool:
        """Say whether a process ended while it was in hand."""
        return self.seen(now) > 0 or (self.state is State.WRITING and now >= self.until)


Marks = Mapping[str, Mark]
"""Of one message, by unit."""


class Trail(Protocol):
    """Where marks are kept. Never raises: a trail that cannot be reached is one without marks."""

    def read(self, message_ids: Sequence[str]) -> dict[str, Marks]:
        """Return the marks of those messages that have any."""

    def write(self, message_id: str, unit: str, mark: Mark) -> None:
        """Put a unit's mark in the place of the one before."""


class NoTrail:
    """No memory: units are worked on alone, smallest first, and nothing is known of earlier tries."""

    def read(self, _: Sequence[str]) -> dict[str, Marks]:
        """Return nothing."""
        return {}

    def write(self, message_id: str, unit: str, mark: Mark) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """The items `start` to `stop` of a message.

    own: kills at which just this span was in hand. sightings: those, and the kills at which a larger one was that it is
    a part of. is_suspect: whether any process ended with it in hand. is_part: whether it is not the whole message.
    """

    start: int
    stop: int
    own: int = 0
    sightings: int = 0
    is_suspect: bool = False
    is_part: bool = False

    @property
    def unit(self) -> str:
        """The name under which it is marked."""
        return f"{self.start}-{self.stop}"

    @property
    def is_poison(self) -> bool:
        """Whether it is one item that was seen at kills too often, at one of them alone."""
        return self.stop - self.start == 1 and self.own > 0 and self.sightings >= _POISON_SIGHTINGS


class Markbook:
    """The marks of one batch: those that were found, and those that this invocation leaves.

    now: when it is; until: when this invocation ends at the latest, both in seconds since 1970.
    """

    def __init__(self, trail: Trail, message_ids: Sequence[str], *, now: float, until: float) -> None:
        self._trail = trail
        self._now = now
        self._until = until
        self._found = trail.read(message_ids)

    def spans(self, message_id: str, start: int, stop: int, *, within: Span | None = None) -> list[Span]:
        """Return what is left to do of the items `start` to `stop`, as the marks say it should be cut."""
        return spans(start, stop, self._found.get(message_id, {}), now=self._now, within=within)

    def has_suspects(self, message_id: str) -> bool:
        """Say whether a process ended with anything of a message in hand."""
        return any(mark.is_suspect(self._now) for mark in self._found.get(message_id, {}).values())

    def begin(self, message_id: str, span: Span) -> None:
        """Mark a span as in hand."""
        self._trail.write(message_id, span.unit, Mark(State.BEGUN, span.own, self._until))

    def write(self, message_id: str, span: Span) -> None:
        """Mark a span as on its way to a store."""
        self._trail.write(message_id, span.unit, Mark(State.WRITING, 0, self._until))

    def end(self, message_id: str, span: Span, state: State) -> None:
        """Mark how a span ended."""
        self._trail.write(message_id, span.unit, Mark(state))


def spans(start: int, stop: int, marks: Marks, *, now: float, within: Span | None = None) -> list[Span]:
    """Return what is left to do of the items `start` to `stop`, as the marks say it should be cut.

    within: a larger span that they are a part of.
    """
    mark = marks.get(f"{start}-{stop}", Mark(State.FREE))
    if mark.state is State.DONE:
        return []
    whole = Span(
        start,
        stop,
        own=mark.seen(now),
        sightings=mark.seen(now) + (within.sightings if within else 0),
        is_suspect=mark.is_suspect(now) or (within is not None and within.is_suspect),
        is_part=within is not None,
    )
    if stop - start == 1 or not (mark.state is State.SPLIT or mark.is_suspect(now)):
        return [whole]
    step = math.ceil((stop - start) / _PARTS)
    return [
        span
        for first in range(start, stop, step)
        for span in spans(first, min(first + step, stop), marks, now=now, within=whole)
    ]
