"""Emulated AWS and Redis, shared by the tests of this folder that run functions as images do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lambda_emulator import Emulated, emulated, emulator
from lambda_world import API, QUEUE, LambdaWorld, lambda_world

from embakery import Embedder


@pytest.fixture(scope="session")
def world(default_artifact: Path) -> Iterator[LambdaWorld]:
    """Servers, and the environment that leads a function to them. Skips where there is no emulator of the runtime."""
    emulator()
    with lambda_world(default_artifact) as running:
        yield running


@pytest.fixture(scope="session")
def embedder(default_artifact: Path) -> Embedder:
    """The library with the same artifact: whose bits a function must give."""
    return Embedder.load(default_artifact, threads=1)


@pytest.fixture(scope="module")
def queue(world: LambdaWorld) -> Iterator[Emulated]:
    """The queue function, its log this module's alone."""
    with emulated(QUEUE, world.env) as function:
        yield function


@pytest.fixture(scope="module")
def api(world: LambdaWorld) -> Iterator[Emulated]:
    """The API's function, its log this module's alone."""
    with emulated(API, world.env) as function:
        yield function
