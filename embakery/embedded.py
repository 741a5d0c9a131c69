"""What embedding a text comes to: its vector and how it came about, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from embakery.cache import CacheCounts
from embakery.errors import DeadlineExceededError, EmbakeryError
from embakery.rounds import Deadline
from embakery.texts import TokenIds, TokenizedText
from embakery.vectors import Vector


@dataclass(frozen=True, slots=True)
class Embedded:
    """A text's vector, float32 (dim,), and how it came about."""

    vector: Vector
    tokens: int
    truncated: bool
    cached: bool


@dataclass(slots=True)
class EmbedCounts:
    """What one call did, for metrics: texts by where their vector came from, and the cache's troubles."""

    from_cache: int = 0
    not_from_cache: int = 0
    cache: CacheCounts = field(default_factory=CacheCounts)

    def add(self, items: Sequence[Embedded | EmbakeryError]) -> None:
        """Count finished items."""
        embedded = [item for item in items if isinstance(item, Embedded)]
        cached = sum(item.cached for item in embedded)
        self.from_cache += cached
        self.not_from_cache += len(embedded) - cached


@dataclass(frozen=True, slots=True)
class Found:
    """Vectors by token ids, those from the cache and those encoded, or why there is none."""

    cached: dict[TokenIds, Vector] = field(default_factory=dict)
    encoded: dict[TokenIds, Vector | EmbakeryError] = field(default_factory=dict)

    def __contains__(self, ids: TokenIds) -> bool:
        """Say whether it is known what became of a text."""
        return ids in self.cached or ids in self.encoded

    def embedded(self, item: TokenizedText) -> Embedded | EmbakeryError:
        """Return a text's vector, or why there is none."""
        is_cached = item.ids in self.cached
        vector = self.cached[item.ids] if is_cached else self.encoded[item.ids]
        if isinstance(vector, EmbakeryError):
            return vector
        return Embedded(vector, tokens=len(item.ids), truncated=item.truncated, cached=is_cached)


def is_late(items: Sequence[Embedded | EmbakeryError], deadline: Deadline | None) -> bool:
    """Say whether time ran out for one of the items, or has since."""
    if deadline is None:
        return False
    return any(isinstance(item, DeadlineExceededError) for item in items) or deadline.seconds_left() <= 0
