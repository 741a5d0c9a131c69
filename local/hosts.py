"""One function host process, seen from its parent: started cold, kept warm, killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Protocol

from local.errors import FunctionCrashedError, FunctionError, FunctionInitError, FunctionTimeoutError
from local.frames import DeadlinePassedError, Frame, Kind, PeerGoneError, read_frame, write_frame
from local.invocations import context_fields, timeout_message

_EXIT_GRACE_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.0005
_LONGEST_PAUSE_SECONDS = 0.02


class LogSink(Protocol):
    """Takes what functions print."""

    def line(self, source: str, line: str) -> None:
        """Take one line, without its newline, printed by the function named `source`."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One invocation: the event as JSON, and what the context says of it."""

    request_id: str
    function_arn: str
    event_json: bytes
    timeout_seconds: float

    def frame(self) -> Frame:
        """Frame it; the time starts to run."""
        context = context_fields(self.request_id, self.function_arn, timeout_seconds=self.timeout_seconds)
        return Frame(Kind.INVOKE, b'{"context":%s,"event":%s}' % (json.dumps(context).encode(), self.event_json))


class FunctionHost:
    """A child process with the handler in it. One thread uses it at a time; `interrupt` may come from any."""

    def __init__(self, function_name: str, *, environment: Mapping[str, str], logs: LogSink) -> None:
        self._function_name = function_name
        invocations, self._invocations = os.pipe()
        self._responses, responses = os.pipe()
        lifeline, self._lifeline = os.pipe()
        theirs = (invocations, responses, lifeline)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
                [sys.executable, "-m", "local.runtime", *map(str, theirs)],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=theirs,
                # A group of its own: Ctrl-C does not reach it, and a kill reaches what the handler started.
                start_new_session=True,
            )
        except OSError:
            self._close_pipes()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        # Reaping and killing exclude each other: once reaped, the pid may be someone else's.
        self._reaping = threading.Lock()
        self._killed = False
        # A write to a stuck host must meet the deadline too.
        os.set_blocking(self._invocations, False)
        self._pumps = [self._pump(stream, logs) for stream in (self._process.stdout, self._process.stderr) if stream]

    @property
    def pid(self) -> int:
        """The host's process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Say whether the process still runs."""
        return self._status() is None

    def wait_until_ready(self, *, timeout_seconds: float) -> None:
        """Wait until the handler is loaded. Raises FunctionInitError, FunctionTimeoutError or FunctionCrashedError."""
        with self._deaths_named("init", timeout_seconds):
            frame = read_frame(self._responses, deadline=time.monotonic() + timeout_seconds)
        if frame.kind is Kind.ERROR:
            self.kill()
            raise _error_of(FunctionInitError, self._function_name, frame)

    def run(self, invocation: Invocation) -> bytes:
        """Run one invocation and return the response's JSON.

        Raises FunctionError; or FunctionTimeoutError or FunctionCrashedError, after which the host is gone.
        """
        deadline = time.monotonic() + invocation.timeout_seconds
        with self._deaths_named(f"request {invocation.request_id}", invocation.timeout_seconds):
            write_frame(self._invocations, invocation.frame(), deadline=deadline)
            frame = read_frame(self._responses, deadline=deadline)
        if frame.kind is Kind.ERROR:
            raise _error_of(FunctionError, self._function_name, frame)
        return frame.payload

    def interrupt(self) -> bool:
        """Kill the process and all it started, and return True; whoever waits for its response sees it crash.

        Does nothing if it has ended or was killed before, and returns False.
        """
        with self._reaping:
            if self._killed or self._process.returncode is not None or _has_ended(self._process):
                return False
            self._killed = True
            self._kill_group()
            return True

    def kill(self) -> int:
        """Kill the process, read the rest of its logs and return its exit status (negative: the signal)."""
        self.interrupt()
        return self._reap()

    def close(self) -> None:
        """Let the idle process end by itself, then kill what is left."""
        if self._invocations >= 0:
            os.close(self._invocations)
            self._invocations = -1
        self._wait(_EXIT_GRACE_SECONDS)
        self.kill()

    @contextlib.contextmanager
    def _deaths_named(self, doing: str, timeout_seconds: float) -> Iterator[None]:
        try:
            yield
        except DeadlinePassedError as error:
            self.kill()
            raise FunctionTimeoutError(self._function_name, timeout_message(doing, timeout_seconds)) from error
        except PeerGoneError as error:
            message = f"{doing}: Runtime exited with status {self._exit_status()}"
            raise FunctionCrashedError(self._function_name, message) from error
        except BaseException:
            # Interrupted half-way through a frame: what comes next on the pipe would belong to this invocation.
            self.kill()
            raise

    def _exit_status(self) -> int:
        # It closed its pipe, so it is ending: its own status, not our signal's, is worth a moment.
        self._wait(_EXIT_GRACE_SECONDS)
        return self.kill()

    def _reap(self) -> int:
        status = self._wait(None)
        for pump in self._pumps:
            pump.join(_EXIT_GRACE_SECONDS)
        self._close_pipes()
        return status

    def _wait(self, timeout_seconds: float | None) -> int:
        """Return the exit status when the process has ended; -1 if it has not by then."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause = _FIRST_PAUSE_SECONDS
        while (status := self._status()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                return -1
            # Never within the lock: `interrupt` must not wait for us.
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
        return status

    def _status(self) -> int | None:
        """Return the exit status, None while it runs. What an ended process started is killed before it is reaped."""
        with self._reaping:
            if self._process.returncode is None and _has_ended(self._process):
                if self._process.returncode is None:
                    self._kill_group()
                self._process.wait()
            return self._process.returncode

    def _kill_group(self) -> None:
        # macOS says EPERM for a group of zombies.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _close_pipes(self) -> None:
        for descriptor in (self._invocations, self._responses, self._lifeline):
            if descriptor >= 0:
                os.close(descriptor)
        self._invocations = self._responses = self._lifeline = -1

    def _pump(self, stream: IO[bytes], logs: LogSink) -> threading.Thread:
        thread = threading.Thread(target=_read_lines, args=(stream, self._function_name, logs), daemon=True)
        thread.start()
        return thread


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Say whether our child has ended, and leave it unreaped: its pid, and its group's, stay its own."""
    if sys.platform == "darwin" and sys.version_info < (3, 13):
        # No waitid there: reaped at once, so what it left behind is not killed.
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _read_lines(stream: IO[bytes], source: str, logs: LogSink) -> None:
    with stream:
        for line in stream:
            logs.line(source, line.decode(errors="replace").rstrip("\r\n"))


def _error_of(error: type[FunctionError], function_name: str, frame: Frame) -> FunctionError:
    document = json.loads(frame.payload)
    return error(
        function_name,
        error_type=document["errorType"],
        error_message=document["errorMessage"],
        stack_trace=document["stackTrace"],
    )
