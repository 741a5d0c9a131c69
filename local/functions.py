"""A Lambda-like function: the unchanged handler in child processes, one per concurrent invocation."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from local.environment import base_environment
from local.errors import FunctionCrashedError
from local.hosts import FunctionHost, Invocation, LogSink
from local.invocations import (
    Concurrency,
    FunctionStatistics,
    decode_response,
    encode_event,
    function_arn,
    log_stream_name,
    reserved_environment,
)

__all__ = ["FunctionStatistics", "LocalFunction"]

_CLOSE_GRACE_SECONDS = 5.0


class _Slot:
    """Room for one concurrent invocation, and the process kept warm in it."""

    host: FunctionHost | None = None


class LocalFunction:
    """A function under Lambda's contract. Threads may invoke it concurrently, up to `concurrency` at a time."""

    def __init__(
        self,
        name: str,
        *,
        handler: str,
        env: Mapping[str, str],
        logs: LogSink,
        timeout_seconds: float = 60.0,
        memory_mb: int = 1769,
        concurrency: int = 1,
        init_timeout_seconds: float = 60.0,
        env_of_start: Callable[[int], Mapping[str, str]] | None = None,
    ) -> None:
        """Describe the function; no process starts before `warm` or `invoke`.

        `handler` is `package.module.function`; `env` is laid over this process's environment, and over that, for one
        process, what `env_of_start` says for its cold start's number (1 for the first): a fault that one start meets
        and the next does not.
        """
        self.name = name
        self.timeout_seconds = timeout_seconds
        self._environment = base_environment(os.environ) | dict(env)
        self._reserved = reserved_environment(name, handler, memory_mb)
        self._env_of_start = env_of_start
        self._logs = logs
        self._init_timeout_seconds = init_timeout_seconds
        self._concurrency = Concurrency(name, [_Slot() for _ in range(concurrency)])

    @property
    def statistics(self) -> FunctionStatistics:
        """What happened so far."""
        return self._concurrency.statistics

    def host_pids(self) -> list[int]:
        """Return the process ids of the warm hosts."""
        hosts = [slot.host for slot in self._concurrency.slots]
        return [host.pid for host in hosts if host is not None and host.is_running()]

    def warm(self, count: int = 1) -> None:
        """Start `count` processes ahead of their first invocation. Raises what a cold start in `invoke` would."""
        with contextlib.ExitStack() as held:
            for slot in [held.enter_context(self._concurrency.slot(wait_seconds=0)) for _ in range(count)]:
                self._warm_host(slot)

    def invoke(self, event: object, *, wait_seconds: float = 0.0) -> Any:
        """Run the handler on `event` and return its response, both through JSON.

        With no slot free, waits up to `wait_seconds`. Raises ThrottledError, PayloadTooLargeError, FunctionError,
        FunctionInitError, FunctionTimeoutError, FunctionCrashedError; TypeError if the event is not JSON.
        """
        invocation = Invocation(
            request_id=str(uuid.uuid4()),
            function_arn=function_arn(self.name),
            event_json=encode_event(self.name, event),
            timeout_seconds=self.timeout_seconds,
        )
        with self._concurrency.slot(wait_seconds) as slot, self._concurrency.outcome_counted():
            return decode_response(self.name, self._warm_host(slot).run(invocation))

    def kill_one(self) -> int | None:
        """Kill, as a fault would, the process of the first busy slot and all it started; return its process id.

        Its invocation, or if that has just ended the next one, meets the loss: FunctionCrashedError, or a cold start.
        Returns None, and does nothing, if no slot is busy with a process that still runs. For any thread.
        """
        for slot in self._concurrency.busy():
            host = slot.host
            if host is not None and host.interrupt():
                return host.pid
        return None

    def close(self) -> None:
        """End every process. An invocation in flight sees its process crash: stop the callers first."""
        self._concurrency.close()
        for slot in self._concurrency.busy():
            if slot.host is not None:
                slot.host.interrupt()
        for slot in self._concurrency.drain(_CLOSE_GRACE_SECONDS):
            host, slot.host = slot.host, None
            if host is not None:
                host.close()

    def _warm_host(self, slot: _Slot) -> FunctionHost:
        """Return the slot's warm process, or start one: the first time, and after a crash or a timeout."""
        if slot.host is not None and slot.host.is_running():
            return slot.host
        if slot.host is not None:
            slot.host.kill()
        environment = self._environment_of_next_start()
        try:
            slot.host = FunctionHost(self.name, environment=environment, logs=self._logs)
        except OSError as error:
            # No process or no descriptor left on this machine: whoever invoked it gets an error of a function.
            raise FunctionCrashedError(self.name, f"init: no process could be started: {error.strerror}") from error
        slot.host.wait_until_ready(timeout_seconds=self._init_timeout_seconds)
        return slot.host

    def _environment_of_next_start(self) -> dict[str, str]:
        number = self._concurrency.count("cold_starts")
        extra = self._env_of_start(number) if self._env_of_start is not None else {}
        return self._environment | dict(extra) | self._reserved | {"AWS_LAMBDA_LOG_STREAM_NAME": log_stream_name()}
