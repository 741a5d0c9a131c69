"""Items into batches, by count and by bytes."""

from __future__ import annotations

import pytest

from embakery.batches import batches


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1, 1, 1, 1, 1, 1, 1], [[1, 1, 1], [1, 1, 1], [1]]),
        ([4, 6, 1], [[4, 6], [1]]),
        ([5, 6, 5], [[5], [6], [5]]),
        ([1, 99, 1], [[1], [99], [1]]),
    ],
)
def test_order_is_kept_and_both_bounds_hold(sizes: list[int], expected: list[list[int]]) -> None:
    assert list(batches(sizes, size=lambda size: size, max_items=3, max_bytes=10)) == expected
