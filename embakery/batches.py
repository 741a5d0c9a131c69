"""Parts that fit where both the items and their bytes are counted, as SQS counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def batches(
    items: Iterable[Item], *, size: Callable[[Item], int], max_items: int, max_bytes: int
) -> Iterator[list[Item]]:
    """Yield the items in order, in lists of at most `max_items` whose sizes sum to at most `max_bytes`.

    An item that is larger than that alone comes alone: whoever takes it says so.
    """
    batch: list[Item] = []
    total = 0
    for item in items:
        length = size(item)
        if batch and (len(batch) == max_items or total + length > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += length
    if batch:
        yield batch
