"""The packs of the small random models, written once, and calls that are right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from native_calls import OK, Encoding, Opening
from native_models import DESIGNS, write_model

from embakery.engines.native.library import default_library


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    return {design.name: write_model(design, folder / f"{design.name}.pack") for design in DESIGNS}


@pytest.fixture
def opening(packs: dict[str, Path]) -> Opening:
    """The model with most of what a model can have: loud units, a padding token, five poolings."""
    return Opening(packs["head64"])


@pytest.fixture
def encoding(packs: dict[str, Path]) -> Iterator[Encoding]:
    """Three texts for a model of 49 units, 50 tokens, 80 positions, 2 types and vectors of 98."""
    opened = Opening(packs["head7"])
    status, handle = opened.open()
    assert status == OK
    yield Encoding(handle, 98, [1, 2, 3, 4, 5, 49, 0, 48], [5, 1, 2])
    default_library().calls.embk_close(handle)
