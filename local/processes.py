"""Child servers: started on a free loopback port, waited for until they answer, ended by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local.errors import ServerStartError

LOOPBACK = "127.0.0.1"
_STARTS = 3
_LOG_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """How to start a server. `command` and `environment` take the port; `answers` says whether it really serves."""

    name: str
    description: str
    command: Callable[[int], Sequence[str]]
    environment: Callable[[int], Mapping[str, str]]
    answers: Callable[[int], bool]


class ServerProcess:
    """A running child server. Ends with this process at the latest (see `local.lifeline`)."""

    def __init__(self, spec: ServerSpec, *, port: int, log_file: Path) -> None:
        """Start it, without waiting for it to answer."""
        self.name = spec.name
        self.description = spec.description
        self.port = port
        self.log_file = log_file
        self._spec = spec
        self._process, self._lifeline = self._launch()

    @property
    def pid(self) -> int:
        """The server's own process id."""
        return self._process.pid

    @property
    def address(self) -> str:
        """Host and port, such as `127.0.0.1:39121`."""
        return f"{LOOPBACK}:{self.port}"

    def is_running(self) -> bool:
        """Say whether the process still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the server with SIGKILL, as a fault would, and wait until it is gone."""
        self._process.kill()
        self._reap(timeout=None)

    def stop(self, *, timeout_seconds: float = 5.0) -> None:
        """End the server with SIGTERM, then SIGKILL. Does nothing if it has ended."""
        if self.is_running():
            self._process.send_signal(signal.SIGTERM)
        try:
            self._reap(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self, *, timeout_seconds: float = 30.0) -> None:
        """Start the server afresh on the same port, and wait until it answers. Raises ServerStartError."""
        self.stop()
        self._process, self._lifeline = self._launch()
        if not self.comes_up(timeout_seconds):
            raise self.start_error(timeout_seconds)

    def comes_up(self, timeout_seconds: float) -> bool:
        """Wait until the server answers; return whether it did."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.is_running():
            # Asked again after the answer: had another process taken the port, ours would have ended.
            if self._spec.answers(self.port) and self.is_running():
                return True
            time.sleep(0.02)
        return False

    def start_error(self, timeout_seconds: float) -> ServerStartError:
        """End the server, which did not come up, and return the error that says so."""
        problem = f"did not answer within {timeout_seconds:g} s" if self.is_running() else "ended at once"
        self.kill()
        return ServerStartError(f"{self.name} ({self.description}) {problem}; the end of its log:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines that the server wrote."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def _launch(self) -> tuple[subprocess.Popen[bytes], int]:
        """Start the process; return it and our end of its lifeline."""
        reading_end, lifeline = os.pipe()
        try:
            with self.log_file.open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 - the command is the project's own
                    [sys.executable, "-m", "local.lifeline", str(reading_end), *self._spec.command(self.port)],
                    env=dict(self._spec.environment(self.port)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(reading_end,),
                    # A session of its own: Ctrl-C reaches us alone, and we end the parts in order.
                    start_new_session=True,
                )
        except OSError:
            os.close(lifeline)
            raise
        finally:
            os.close(reading_end)
        return process, lifeline

    def _reap(self, *, timeout: float | None) -> None:
        self._process.wait(timeout)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def start_server(
    spec: ServerSpec, *, folder: Path, port: int | None = None, timeout_seconds: float = 30.0
) -> ServerProcess:
    """Start the server on `port`, or on a free one, and return when it answers.

    A free port can be taken between choosing and binding, so a server that ends at once is tried on others.
    Raises ServerStartError.
    """
    tries = _STARTS if port is None else 1
    while True:
        server = ServerProcess(spec, port=port or free_port(), log_file=folder / f"{spec.name}.log")
        try:
            if server.comes_up(timeout_seconds):
                return server
        except BaseException:
            server.kill()
            raise
        tries -= 1
        if server.is_running() or tries == 0:
            raise server.start_error(timeout_seconds)
        server.kill()


def free_port() -> int:
    """Return a TCP port that was free on the loopback interface a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
