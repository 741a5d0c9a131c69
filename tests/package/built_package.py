"""What the fixture `built` gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from package import Target


@dataclass(frozen=True)
class Built:
    """A package in `out`; `runtime` beside it holds what the managed runtime brings. said: the summary."""

    target: Target
    out: Path
    said: str

    @property
    def archive(self) -> Path:
        return self.out / "embakery.zip"

    @property
    def runtime(self) -> Path:
        return self.out / "runtime"
