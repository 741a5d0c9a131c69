"""Work in rounds, with a look at the deadline between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

# Some seconds of work on one slow core, large enough to keep all cores busy.
ROUND_TOKENS = 8192


class Deadline(Protocol):
    """The time a caller has left."""

    def is_near(self) -> bool:
        """Say whether no new work should be begun."""


def rounds(lengths: Sequence[int]) -> list[list[int]]:
    """Split indices, in their order, into rounds of about ROUND_TOKENS tokens.

    In the order of arrival: where time runs out, whole messages are done and whole messages come again. The engine
    sorts by length within a round.
    """
    split: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if length > room:
            split.append([])
            room = ROUND_TOKENS
        split[-1].append(index)
        room -= length
    return split
