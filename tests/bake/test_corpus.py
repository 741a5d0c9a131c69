"""The corpus that every Python installation carries."""

from __future__ import annotations

from embakery.texts import TextLimits, check_text
from model_bake.corpus import standard_library_passages


def test_it_is_large_distinct_and_fixed() -> None:
    passages = standard_library_passages(limit=2000)
    assert len(passages) == 2000
    assert len({passage.text for passage in passages}) == 2000
    assert passages == standard_library_passages(limit=2000)


def test_every_passage_can_be_embedded() -> None:
    for passage in standard_library_passages(limit=2000):
        assert check_text(passage.text, limits=TextLimits()) == passage.text
