"""Which messages of a batch are worked on together, and which alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embakery.opened import Opened


@dataclass(frozen=True, slots=True)
class Lane:
    """Messages that keep their order: a group of a FIFO queue, or one message of a standard one."""

    messages: Sequence[Opened]

    @property
    def is_ordered(self) -> bool:
        """Whether it is a group: nothing in it may be left for later."""
        return self.messages[0].received.group_id is not None

    @property
    def came_before(self) -> bool:
        """Whether any of it was received before."""
        return any(opened.received.receive_count > 1 for opened in self.messages)

    @property
    def is_isolated(self) -> bool:
        """Whether it is worked on alone. One message that must be takes its group along."""
        return self.came_before or any(opened.source is not None for opened in self.messages)

    @property
    def size(self) -> int:
        """Characters of its texts, bytes of its payloads."""
        return sum(opened.size for opened in self.messages)


def lanes(messages: Sequence[Opened]) -> list[Lane]:
    """Sort a batch's messages into lanes, in the order of their first messages."""
    found: dict[tuple[str, str], list[Opened]] = {}
    for opened in messages:
        group_id = opened.received.group_id
        key = ("message", opened.message_id) if group_id is None else ("group", group_id)
        found.setdefault(key, []).append(opened)
    return [Lane(lane) for lane in found.values()]
