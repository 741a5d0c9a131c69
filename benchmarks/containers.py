"""A function's container as Lambda runs one: its memory and CPU, its user and environment, a read-only file system.

Lambda's isolation is not imitated, nor how it fetches an image. CPU is a quota in periods of 100 ms (Docker's), from
the first instruction on: Lambda is known to give a whole CPU during INIT, which is kinder to the small sizes.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Self

from benchmarks.containers_api import Answer, RuntimeApi
from benchmarks.containers_memory import Memory, read_cpu_seconds, read_memory
from benchmarks.process import SystemFailedError

MEGABYTES_PER_CPU = 1769
# As Lambda runs functions.
_USER = "993:990"
_LOG_LINES = 15
_ERROR_LINES = 8
_LOOK_SECONDS = 1.0


class ContainerDiedError(SystemFailedError):
    """A container ended before it answered. `for_memory` says whether it was killed for its use of memory."""

    def __init__(self, message: str, *, for_memory: bool) -> None:
        super().__init__(message)
        self.for_memory = for_memory


@dataclass(frozen=True, slots=True)
class Size:
    """What a function is given."""

    memory_mb: int
    cpus: float

    @classmethod
    def of(cls, memory_mb: int) -> Size:
        """Return the CPU that Lambda gives for this memory, as far as this machine has it."""
        return cls(memory_mb, round(min(memory_mb / MEGABYTES_PER_CPU, os.cpu_count() or 1), 3))


class Container:
    """One container, from `start` to the end of the context. Not started by its making."""

    def __init__(
        self, image: str, handler: str, *, size: Size, api: RuntimeApi, environment: Mapping[str, str] | None = None
    ) -> None:
        """Create it. Raises SystemFailedError."""
        self.size = size
        self._api = api
        variables = function_environment(handler, size=size, api=api.address) | dict(environment or {})
        options = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        memory = f"{size.memory_mb}m"
        options += ["--memory", memory, "--memory-swap", memory, "--cpus", str(size.cpus)]
        options += ["--read-only", "--tmpfs", "/tmp:size=512m", "--user", _USER]  # noqa: S108 - the container's own
        options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host"]
        self._id = docker("create", *options, image, handler)

    def start(self) -> None:
        """Start it. Raises SystemFailedError."""
        docker("start", self._id)

    def answer(self, *, timeout_seconds: float) -> Answer:
        """Wait for the function's next answer. Raises ContainerDiedError, SystemFailedError."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            answer = self._api.next_answer(wait_seconds=_LOOK_SECONDS)
            if answer is not None and answer.kind != "response":
                raise SystemFailedError(f"{answer.kind}: {answer.body.decode(errors='replace')[:500]}")
            if answer is not None:
                return answer
            self._check_alive()
        raise SystemFailedError(f"no answer within {timeout_seconds:g} s; its log ends with {self._log_tail()!r}")

    def invoke(self, event: object, *, timeout_seconds: float) -> Answer:
        """Give the function an event and wait for the answer. Raises what `answer` does."""
        self._api.give(event)
        return self.answer(timeout_seconds=timeout_seconds)

    @property
    def started_ns(self) -> int:
        """When its program began, by Docker; within some 2 ms, as trials against the program's own clock showed."""
        return nanoseconds(self._inspect("{{.State.StartedAt}}"))

    @cached_property
    def pid(self) -> int:
        """The process id of its first process."""
        return int(self._inspect("{{.State.Pid}}"))

    def memory(self) -> Memory:
        """Return its use of memory so far."""
        return read_memory(self.pid)

    def cpu_seconds(self) -> float:
        """Return its use of CPU so far."""
        return read_cpu_seconds(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        docker("rm", "--force", self._id)

    def _check_alive(self) -> None:
        running, for_memory, code = self._inspect("{{.State.Running}} {{.State.OOMKilled}} {{.State.ExitCode}}").split()
        if for_memory == "true":
            raise ContainerDiedError(f"killed at {self.size.memory_mb} MB", for_memory=True)
        if running != "true":
            raise ContainerDiedError(f"exit {code}: {self._log_tail()}", for_memory=False)

    def _inspect(self, what: str) -> str:
        return docker("inspect", "--format", what, self._id)

    def _log_tail(self) -> str:
        log = ["docker", "logs", "--tail", str(_LOG_LINES), self._id]
        done = subprocess.run(log, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
        return done.stdout.strip()


def docker(*arguments: str) -> str:
    """Run a command of Docker's client; return what it prints. Raises SystemFailedError."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise SystemFailedError(f"docker cannot be run: {error}") from error
    if done.returncode != 0:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise SystemFailedError(f"docker {arguments[0]}: {'; '.join(said[-_ERROR_LINES:])}")
    return done.stdout.strip()


def function_environment(handler: str, *, size: Size, api: str) -> dict[str, str]:
    """Return what Lambda sets for a function of an image. The credentials are nobody's."""
    return {
        "_HANDLER": handler,
        "AWS_LAMBDA_RUNTIME_API": api,
        "AWS_LAMBDA_FUNCTION_NAME": "embakery",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(size.memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/embakery",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef",
        "AWS_EXECUTION_ENV": "AWS_Lambda_Image",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "LAMBDA_TASK_ROOT": "/var/task",
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "TZ": ":UTC",
        # Instrumentation that template.yaml sets for our functions, which no peer reads.
        "POWERTOOLS_SERVICE_NAME": "embakery",
        "POWERTOOLS_METRICS_NAMESPACE": "Embakery",
        "LOG_LEVEL": "INFO",
    }


def nanoseconds(moment: str) -> int:
    """Return nanoseconds since the epoch of a moment as Docker writes it: 2026-11-25T07:51:55.840123456Z."""
    found = re.fullmatch(r"(.{19})(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", moment)
    if found is None:
        raise ValueError(f"not a moment: {moment!r}")
    whole = datetime.fromisoformat(found.group(1) + found.group(3).replace("Z", "+00:00"))
    return round(whole.timestamp()) * 10**9 + int((found.group(2) or "").ljust(9, "0"))
