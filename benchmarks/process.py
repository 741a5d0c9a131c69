"""A system's process, from the driver's side. It runs only while it answers: otherwise it is stopped.

Several runtimes keep their threads spinning between calls. Stopping whoever is not asked (SIGSTOP, SIGCONT) lets them
all stay loaded without slowing the one that is measured.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_TIMEOUT_SECONDS = 900.0
_SHOWN_LOG_LINES = 3


class SystemFailedError(Exception):
    """A system could not be set up, or its process failed, died or fell silent. The others go on."""


class SystemProcess:
    """A running worker. Use as a context manager: the process group is killed at the end."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        cores: int | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own worker
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        if cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, sorted(os.sched_getaffinity(0))[:cores])
        self._received = b""
        self._closed = False

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def ask(self, do: str, *, timeout: float = _TIMEOUT_SECONDS, **fields: Any) -> dict[str, Any]:
        """Send a request, wait for its answer. Raises SystemFailedError."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._line(do, timeout))
        except BrokenPipeError:
            raise self._death(do) from None
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise SystemFailedError(f"{do}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Kill the process and all that it started. Once is enough: later its number may be another's."""
        if self._closed:
            return
        self._closed = True
        self._signal(signal.SIGKILL)
        with self._process:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, do: str, timeout: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(deadline - time.monotonic()):
                    raise SystemFailedError(f"{do}: no answer within {timeout:.0f} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise self._death(do)
                self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _death(self, do: str) -> SystemFailedError:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LOG_LINES:]
        return SystemFailedError(f"{do}: the process {how}" + "".join(f"; {line.strip()}" for line in said))

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
