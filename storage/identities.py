"""What a result is about, and the name of that where a store takes no text of a caller's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

from embakery.results import Result, WriteOutcome

Identity = tuple[str, str, str, str]
"""Tenant, kind, id, space."""

_SPACE_CHARACTERS = 16


def identity(result: Result) -> Identity:
    """Name what a result is about: two results of one identity are versions of each other."""
    return result.tenant, result.kind, result.id, result.space_id


def identity_digest(result: Result) -> str:
    """Name the same in 64 hex digits: ids hold any character, and are longer than some stores' keys."""
    return hashlib.sha256(json.dumps(identity(result)).encode()).hexdigest()


def write_newest(results: Sequence[Result], write: Callable[[list[Result]], list[WriteOutcome]]) -> list[WriteOutcome]:
    """Write of each identity in a batch the highest version alone, and say what became of every result.

    The others are superseded by it; where it failed, so have they: their messages come back too.
    """
    newest: dict[Identity, int] = {}
    for index, result in enumerate(results):
        known = newest.get(identity(result))
        if known is None or result.version > results[known].version:
            newest[identity(result)] = index
    places = sorted(newest.values())
    written = dict(zip(places, write([results[place] for place in places]), strict=True))
    return [_outcome(index, newest[identity(result)], written) for index, result in enumerate(results)]


def _outcome(index: int, winner: int, written: Mapping[int, WriteOutcome]) -> WriteOutcome:
    if index == winner or written[winner] is WriteOutcome.FAILED:
        return written[winner]
    return WriteOutcome.SUPERSEDED


def searched_set(name: str, result: Result) -> str:
    """Name the collection or index that a result belongs in.

    One for each space, since vectors of two spaces cannot be compared, and rankings apart, since they have no vector.
    A space id is 64 hex digits, too long for some stores' names; its first 16 tell spaces apart.
    """
    suffix = "-rankings" if result.kind == "rerank" else ""
    return f"{name}-{result.space_id[:_SPACE_CHARACTERS]}{suffix}"
