"""The systems that are still running. Who fails is noted with the reason, and leaves; the others go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.process import SystemFailedError, SystemProcess
from benchmarks.systems import System

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ready:
    """A system that was set up. python: its interpreter. megabytes: what its packages and its model take on disk."""

    system: System
    python: Path
    model: Path
    versions: Mapping[str, str] = field(default_factory=dict)
    installed_megabytes: float = 0.0
    model_megabytes: float = 0.0


Start = Callable[[Ready], SystemProcess]


class Lineup:
    """Running systems by name. Use as a context manager: their processes start and end with it.

    failed: why systems are out, by name; added to.
    """

    def __init__(self, entries: Iterable[Ready], start: Start, failed: dict[str, str]) -> None:
        self.failed = failed
        self._entries = entries
        self._start = start
        self._stack = ExitStack()
        self._processes: dict[str, SystemProcess] = {}

    @property
    def names(self) -> list[str]:
        """Those that have not failed so far."""
        return list(self._processes)

    def ask(self, name: str, do: str, **fields: Any) -> Answer | None:
        """Return a system's answer; None, and the system is out, if it has none."""
        if name not in self._processes:
            return None
        try:
            return self._processes[name].ask(do, **fields)
        except SystemFailedError as error:
            self._processes.pop(name).close()
            note_failure(self.failed, name, error)
            return None

    def __enter__(self) -> Self:
        with self._stack as starting:
            for entry in self._entries:
                name = entry.system.name
                self._processes[name] = starting.enter_context(self._start(entry))
                self.ask(name, "load")
            # All are up: from here on they end with this object, not with the block.
            self._stack = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def note_failure(failed: dict[str, str], name: str, error: SystemFailedError) -> None:
    """Keep the first reason why a system is out, and say it."""
    failed.setdefault(name, str(error))
    print(f"FAILED     {name}: {error}", file=sys.stderr)
