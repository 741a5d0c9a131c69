"""Finds the item that kills the process, and lets its neighbours go on.

A document that ends the process (out of memory, a crash in native code, an endless loop until the timeout) takes its
whole batch down, and its batch comes again. So what comes again is worked on in units, each marked before it is begun
and after it is done: a mark without its end tells, to whoever takes the message next, what was in hand at the kill.

    a unit that was killed      is cut into smaller ones, which come after everything else
    an item seen twice          at a kill, once alone, fails alone: it is not tried again
    a unit that was done        is not done again

Marks are kept by message, outside of the process: its memory is what a kill takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

DONE = -1
"""The unit's results are written."""
SPLIT = -2
"""The unit did not get through in the time there was: it is to be cut."""
# More marks than this for one level would make a message's marks large; fewer, its search long.
_PARTS = 50
_POISON_SIGHTINGS = 2

Marks = Mapping[str, int]
"""Of one message: by unit, DONE, SPLIT, or how often it was begun without an end."""


class Trail(Protocol):
    """Where marks are kept. Never raises: a trail that cannot be reached is one without marks."""

    def read(self, message_ids: Sequence[str]) -> dict[str, Marks]:
        """Return the marks of those messages that have any."""

    def begin(self, message_id: str, unit: str) -> None:
        """Count one more beginning of a unit."""

    def end(self, message_id: str, unit: str, mark: int) -> None:
        """Take the beginning back: the process survived it. mark: DONE, SPLIT, or 0 for a unit to be tried again."""


class NoTrail:
    """No memory: units are worked on alone, smallest first, and nothing is known of earlier tries."""

    def read(self, _: Sequence[str]) -> dict[str, Marks]:
        """Return nothing."""
        return {}

    def begin(self, message_id: str, unit: str) -> None:
        """Do nothing."""

    def end(self, message_id: str, unit: str, mark: int) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """The items `start` to `stop` of a message. sightings: kills at which they were in hand; own: as just this span."""

    start: int
    stop: int
    sightings: int = 0
    own: int = 0

    @property
    def unit(self) -> str:
        """The name under which it is marked."""
        return f"{self.start}-{self.stop}"

    @property
    def is_suspect(self) -> bool:
        """Whether it was in hand at a kill."""
        return self.sightings > 0

    @property
    def is_poison(self) -> bool:
        """Whether it is one item that was seen at kills too often, at one of them alone."""
        return self.stop - self.start == 1 and self.own > 0 and self.sightings >= _POISON_SIGHTINGS


def spans(start: int, stop: int, marks: Marks, *, sightings: int = 0) -> list[Span]:
    """Return what is left to do of the items `start` to `stop`, as the marks say it should be cut."""
    whole = Span(start, stop)
    mark = marks.get(whole.unit, 0)
    if mark == DONE:
        return []
    own = max(0, mark)
    whole = Span(start, stop, sightings + own, own)
    if stop - start == 1 or mark == 0:
        return [whole]
    step = math.ceil((stop - start) / _PARTS)
    return [
        span
        for first in range(start, stop, step)
        for span in spans(first, min(first + step, stop), marks, sightings=whole.sightings)
    ]


def has_suspects(marks: Marks) -> bool:
    """Say whether anything of a message was in hand at a kill."""
    return any(mark > 0 for mark in marks.values())
