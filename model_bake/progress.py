"""How a bake tells what it is doing. The command line draws it; everybody else may leave it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Report(Protocol):
    """Where a bake reports to."""

    def say(self, step: str, text: str) -> None:
        """Tell of one finished or short step."""

    def progress(self, step: str, total: int) -> AbstractContextManager[Advance]:
        """Begin a step of `total` parts; yields the function that advances it by n."""


class Silent:
    """Reports nothing."""

    def say(self, step: str, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def progress(self, step: str, total: int) -> Iterator[Advance]:  # noqa: ARG002 - the protocol's
        """Show nothing."""
        yield lambda _: None


SILENT = Silent()
