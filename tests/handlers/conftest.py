"""The real system on this machine: unchanged handlers in child processes, emulated AWS, Redis, the real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.settings import LocalSettings
from local.system import LocalSystem


@pytest.fixture(scope="session")
def system(default_artifact: Path) -> Iterator[LocalSystem]:
    """One running system for all tests of this folder. Redis is redis-server where there is one, else fakeredis."""
    with LocalSystem(LocalSettings(default_artifact, threads=2), report=lambda _: None) as running:
        yield running
