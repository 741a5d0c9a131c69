"""What every folder of tests may ask for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from system_tools import need

ROOT = Path(__file__).parent.parent
DEFAULT_ARTIFACT = ROOT / "build" / "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def default_artifact() -> Path:
    """The baked default model; `make test` bakes it beforehand, a bare pytest does it here."""
    if not (DEFAULT_ARTIFACT / "manifest.json").exists():
        command = [sys.executable, "-m", "embakery", "bake", "all-MiniLM-L6-v2", "--out", str(DEFAULT_ARTIFACT)]
        subprocess.run(command, check=True, cwd=ROOT)
    return DEFAULT_ARTIFACT


@pytest.fixture(scope="session")
def redis_server() -> str:
    """The path of redis-server. Without it tests skip, but in CI they fail."""
    return need("redis-server")
