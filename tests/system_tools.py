"""Programs that the system's packages bring: a test that misses one skips here and fails in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def need(tool: str) -> str:
    """Return a program's path, or skip; in CI fail, because .ci/run installs it."""
    path = shutil.which(tool)
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{tool} is missing; .ci/run installs it")
    pytest.skip(f"{tool} is not on PATH")
