"""A batch written in parts: each part is taken or not by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from embakery.errors import StoreUnavailableError
from embakery.results import WriteOutcome

Entry = TypeVar("Entry")


def write_parts(
    count: int,
    groups: Mapping[str, list[tuple[int, Entry]]],
    write: Callable[[str, list[Entry]], list[WriteOutcome]],
    *,
    split: Callable[[list[tuple[int, Entry]]], Iterable[list[tuple[int, Entry]]]] = lambda group: [group],
) -> list[WriteOutcome]:
    """Write the entries of each group, and say what became of every place of a batch of `count`.

    groups: by name (a folder, a collection, an index), entries with their places in the batch; a place in none of them
    has failed. split: into what fits a request. write: takes a group's name and the entries of one part.
    A part for which it raises StoreUnavailableError fails alone; if every part did, the first of the errors is raised.
    """
    outcomes = [WriteOutcome.FAILED] * count
    parts = [(name, part) for name, group in groups.items() for part in split(group)]
    errors: list[StoreUnavailableError] = []
    for name, part in parts:
        try:
            written = write(name, [entry for _, entry in part])
        except StoreUnavailableError as error:
            errors.append(error)
            continue
        for (place, _), outcome in zip(part, written, strict=True):
            outcomes[place] = outcome
    if errors and len(errors) == len(parts):
        raise errors[0]
    return outcomes
